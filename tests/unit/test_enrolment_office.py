# SPDX-License-Identifier: Apache-2.0
"""The enrolment office: who gets in, who does not and why, by network and on a stick, and killed at every step."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.service import EnrolmentService
from appliance.keys.certificates import Authority, certificate_der, new_session
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment import boxside
from appliance.keys.enrolment.boxside import Papers
from appliance.keys.enrolment.documents import Challenge, Grant, Pending, Refusal, Waits, parse_answer
from appliance.keys.enrolment.hubside import FILE_VALIDITY_MS
from appliance.keys.enrolment.rules import BoxState
from appliance.keys.enrolment.voucher import new_voucher
from appliance.keys.registry import LiveRegistry, Registry
from appliance.keys.release import ReleaseRequest, add_signature, new_release
from appliance.keys.tpm.policy import DeviceRef
from appliance.keys.tpm.public import sha256
from appliance.peer.identity import prove_identity
from tests.boxes import DAY_MS, EK_KEYS, HUB, NOW_MS, OTHER, PEOPLE, PLANT, SimulatedBox, SimulatedKeeper, Site


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    """A hub whose own zone is enrolled."""
    site = Site(tmp_path).init()
    await site.own()
    return site


async def _reason(attempt: Awaitable[Any]) -> Reason:
    with pytest.raises(BsfgError) as refused:
        await attempt
    assert isinstance(refused.value, RefusedError | DeniedError)
    return refused.value.reason


def _registry(site: Site) -> Registry:
    return Registry.load(site.office.config.pki)


async def test_a_box_enrols_by_approval(site: Site) -> None:
    """It waits, is approved, and gets what it needs; both sides then know each other, and the same."""
    box = SimulatedBox()
    assert await site.enrol(box) == Pending(PLANT, box.fingerprint, Waits.APPROVAL)
    assert [each.fingerprint for each in site.office.pending()] == [box.fingerprint]
    assert PLANT not in _registry(site).device_cas
    approved = site.office.approve(box.fingerprint[:8])
    assert approved is not None
    assert approved.state is BoxState.ENROLLED
    grant = await site.enrol(box)
    assert isinstance(grant, Grant)
    assert box.installed == grant.device_ca
    own = Registry.load(site.box_folder())
    assert own.authorities(PLANT) == _registry(site).authorities(PLANT) == (grant.device_ca,)
    assert own.authorities(HUB) == _registry(site).authorities(HUB)
    assert len(own.authorities(HUB)) == 1
    assert await site.enrol(box) == grant, "asking again changes nothing"
    assert site.office.pending() == []


async def test_a_box_enrols_by_voucher_once(site: Site) -> None:
    """Without anybody at the hub; the voucher is spent, but not for the box that spent it."""
    box = SimulatedBox()
    voucher = site.voucher(box).render()
    grant = await site.enrol(box, Papers(voucher))
    assert isinstance(grant, Grant)
    assert await site.enrol(box, Papers(voucher)) == grant
    site.now_ms += 2 * DAY_MS
    assert await site.enrol(box, Papers(voucher)) == grant, "it matters no more, expired or not"
    again = SimulatedBox(ek=box.ek, key=box.key)
    assert await _reason(site.enrol(again, Papers(site.voucher(box, days=-1).render()))) is Reason.VOUCHER_EXPIRED
    site.now_ms = NOW_MS
    assert await _reason(site.enrol(again, Papers(voucher))) is Reason.VOUCHER_USED


async def test_a_voucher_that_does_not_hold_is_refused_with_its_reason(site: Site) -> None:
    """Another zone, another signer, expired, stolen; each in its own words, and nothing is left behind."""
    box, thief = SimulatedBox(), SimulatedBox(ek=EK_KEYS[1])
    expires = NOW_MS + DAY_MS
    stranger = ec.generate_private_key(ec.SECP256R1())
    cases = [
        (box, site.voucher(box, OTHER), Reason.BAD_VOUCHER),
        (box, new_voucher(stranger, PLANT, box.fingerprint, expires), Reason.BAD_VOUCHER),
        (box, site.voucher(box, days=-0.1), Reason.VOUCHER_EXPIRED),
        (thief, site.voucher(box), Reason.VOUCHER_FOREIGN),
    ]
    for asks, voucher, reason in cases:
        assert await _reason(site.enrol(asks, Papers(voucher.render()))) is reason
    assert await _reason(site.enrol(box, Papers(b"{}"))) is Reason.BAD_VOUCHER
    assert site.office.pending() == []
    assert isinstance(await site.enrol(box, Papers(site.voucher(box).render())), Grant)


async def test_a_zone_has_one_box_and_a_box_one_zone(site: Site) -> None:
    """Whoever comes second is told so, with or without a voucher."""
    box, second = SimulatedBox(), SimulatedBox(ek=EK_KEYS[1])
    await site.enrol(box, Papers(site.voucher(box).render()))
    assert await _reason(site.enrol(second)) is Reason.ZONE_TAKEN
    assert await _reason(site.enrol(second, Papers(site.voucher(second).render()))) is Reason.ZONE_TAKEN
    elsewhere = replace(box, zone=OTHER)
    assert await _reason(site.enrol(elsewhere)) is Reason.BOX_OF_OTHER_ZONE
    with pytest.raises(DeniedError) as refused:
        site.office.approve(box.fingerprint, OTHER)
    assert refused.value.reason is Reason.BOX_OF_OTHER_ZONE
    with pytest.raises(DeniedError) as refused:
        site.office.approve(second.fingerprint, PLANT)
    assert refused.value.reason is Reason.ZONE_TAKEN
    assert site.office.approvals() == []


async def test_a_copied_device_reference_is_refused(site: Site) -> None:
    """Operators' signatures name a box by it."""
    box = SimulatedBox()
    await site.enrol(box, Papers(site.voucher(box).render()))
    copy = SimulatedBox(ek=EK_KEYS[1], zone=OTHER, device=box.device)
    assert await _reason(site.enrol(copy)) is Reason.BAD_PROOF


async def test_a_denied_box_stays_out_until_it_is_approved(site: Site) -> None:
    """It waits no more, and a voucher does not help it."""
    box = SimulatedBox()
    await site.enrol(box)
    site.office.deny(box.fingerprint, "not ours")
    assert site.office.pending() == []
    assert await _reason(site.enrol(box)) is Reason.BOX_DENIED
    assert await _reason(site.enrol(box, Papers(site.voucher(box).render()))) is Reason.BOX_DENIED
    assert site.office.approve(box.fingerprint, PLANT) is None
    assert isinstance(await site.enrol(box), Grant)
    assert site.office.approvals() == [], "an approval is good once"


async def test_a_revoked_box_is_believed_no_more(site: Site) -> None:
    """Its device CA is denied and stays registered; it comes back only approved, and with another certificate."""
    box = SimulatedBox()
    grant = await site.enrol(box, Papers(site.voucher(box).render()))
    site.office.revoke(PLANT, "stolen from the truck")
    registry = _registry(site)
    denial = registry.denial(grant.device_ca)
    assert denial is not None
    assert denial.reason == "stolen from the truck"
    assert registry.is_boundary_key(PLANT, grant.device_ca), "what it signed before still verifies"
    assert await _reason(site.enrol(box)) is Reason.BOX_REVOKED
    assert await _reason(site.enrol(box, Papers(site.voucher(box).render()))) is Reason.BOX_REVOKED
    site.office.approve(box.fingerprint, PLANT)
    second = await site.enrol(box)
    assert isinstance(second, Grant)
    assert second.device_ca != grant.device_ca
    assert _registry(site).denial(second.device_ca) is None
    assert Registry.load(site.box_folder()).denial(grant.device_ca) is not None, "the box learns of it"


@pytest.mark.parametrize("replaced", [False, True])
async def test_every_certificate_of_a_key_that_was_certified_again_ends_with_it(site: Site, replaced: bool) -> None:
    """Else the box would go on under an older one; what another zone has stays."""
    box = SimulatedBox()
    await site.enrol(box, Papers(site.voucher(box).render()))
    for _ in range(2):
        site.now_ms += 500 * DAY_MS
        await site.enrol(box)
    now = datetime.fromtimestamp(site.now_ms / 1000, UTC)
    folder = site.office.config.pki
    live = LiveRegistry(folder)
    live.refresh()
    certificates = _registry(site).device_cas[PLANT]
    assert len(certificates) == 3
    leaves = [new_session(Authority(box.boundary, each), PLANT, now).certificate for each in certificates[1:]]
    shown = [certificate_der(leaf) for leaf in leaves]
    for leaf in shown:
        assert prove_identity(leaf, live, now.timestamp()).zone == PLANT
    if replaced:
        site.office.replace(PLANT, fingerprint=SimulatedBox(ek=EK_KEYS[1]).fingerprint)
    else:
        site.office.revoke(PLANT, "stolen")
    live.refresh()
    assert [live.denial(certificate_der(each)) != "" for each in certificates] == [True] * 3
    for leaf in shown:
        with pytest.raises(DeniedError) as refused:
            prove_identity(leaf, live, now.timestamp())
        assert refused.value.reason is Reason.BOX_REVOKED
    assert [live.denial(each) for each in live.authorities(HUB)] == [""]


@pytest.mark.parametrize("by_voucher", [False, True])
async def test_a_broken_box_is_replaced(site: Site, by_voucher: bool) -> None:
    """The new one gets in without another word, the old one is out, and may become another zone."""
    old, new = SimulatedBox(), SimulatedBox(ek=EK_KEYS[1])
    first = await site.enrol(old, Papers(site.voucher(old).render()))
    voucher = site.voucher(new).render() if by_voucher else b""
    site.office.replace(PLANT, fingerprint="" if by_voucher else new.fingerprint, voucher=voucher, note="broken")
    assert _registry(site).denial(first.device_ca) is not None
    assert await _reason(site.enrol(old)) is Reason.BOX_REPLACED
    stranger = SimulatedBox(ek=EK_KEYS[2])
    assert await _reason(site.enrol(stranger)) is Reason.BOX_OF_OTHER_ZONE, "it is the hub's own TPM here"
    grant = await site.enrol(new, Papers(voucher))
    assert isinstance(grant, Grant)
    assert grant.zones[PLANT] == (first.device_ca, grant.device_ca)
    moved = replace(old, zone=OTHER)
    assert isinstance(await site.enrol(moved), Pending)


async def test_a_new_key_of_the_same_box_needs_a_decision(site: Site) -> None:
    """Whoever is root may provision anew; the hub lets a new key in only when somebody says so, and ends the old."""
    box = SimulatedBox()
    first = await site.enrol(box, Papers(site.voucher(box).render()))
    renewed = SimulatedBox(ek=box.ek, key=box.key)
    assert isinstance(await site.enrol(renewed), Pending)
    assert _registry(site).denial(first.device_ca) is None, "the old one goes on meanwhile"
    site.office.approve(box.fingerprint)
    grant = await site.enrol(renewed)
    assert grant.zones[PLANT] == (first.device_ca, grant.device_ca)
    assert _registry(site).denial(first.device_ca) is not None


async def test_a_certificate_is_renewed_for_the_same_key(site: Site) -> None:
    """When most of its life is over, or all of it; nobody is asked, and the old one is not denied."""
    box = SimulatedBox()
    first = await site.enrol(box, Papers(site.voucher(box).render()))
    site.now_ms += 480 * DAY_MS
    assert await site.enrol(box) == first
    site.now_ms += 20 * DAY_MS
    second = await site.enrol(box)
    assert second.zones[PLANT] == (first.device_ca, second.device_ca)
    assert _registry(site).denied == ()
    assert await site.enrol(box) == second
    site.now_ms += 1000 * DAY_MS
    third = await site.enrol(box)
    assert third.device_ca not in {first.device_ca, second.device_ca}
    assert box.installed == third.device_ca


async def test_a_quarantined_box_does_not_come_back_with_a_new_key(site: Site) -> None:
    """Root makes a new key at the present counter; the hub remembers the counter, and wants a release."""
    box = SimulatedBox()
    await site.enrol(box, Papers(site.voucher(box).render()))
    latched = SimulatedBox(ek=box.ek, key=box.key, counter=2, birth_counter=2)
    assert await _reason(site.enrol(latched)) is Reason.BOX_QUARANTINED
    site.office.approve(box.fingerprint, PLANT)
    assert await _reason(site.enrol(latched)) is Reason.BOX_QUARANTINED, "an approval is no release"
    assert await _reason(site.enrol(latched, Papers(release=b"{}"))) is Reason.BAD_RELEASE


def _released(box: SimulatedBox, operators: int = 2) -> bytes:
    """A release for a box at its present counter, signed by so many operators."""
    kept = EnrolledBox(PLANT, box.birth, box.boundary_public, box.key.public_key())
    evidence = sha256(b"what happened")
    certificate = box.sign(box.counter_statement(evidence))
    asked = ReleaseRequest(PLANT, DeviceRef(box.device), box.counter, dict(box.birth_pcrs), evidence, certificate)
    release = new_release(kept, asked)
    for key in PEOPLE[:operators]:
        release = add_signature(kept, asked, release, key)
    return release.render()


@pytest.mark.parametrize("told", [False, True])
async def test_a_released_box_comes_back(site: Site, told: bool) -> None:
    """With the key it has, whether the hub knew of the quarantine or not; one signature, or an old release, is none."""
    box = SimulatedBox()
    grant = await site.enrol(box, Papers(site.voucher(box).render()))
    if told:
        site.office.quarantine(PLANT, 2, code="opened")
    box.counter = 2
    release = _released(box)
    assert await _reason(site.enrol(box)) is Reason.BOX_QUARANTINED
    assert await _reason(site.enrol(box, Papers(release=_released(box, 1)))) is Reason.BAD_RELEASE
    assert await site.enrol(box, Papers(release=release)) == grant
    found = site.office.of_zone(PLANT)
    assert found is not None
    assert found.record is not None
    assert (found.state, found.record.counter) == (BoxState.ENROLLED, 2)
    assert await site.enrol(box, Papers(release=release)) == grant
    site.office.quarantine(PLANT, 3, code="again")
    assert await _reason(site.enrol(box, Papers(release=release))) is Reason.BOX_QUARANTINED, "of the first one"
    box.counter = 3
    assert await _reason(site.enrol(box, Papers(release=release))) is Reason.BAD_RELEASE


async def test_a_new_key_after_a_release_needs_the_release_of_the_old_one(site: Site) -> None:
    """Its own birth is at the present counter, so nothing of the new key says that there was a quarantine."""
    box = SimulatedBox()
    await site.enrol(box, Papers(site.voucher(box).render()))
    box.counter = 2
    release = _released(box)
    renewed = SimulatedBox(ek=box.ek, key=box.key, counter=2, birth_counter=2)
    assert await _reason(site.enrol(renewed)) is Reason.BOX_QUARANTINED
    assert await _reason(site.enrol(renewed, Papers(release=_released(renewed)))) is Reason.BAD_RELEASE
    assert isinstance(await site.enrol(renewed, Papers(release=release)), Pending)
    site.office.approve(box.fingerprint)
    assert isinstance(await site.enrol(renewed), Grant)


async def test_a_box_known_to_be_in_quarantine_stays_out(site: Site) -> None:
    """Also with the counter of enrolment: the hub was told."""
    box = SimulatedBox()
    await site.enrol(box, Papers(site.voucher(box).render()))
    site.office.quarantine(PLANT, 2, code="opened")
    assert await _reason(site.enrol(box)) is Reason.BOX_QUARANTINED
    assert await _reason(site.enrol(SimulatedBox(ek=EK_KEYS[1]))) is Reason.ZONE_TAKEN


async def test_the_dialogue_on_a_stick(site: Site) -> None:
    """Four files; days between them; the proof may be shown again until it is decided."""
    box = SimulatedBox()
    keeper: Any = SimulatedKeeper(box)
    request = await boxside.ask(keeper, PLANT)
    challenge = site.office.answer(request, FILE_VALIDITY_MS)
    site.now_ms += 5 * DAY_MS
    proof = await boxside.step(keeper, request, challenge)
    assert isinstance(proof, bytes)
    assert isinstance(site.answer(proof), Pending)
    site.office.approve(box.fingerprint)
    grant = await boxside.step(keeper, request, site.office.answer(proof))
    assert isinstance(grant, Grant)
    await boxside.take(keeper, grant, PLANT, site.box_folder())
    assert box.installed == grant.device_ca
    other = await boxside.ask(keeper, PLANT)
    with pytest.raises(DeniedError) as refused:
        await boxside.step(keeper, other, challenge)
    assert refused.value.reason is Reason.BAD_DOCUMENT
    site.now_ms += 10 * DAY_MS
    assert site.answer(proof) == Refusal(Reason.CHALLENGE_EXPIRED, "too late")


async def test_a_box_believes_its_own_hub_alone(site: Site, tmp_path: Path) -> None:
    """A grant of another hub, for another zone, or that leaves the box out, changes nothing."""
    box = SimulatedBox()
    grant = await site.enrol(box, Papers(site.voucher(box).render()))
    foreign = Site(tmp_path / "other").init()
    await foreign.own()
    theirs = await foreign.enrol(box, Papers(foreign.voucher(box).render()))
    box.installed = b""
    keeper: Any = SimulatedKeeper(box)
    bad = [
        theirs,
        replace(theirs, hub_ca=grant.hub_ca),
        replace(grant, zone=OTHER),
        replace(grant, device_ca=grant.zones[HUB][0]),
        replace(grant, zones={PLANT: grant.zones[PLANT]}),
        replace(grant, zones={**grant.zones, OTHER: grant.zones[PLANT]}),
        replace(grant, denied=b"{}"),
        replace(grant, device_ca=b"x", zones={PLANT: (b"x",), HUB: grant.zones[HUB]}),
    ]
    folder = site.box_folder()
    for each in bad:
        assert await _reason(boxside.take(keeper, each, PLANT, folder)) is Reason.BAD_CERTIFICATE
    assert box.installed == b""
    await boxside.take(keeper, grant, PLANT, folder)
    assert box.installed == grant.device_ca


async def test_dry_runs_change_nothing(site: Site) -> None:
    """But refuse what would be refused."""
    box, other = SimulatedBox(), SimulatedBox(ek=EK_KEYS[1])
    await site.enrol(box)
    site.office.approve(box.fingerprint, dry_run=True)
    assert isinstance(await site.enrol(box), Pending)
    site.office.approve(box.fingerprint)
    grant = await site.enrol(box)
    site.office.revoke(PLANT, "", dry_run=True)
    site.office.replace(PLANT, fingerprint=other.fingerprint, dry_run=True)
    assert site.office.approvals() == []
    assert await site.enrol(box) == grant
    for zone in (OTHER, HUB):
        with pytest.raises(RefusedError):
            site.office.revoke(zone, "", dry_run=True)


async def test_the_service_follows_the_operators(site: Site) -> None:
    """What ``bsfg hub`` changes in a process of its own, the hub's process sees."""
    service = EnrolmentService(site.office)
    service.refresh()
    assert service.enrolled(PLANT) is None
    box = SimulatedBox()
    keeper: Any = SimulatedKeeper(box)
    request = await boxside.ask(keeper, PLANT, Papers(site.voucher(box).render()))
    challenge = parse_answer(await service.enrol(request))
    assert isinstance(challenge, Challenge)
    assert isinstance(parse_answer(await service.enrol(await boxside.prove(keeper, request, challenge))), Grant)
    service.refresh()
    enrolled = service.enrolled(PLANT)
    assert enrolled is not None
    assert (enrolled.ak_public, enrolled.pcrs) == (box.ak_public, box.pcrs)
    site.office.revoke(PLANT, "")
    service.refresh()
    assert service.enrolled(PLANT) is None


async def test_what_a_release_needs_can_be_exported(site: Site) -> None:
    """The box file of the operators."""
    box = SimulatedBox()
    await site.enrol(box, Papers(site.voucher(box).render()))
    found = site.office.of_zone(PLANT)
    assert found is not None
    assert found.record is not None
    kept = found.record.for_release()
    assert EnrolledBox.parse(kept.render()) == kept
    assert (kept.zone, kept.boundary_public) == (PLANT, box.boundary_public)


class Killed(BaseException):
    """The process ends here."""


class Killer:
    """Ends the office at its n-th step."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, step: str) -> None:
        """A step is passed."""
        self.left -= 1
        if self.left < 0:
            raise Killed(step)


async def _story(office: Callable[[], EnrolmentOffice], box: SimulatedBox, new: SimulatedBox, site: Site) -> None:
    """Enrol by approval, replace, and revoke; each step may have been done before."""
    keeper: Any = SimulatedKeeper(box)
    holder = office().of_zone(PLANT)
    states = {each.fingerprint: each.state for each in office().boxes()}
    if BoxState.REVOKED in states.values():
        office().settle()
        return
    if states.get(box.fingerprint) is not BoxState.REPLACED:
        if holder is None and not office().pending():
            request = await boxside.ask(keeper, PLANT)
            challenge = parse_answer(office().answer(request))
            assert isinstance(challenge, Challenge)
            office().answer(await boxside.prove(keeper, request, challenge))
        office().settle()
        if office().of_zone(PLANT) is None:
            office().approve(box.fingerprint)
        office().replace(PLANT, fingerprint=new.fingerprint)
    keeper = SimulatedKeeper(new)
    voucher = Papers(site.voucher(new).render())
    request = await boxside.ask(keeper, PLANT, voucher)
    challenge = parse_answer(office().answer(request))
    assert isinstance(challenge, Challenge)
    assert isinstance(parse_answer(office().answer(await boxside.prove(keeper, request, challenge))), Grant)
    office().revoke(PLANT, "the end")


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of commits are to be ordered here, and not to be durable."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


async def test_killed_at_every_step_it_ends_the_same(memory_folder: Path) -> None:
    """Each durable step is either done or not, and whatever is left over, the next run mends."""
    steps, template = 0, Site(memory_folder / "template").init()
    await template.own()
    for at in range(200):
        site = template.copy(memory_folder / str(at))
        box, new = SimulatedBox(), SimulatedBox(ek=EK_KEYS[1])
        killer = Killer(at)
        dying = partial(EnrolmentOffice, site.office_folder, now_ms=lambda: NOW_MS, hook=killer)
        try:
            await _story(dying, box, new, site)
        except Killed:
            steps += 1
            _check_consistent(site)
            await _story(partial(getattr, site, "office"), box, new, site)
        states = {each.fingerprint: each.state for each in site.office.boxes()}
        assert (states[box.fingerprint], states[new.fingerprint]) == (BoxState.REPLACED, BoxState.REVOKED)
        registry = _registry(site)
        assert all(registry.denial(der) is not None for der in registry.authorities(PLANT))
        assert all(registry.denial(der) is None for der in registry.authorities(HUB))
        assert len(registry.device_cas[PLANT]) == 2
        if killer.left >= 0:
            break
    assert steps == at > 25


def _check_consistent(site: Site) -> None:
    """Whatever was killed, the registry's files are good, and no more is trusted than was decided."""
    registry = _registry(site)
    decided = {site.office.of_zone(zone).device_ca for zone in (HUB, PLANT) if site.office.of_zone(zone)}  # type: ignore[union-attr]
    before = {each.device_ca for each in site.office.boxes() if each.device_ca}
    every = {der for zone in (HUB, PLANT) for der in registry.authorities(zone) if registry.denial(der) is None}
    assert every <= decided | before


async def test_an_office_whose_file_is_no_such_file_says_so(site: Site) -> None:
    """A later version, and something else: nothing is guessed, and nothing is overwritten."""
    path = site.office.folder.database
    good = path.read_bytes()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 7")
    for content in (path.read_bytes(), b"no database" * 1000):
        path.write_bytes(content)
        with pytest.raises(BsfgError) as refused:
            site.office.boxes()
        assert refused.value.reason is Reason.OFFICE_UNUSABLE
        assert path.read_bytes() == content
    path.write_bytes(good)
    assert [box.zone for box in site.office.boxes()] == [HUB]
    (site.office.folder.vendors / "bad.pem").write_text("not one")
    with pytest.raises(BsfgError) as refused:
        site.office.answer(b"{}")
    assert (refused.value.reason, "bad.pem" in refused.value.detail) == (Reason.OFFICE_UNUSABLE, True)


async def test_too_many_boxes_that_wait_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """But those that a voucher lets in, and those that wait already, are not."""
    monkeypatch.setattr("appliance.hub.enrolment.store.PENDING_LIMIT", 1)
    first, second = SimulatedBox(), SimulatedBox(ek=EK_KEYS[1], zone=OTHER)
    await site.enrol(first)
    with pytest.raises(BsfgError) as refused:
        await site.enrol(second)
    assert refused.value.reason is Reason.BUSY
    assert isinstance(await site.enrol(first), Pending)
    assert isinstance(await site.enrol(second, Papers(site.voucher(second).render())), Grant)
