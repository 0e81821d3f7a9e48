# SPDX-License-Identifier: Apache-2.0
"""A hub and a box that was in quarantine: it is kept out whatever it says, until its operators have released it.

The TPM is **simulated**, so that a box can lie in every way; office, desk and TLS are real.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.hub.enrolment.service import EnrolmentService
from appliance.hub.enrolment.store import EnrolmentStore
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.standing import Standing, Stood
from appliance.keys.enrolment.rules import BoxState
from appliance.keys.release import Release, ReleaseRequest, add_signature, new_release
from appliance.keys.tpm.public import Digest, sha256
from appliance.node.config import Attestation
from appliance.node.status import PeerStatus
from tests.boxes import PEOPLE, PLANT, SimulatedBox, Site
from tests.evidence import SimulatedQuarantine, a_case
from tests.service.test_hub_trust_desk import World, refusal, world


def released(box: SimulatedBox, operators: int = 2, evidence: Digest | None = None) -> bytes:
    """A release for a box as it is now."""
    kept = SimulatedQuarantine(box).enrolled
    digest = evidence or sha256(b"what happened")
    certificate = box.sign(box.counter_statement(digest))
    asked = ReleaseRequest(PLANT, kept.policy.device, box.counter, dict(box.birth_pcrs), digest, certificate)
    release = new_release(kept, asked)
    for key in PEOPLE[:operators]:
        release = add_signature(kept, asked, release, key)
    return release.render()


async def enrolled(it: World) -> SimulatedBox:
    """A box that is let in."""
    box = SimulatedBox()
    await it.enrol(box)
    await it.known(PLANT, "stale")
    assert (await it.attest(box))[0]
    return box


def status(it: World) -> PeerStatus:
    """What the hub's status says of the box."""
    return it.desk.describe(PeerStatus(PLANT))


@pytest.mark.parametrize("policy", list(Attestation))
async def test_a_box_that_was_locked_and_started_anew_is_kept_out(tmp_path: Path, policy: Attestation) -> None:
    """Its PCRs are good again, and its counter tells; also a hub that only observes believes the TPM."""
    async with world(tmp_path, policy) as it:
        box = await enrolled(it)
        assert refusal(it.desk) is None
        box.counter += 1
        accepted, findings = await it.attest(box)
        assert not accepted
        assert "the quarantine counter is 2, and was 1: the box was in quarantine, and shows no release" in findings
        assert refusal(it.desk) is Reason.BOX_QUARANTINED
        found = it.site.office.of_zone(PLANT)
        assert found is not None
        assert (found.state, found.note) == (BoxState.QUARANTINED, "its TPM says so")
        shown = status(it)
        assert (shown.quarantine, shown.quarantine_code, shown.attestation) == ("quarantined", "", "failed")
        assert [error.reason for _, error in it.desk.problems()][:1] == [Reason.BOX_QUARANTINED]
        anew = EnrolmentService(it.site.office)  # after a restart of the hub
        anew.refresh()
        kept = anew.enrolled(PLANT)
        assert kept is not None
        assert kept.quarantined


async def test_without_the_counter_the_hub_would_believe_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PCRs of a box that was started anew say nothing of the lock."""
    monkeypatch.setattr("appliance.keys.attestation.verdict.judge_standing", lambda *_: Stood())
    async with world(tmp_path, Attestation.REQUIRED) as it:
        box = await enrolled(it)
        box.counter += 1
        assert (await it.attest(box))[0]
        assert refusal(it.desk) is None


async def test_a_release_of_both_operators_brings_it_back(tmp_path: Path) -> None:
    """And nothing less; from then on the new counter is the known one, and the box is shown as released."""
    async with world(tmp_path, Attestation.REQUIRED) as it:
        box = await enrolled(it)
        box.counter += 1
        await it.attest(box)
        other = SimulatedBox(counter=2)
        full = Release.parse(released(box))
        stale = released(replace_counter(box, 3))
        for bad in (
            released(box, 1),
            released(other),
            stale,
            b"{}\n",
            b"x",
            replace(full, evidence=sha256(b"other")).render(),
            replace(full, signatures=full.signatures[:1] * 2).render(),
        ):
            accepted, findings = await it.attest(box, bad)
            assert not accepted
            assert "release" in findings[0]
            assert refusal(it.desk) is Reason.BOX_QUARANTINED
        assert (await it.attest(box, released(box))) == (True, (NO_IMAGE,))
        assert refusal(it.desk) is None
        found = it.site.office.of_zone(PLANT)
        assert found is not None
        assert found.record is not None
        assert (found.state, found.record.counter) == (BoxState.ENROLLED, 2)
        assert (status(it).quarantine, status(it).attestation) == ("released", "fresh")
        assert status(it).evidence == full.evidence.hex()
        assert "not imported" in await run("boxes", "list", "--office", it.site.office_folder)
        assert (await it.attest(box))[0]  # without showing it again
        box.counter += 1
        assert not (await it.attest(box, released(replace_counter(box, 2))))[0]  # the old one ends no new quarantine
        assert refusal(it.desk) is Reason.BOX_QUARANTINED


async def test_a_release_with_other_pcrs_is_what_the_box_is_measured_by(tmp_path: Path) -> None:
    """Its operators knew why they had changed; anything else still differs."""
    async with world(tmp_path, Attestation.REQUIRED) as it:
        box = await enrolled(it)
        box.counter += 1
        box.extend(7, bytes(32))
        kept = SimulatedQuarantine(box).enrolled
        evidence = sha256(b"new keys of Secure Boot")
        certificate = box.sign(box.counter_statement(evidence))
        pcrs = {pcr: box.pcrs[pcr] for pcr in box.birth_pcrs}
        asked = ReleaseRequest(PLANT, kept.policy.device, 2, pcrs, evidence, certificate)
        release = new_release(kept, asked, accept_pcrs=True)
        for key in PEOPLE:
            release = add_signature(kept, asked, release, key, accept_pcrs=True)
        assert not (await it.attest(box, released(box)))[0]
        assert (await it.attest(box, release.render()))[0]
        assert (await it.attest(box))[0]
        box.extend(12, bytes(32))
        assert not (await it.attest(box))[0]


def replace_counter(box: SimulatedBox, counter: int) -> SimulatedBox:
    """The same box at another counter."""
    return replace(box, counter=counter, pcrs=dict(box.pcrs))


NO_IMAGE = "the hub has no reference measurements: the image was not compared"


async def _no_counter(it: World, box: SimulatedBox) -> Any:
    nonce = await it.client.begin_attestation(PLANT)
    return await it.show(Evidence.of(PLANT, await box.quote_over(nonce)))


async def _old_counter(it: World, box: SimulatedBox) -> Any:
    """The certificate of a time before the lock."""
    nonce = await it.client.begin_attestation(PLANT)
    old = await replace_counter(box, 1).certify(bytes(32))
    return await it.show(Evidence.of(PLANT, await box.quote_over(nonce), old))


async def _other_tpm_counts(it: World, box: SimulatedBox) -> Any:
    """A healthy TPM certifies a counter over the hub's nonce."""
    nonce = await it.client.begin_attestation(PLANT)
    return await it.show(Evidence.of(PLANT, await box.quote_over(nonce), await SimulatedBox().certify(nonce)))


async def _other_tpm_quotes(it: World, box: SimulatedBox) -> Any:
    """A healthy TPM answers for the locked one."""
    nonce, healthy = await it.client.begin_attestation(PLANT), SimulatedBox(pcrs=dict(box.pcrs))
    return await it.show(Evidence.of(PLANT, await healthy.quote_over(nonce), await healthy.certify(nonce)))


async def _key_for_counter(it: World, box: SimulatedBox) -> Any:
    """Another statement of the same TPM over the same nonce."""
    nonce = await it.client.begin_attestation(PLANT)
    certified = await box.certify(nonce)
    lie = replace(certified, counter=certified.key)
    return await it.show(Evidence.of(PLANT, await box.quote_over(nonce), lie))


async def _other_index(it: World, box: SimulatedBox) -> Any:
    """A data index that holds the old value, certified by the right key."""
    nonce = await it.client.begin_attestation(PLANT)
    forged = box.sign(box.counter_statement(nonce, name=b"\0\x0b" + bytes(32), value=1))
    shown = Evidence.of(PLANT, await box.quote_over(nonce), await box.certify(nonce))
    return await it.show(replace(shown, standing=Standing(forged)))


async def _replayed(it: World, box: SimulatedBox) -> Any:
    """What a healthy box once showed."""
    nonce, before = await it.client.begin_attestation(PLANT), replace_counter(box, 1)
    shown = Evidence.of(PLANT, await before.quote_over(nonce), await before.certify(nonce))
    assert await it.show(shown)
    return await it.show(shown)


async def _other_nonce(it: World, box: SimulatedBox) -> Any:
    """Quote and counter over two nonces of the hub."""
    one, two = await it.client.begin_attestation(PLANT), await it.client.begin_attestation(PLANT)
    return await it.show(Evidence.of(PLANT, await box.quote_over(one), await box.certify(two)))


async def _register_extended(it: World, box: SimulatedBox) -> Any:
    """Asked before it was started anew."""
    box.counter -= 1
    box.extend(14, bytes(32))
    return await it.attest(box)


async def _counter_back(it: World, box: SimulatedBox) -> Any:
    """No TPM does that."""
    box.counter = 0
    return await it.attest(box)


LIES: list[Callable[[World, SimulatedBox], Any]] = [
    _no_counter,
    _old_counter,
    _other_tpm_counts,
    _other_tpm_quotes,
    _key_for_counter,
    _other_index,
    _replayed,
    _other_nonce,
    _register_extended,
    _counter_back,
]


async def test_no_lie_of_a_locked_box_is_believed(tmp_path: Path) -> None:
    """Each is refused, or fails its attestation; the truth before it is accepted, in the same run."""
    async with world(tmp_path, Attestation.REQUIRED) as it:
        box = await enrolled(it)
        for lie in LIES:
            box.clock_ms += 10
            assert (await it.attest(box))[0], lie.__name__
            assert refusal(it.desk) is None
            locked = replace_counter(box, 2)
            try:
                accepted, findings = await lie(it, locked)
                assert not accepted, lie.__name__
                assert findings
                assert refusal(it.desk) is not None
            except DeniedError as error:
                assert error.reason is Reason.BAD_EVIDENCE, lie.__name__  # noqa: PT017
            box.clock_ms = locked.clock_ms


async def test_a_box_whose_evidence_was_imported_is_refused_at_once(tmp_path: Path) -> None:
    """Though it attested a moment ago, and root starts its agent again with sessions that are good for minutes."""
    async with world(tmp_path, Attestation.OBSERVE) as it:
        box = await enrolled(it)
        assert refusal(it.desk) is None
        bundle, seal = await SimulatedQuarantine(replace(box, pcrs=dict(box.pcrs))).take(a_case())
        file = tmp_path / "plant-a.evidence.json"
        file.write_bytes(bundle.render())
        (tmp_path / "plant-a.seal.json").write_bytes(seal.render())
        values = json.loads(await run("evidence", "import", file, "--office", it.site.office_folder, output="json"))
        assert (values["state"], values["code"], values["counter"]) == ("quarantined", "secure_boot_off", 2)
        with trio.fail_after(5):
            while refusal(it.desk) is None:  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.05)
        assert refusal(it.desk) is Reason.BOX_QUARANTINED
        shown = status(it)
        assert (shown.quarantine, shown.quarantine_code) == ("quarantined", "secure_boot_off")
        assert shown.evidence == values["evidence"]
        accepted, findings = await it.attest(box)  # with the counter of before: no TPM can, and it would not help
        assert not accepted
        assert "its evidence is known here: the box is in quarantine" in findings
        assert "SECURE" in (await run("boxes", "list", "--office", it.site.office_folder)).upper()
        box.counter = 2
        assert (await it.attest(box, released(box)))[0]
        assert refusal(it.desk) is None
        listed = await run("boxes", "list", "--office", it.site.office_folder)
        assert "released" in listed
        assert values["evidence"][:16] in listed
        late = json.loads(await run("evidence", "import", file, "--office", it.site.office_folder, output="json"))
        assert late["state"] == "released before"
        assert refusal(it.desk) is None


async def run(*arguments: str | Path, output: str = "") -> str:
    """One command of the hub, which must work."""
    form = ("--output", output) if output else ()
    called = ["hub", *map(str, arguments), *form]
    outcome = await trio.to_thread.run_sync(CliRunner().invoke, cli, called)
    assert outcome.exit_code == 0, outcome.output
    return str(outcome.stdout)


async def test_evidence_that_is_not_the_boxs_is_not_imported(tmp_path: Path) -> None:
    """Another box's, a changed one, one of a box that was never locked, one of a zone without a box."""
    site = Site(tmp_path).init()
    box = SimulatedBox()
    await site.own()
    site.office.approve(box.fingerprint, PLANT)
    await site.enrol(box)
    healthy, healthy_seal = await SimulatedQuarantine(box).gather(a_case(), None)
    good, good_seal = await SimulatedQuarantine(box).take(a_case())
    twin, twin_seal = await SimulatedQuarantine(SimulatedBox()).take(a_case())
    texts = {
        "healthy": (healthy.render(), healthy_seal.render()),
        "twin": (twin.render(), twin_seal.render()),
        "changed": (good.render().replace(b"SecureBoot is 0", b"SecureBoot is 1"), good_seal.render()),
        "mixed": (good.render(), twin_seal.render()),
        "none": (b"{}\n", good_seal.render()),
    }
    for name, (bundle, seal) in texts.items():
        file = tmp_path / f"{name}.evidence.json"
        file.write_bytes(bundle)
        (tmp_path / f"{name}.seal.json").write_bytes(seal)
        arguments = ["hub", "evidence", "import", str(file), "--office", str(site.office_folder)]
        outcome = await trio.to_thread.run_sync(CliRunner().invoke, cli, arguments)
        assert outcome.exit_code != 0, name
    found = site.office.of_zone(PLANT)
    assert found is not None
    assert found.state is BoxState.ENROLLED
    assert not (site.office_folder / "evidence").exists()


async def test_an_office_of_before_is_taken_over(tmp_path: Path) -> None:
    """Its file has no table of quarantines yet."""
    site = Site(tmp_path).init()
    box = await site.own()
    store = EnrolmentStore(site.office.folder.database)
    with store.changing():
        store._db.execute("DROP TABLE quarantine")
        store._db.execute("PRAGMA user_version = 1")
    store.close()
    assert [each.fingerprint for each in site.office.boxes()] == [box.fingerprint]
    assert site.office.quarantines() == {}
