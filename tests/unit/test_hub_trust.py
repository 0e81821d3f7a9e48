# SPDX-License-Identifier: Apache-2.0
"""The hub's side of trust: what it lets in, nonces that cost it nothing, tokens, and evidence that anybody may send."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.hub.trust import (
    FRESH_S,
    NONCE_LIFE_S,
    SIGNATURES_WAITING,
    AttestationBook,
    AttestationPolicy,
    AttestationState,
    Nonces,
    TrustHooks,
    TrustService,
    boottime_s,
)
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.certificates import Authority, certificate_der, new_device_ca, new_hub_ca
from appliance.keys.time_token import HubTrust, TimeToken
from tests.attesting import PLANT, SimulatedTpm, boot, measurements

HUB = ZoneId("enterprise")
WALL_MS = 1_795_000_000_000


@dataclass
class World:
    """A hub's trust service on software keys, one enrolled box, and clocks that a test sets."""

    tpm: SimulatedTpm = field(default_factory=SimulatedTpm)
    policy: AttestationPolicy = AttestationPolicy.REQUIRED
    now: float = 1000.0
    sign_s: float = 0.0
    failure: BsfgError | None = None
    changed: list[ZoneId] = field(default_factory=list)

    def __post_init__(self) -> None:
        boot(self.tpm)
        began = datetime(2026, 11, 1, tzinfo=UTC)
        self.ca = new_hub_ca(began)
        self.boundary: Authority = new_device_ca(self.ca, HUB, began)
        self.enrolled: EnrolledAttestation | None = self.tpm.enrolled()
        self.published = measurements(self.tpm)
        self.book = AttestationBook(self.policy)
        hooks = TrustHooks(
            self.sign,
            self.enrol,
            lambda zone: self.enrolled if zone == PLANT else None,
            lambda: self.published,
            lambda: WALL_MS,
            lambda: self.now,
            self.changed.append,
        )
        self.service = TrustService(HUB, hooks, self.book)

    async def sign(self, statement: bytes) -> Signature:
        """The hub's boundary key; may take its time, or fail."""
        await trio.sleep(self.sign_s)
        if self.failure is not None:
            raise self.failure
        value = self.boundary.key.sign(statement, ec.ECDSA(hashes.SHA256()))
        return Signature(value, certificate_der(self.boundary.certificate))

    async def enrol(self, document: bytes) -> bytes:
        """The enrolment dialogue's place."""
        return b"answer to " + document

    async def shown(self, **changes: object) -> Evidence:
        """Evidence over a nonce of the hub."""
        evidence = self.tpm.evidence(await self.service.begin_attestation(PLANT))
        return replace(evidence, **changes)  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    """One that requires attestation."""
    return World()


async def test_a_box_is_let_in_once_it_has_attested_and_as_long_as_that_is_fresh(world: World) -> None:
    """Before: stale. After: fresh for 15 minutes. Then stale again."""
    assert world.book.admits(PLANT, world.now) is Reason.ATTESTATION_STALE
    answer = await world.service.attest(PLANT, (await world.shown()).render())
    assert (answer.accepted, answer.findings, answer.valid_for_s) == (True, (), FRESH_S)
    assert world.changed == [PLANT]
    assert world.book.state(PLANT, world.now) is AttestationState.FRESH
    assert world.book.admits(PLANT, world.now + FRESH_S) is None
    assert world.book.admits(PLANT, world.now + FRESH_S + 1) is Reason.ATTESTATION_STALE
    problem = world.book.problem(PLANT, world.now + FRESH_S + 1)
    assert problem is not None
    assert "attested 901 s ago" in problem.detail
    assert world.book.admits(ZoneId("plant-b"), world.now) is Reason.ATTESTATION_STALE


async def test_a_box_that_fails_stays_out_until_it_attests_well(world: World) -> None:
    """A failure does not become stale, and an observing hub lets it in all the same."""
    good = world.tpm.pcrs[7]
    world.tpm.extend(7, bytes(32))
    answer = await world.service.attest(PLANT, (await world.shown()).render())
    assert not answer.accepted
    assert answer.valid_for_s == 0
    assert "Secure Boot" in answer.findings[0]
    assert world.book.admits(PLANT, world.now + 10 * FRESH_S) is Reason.ATTESTATION_FAILED
    problem = world.book.problem(PLANT, world.now)
    assert problem is not None
    assert "Secure Boot" in problem.detail
    world.book.policy = AttestationPolicy.OBSERVE
    assert world.book.admits(PLANT, world.now) is None
    assert world.book.problem(PLANT, world.now) is not None
    world.book.policy = AttestationPolicy.REQUIRED
    world.tpm.pcrs[7] = good
    world.tpm.clock_ms += 300_000
    world.now += 300
    assert (await world.service.attest(PLANT, (await world.shown()).render())).accepted
    assert world.book.admits(PLANT, world.now) is None
    world.book.forget(PLANT)
    assert world.book.admits(PLANT, world.now) is Reason.ATTESTATION_STALE
    assert world.book.last(PLANT) is None


async def test_what_anybody_may_send_changes_nothing(world: World) -> None:
    """Forged, replayed, of another box, of another hub, too late: refused, and the box stays as it was."""
    first = (await world.shown()).render()
    await world.service.attest(PLANT, first)
    stranger = SimulatedTpm(pcrs=dict(world.tpm.pcrs))
    nonce = await world.service.begin_attestation(PLANT)
    other_hub = await World(tpm=SimulatedTpm()).service.begin_attestation(PLANT)
    late = (await world.shown()).render()
    bad = (
        first,
        stranger.evidence(nonce).render(),
        world.tpm.evidence(other_hub).render(),
        world.tpm.evidence(bytes(32)).render(),
        world.tpm.evidence(nonce[:-1] + bytes([nonce[-1] ^ 1])).render(),
        world.tpm.evidence(bytes([nonce[0] ^ 0x40]) + nonce[1:]).render(),
        (await world.shown(zone=ZoneId("plant-b"))).render(),
        (await world.shown(pcrs={**world.tpm.pcrs, 7: bytes(32)})).render(),
        b"{}",
    )
    for evidence in bad:
        with pytest.raises(BsfgError) as refused:
            await world.service.attest(PLANT, evidence)
        assert refused.value.reason in {Reason.BAD_EVIDENCE, Reason.BAD_DOCUMENT}
    world.now += NONCE_LIFE_S + 1
    with pytest.raises(DeniedError, match="too old"):
        await world.service.attest(PLANT, late)
    assert world.book.state(PLANT, world.now) is AttestationState.FRESH
    assert world.changed == [PLANT]


async def test_one_nonce_is_one_verdict_also_at_the_same_time(world: World) -> None:
    """Of two that come together, one is refused."""
    evidence = (await world.shown()).render()
    outcomes: list[object] = []

    async def attest() -> None:
        try:
            outcomes.append(await world.service.attest(PLANT, evidence))
        except DeniedError as error:
            outcomes.append(error.reason)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attest)
        nursery.start_soon(attest)
    assert outcomes.count(Reason.BAD_EVIDENCE) == 1
    assert world.changed == [PLANT]


async def test_who_is_not_enrolled_is_told_so(world: World) -> None:
    """Before any nonce is made; a box that is revoked in between is not judged any more."""
    evidence = (await world.shown()).render()
    world.enrolled = None
    with pytest.raises(DeniedError, match="unknown_peer"):
        await world.service.attest(PLANT, evidence)
    with pytest.raises(DeniedError, match="unknown_peer"):
        await world.service.begin_attestation(PLANT)


async def test_a_replaced_box_begins_anew(world: World) -> None:
    """Neither its verdict nor its clock is the other's."""
    await world.service.attest(PLANT, (await world.shown()).render())
    other = SimulatedTpm(clock_ms=1, resets=world.tpm.resets)
    boot(other)
    world.tpm, world.enrolled = other, other.enrolled()
    world.book.follow(PLANT, world.enrolled)
    assert world.book.admits(PLANT, world.now) is Reason.ATTESTATION_STALE
    assert (await world.service.attest(PLANT, (await world.shown()).render())).accepted
    world.book.follow(PLANT, world.enrolled)
    assert world.book.admits(PLANT, world.now) is None
    world.book.follow(PLANT, None)
    assert world.book.admits(PLANT, world.now) is Reason.ATTESTATION_STALE


def test_nonces_are_new_bound_and_kept_by_nobody() -> None:
    """Ten thousand that nobody uses cost nothing; those used are forgotten when they would be too old anyway."""
    nonces = Nonces(key=bytes(32))
    made = {nonces.new(PLANT, 5.0) for _ in range(10_000)}
    assert len(made) == 10_000
    assert nonces._used == {}
    for nonce in list(made)[:100]:
        nonces.check(PLANT, nonce, 5.0 + NONCE_LIFE_S)
        with pytest.raises(DeniedError, match="too old"):
            nonces.check(PLANT, nonce, 5.1 + NONCE_LIFE_S)
        with pytest.raises(DeniedError, match="to this zone"):
            nonces.check(ZoneId("plant-b"), nonce, 5.0)
        nonces.use(nonce, 5.0)
        with pytest.raises(DeniedError, match="was used"):
            nonces.check(PLANT, nonce, 5.0)
    assert len(nonces._used) == 100
    nonces.use(nonces.new(PLANT, 200.0), 200.0)
    assert len(nonces._used) == 1
    for bad in (b"", bytes(32), bytes(64)):
        with pytest.raises(DeniedError, match="to this zone"):
            nonces.check(PLANT, bad, 5.0)


async def test_the_time_is_signed_with_the_boundary_key(world: World) -> None:
    """In the one form, over the nonce that was asked for."""
    token = TimeToken.parse(await world.service.get_time(b"n" * 16))
    HubTrust(HUB, world.ca.certificate).check(token)
    assert (token.zone, token.nonce, token.unix_ms) == (HUB, b"n" * 16, WALL_MS)
    assert await world.service.enrol(b"a request") == b"answer to a request"


async def test_the_hub_s_own_trouble_is_not_the_box_s(world: World) -> None:
    """A locked hub says that it cannot sign, not that the caller is locked."""
    world.failure = DeniedError(Reason.KEY_LATCHED)
    with pytest.raises(UnavailableError, match=r"not_ready.*key_latched"):
        await world.service.get_time(bytes(32))


async def test_the_boundary_key_is_not_flooded(world: World, autojump_clock: trio.testing.MockClock) -> None:
    """One signature at a time, a few may wait, the rest hears ``busy`` at once."""
    world.sign_s = 1.0
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            await world.service.get_time(bytes(32))
            outcomes.append("ok")
        except UnavailableError as error:
            outcomes.append(error.reason)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    assert outcomes.count("ok") == SIGNATURES_WAITING + 1
    assert outcomes.count(Reason.BUSY) == 100 - SIGNATURES_WAITING - 1
    assert trio.current_time() - started == pytest.approx(SIGNATURES_WAITING + 1)


def test_the_hub_s_clock_cannot_be_set() -> None:
    """It is that of the boot."""
    assert 0 < boottime_s() <= boottime_s()
