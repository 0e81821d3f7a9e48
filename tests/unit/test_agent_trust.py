# SPDX-License-Identifier: Apache-2.0
"""The box's side of trust under simulated time: when it calls, what makes it call sooner, and what it says is wrong."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import pytest
import trio
import trio.testing

from appliance.agent.trust import (
    ATTEST_EVERY_S,
    AWAY_PAUSE_S,
    LONGEST_PAUSE_S,
    LOOK_EVERY_S,
    SHORTEST_GAP_S,
    TIME_EVERY_S,
    Duty,
    TrustLoop,
    TrustSchedule,
)
from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.boundary.trust import AttestationAnswer
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.keeper.port import Certified, KeeperState, KeeperStatus, Quote
from tests.attesting import PLANT, SimulatedTpm

WORKS = AttestationAnswer(True, (), 900)


@dataclass
class Keeper:
    """What the loop needs of a keeper: a simulated TPM, and a state that a test sets."""

    tpm: SimulatedTpm = field(default_factory=SimulatedTpm)
    state: KeeperState = KeeperState.READY
    away: BsfgError | None = None
    nonces: int = 0
    tokens: list[bytes] = field(default_factory=list)

    async def status(self) -> KeeperStatus:
        """Only the state matters."""
        if self.away is not None:
            raise self.away
        return KeeperStatus(self.state, "swtpm", PLANT, 1, None, 0, {}, 0, 0)

    async def time_nonce(self) -> bytes:
        """A new one each time."""
        self.nonces += 1
        return self.nonces.to_bytes(32)

    async def set_time(self, token: bytes) -> int:
        """Take what comes."""
        self.tokens.append(token)
        if self.state is KeeperState.TIME_UNKNOWN:
            self.state = KeeperState.READY
        return 42

    async def quote(self, nonce: bytes) -> Quote:
        """As a keeper does it."""
        return Quote(self.tpm.quote(nonce), dict(self.tpm.pcrs), b"", b"")

    async def certify(self, nonce: bytes) -> Certified:
        """As a keeper does it; of the key nobody asks here."""
        counter = self.tpm.sign(self.tpm.counter_statement(nonce))
        return Certified(counter, counter, b"a release")


@dataclass
class Hub:
    """A hub that answers, or fails as a test says."""

    failure: BsfgError | None = None
    answer: AttestationAnswer = WORKS
    calls: list[tuple[str, float]] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)

    async def get_time(self, nonce: bytes) -> bytes:
        """The nonce is token enough here."""
        self._called("time")
        return nonce

    async def enrol(self, document: bytes) -> bytes:
        """Enrolment is no duty of the loop; it must not ask."""
        raise AssertionError("the trust loop enrolled")

    async def begin_attestation(self, zone: ZoneId) -> bytes:
        """Always the same."""
        self._called("begin")
        return bytes(32)

    async def attest(self, zone: ZoneId, evidence: bytes) -> AttestationAnswer:
        """Keeps what it is shown."""
        self._called("attest")
        self.evidence.append(Evidence.parse(evidence))
        return self.answer

    def _called(self, what: str) -> None:
        self.calls.append((what, trio.current_time()))
        if self.failure is not None:
            raise self.failure

    def times(self, what: str) -> list[float]:
        """When it was called."""
        return [at for name, at in self.calls if name == what]


@asynccontextmanager
async def running(keeper: Keeper, hub: Hub) -> AsyncIterator[TrustLoop]:
    """The loop, until the block ends."""
    async with trio.open_nursery() as nursery:
        loop = TrustLoop(PLANT, keeper, hub, random=Random(1))  # type: ignore[arg-type]
        nursery.start_soon(loop.run)
        yield loop
        nursery.cancel_scope.cancel()


def gaps(times: list[float]) -> list[float]:
    """The pauses between moments."""
    return [after - before for before, after in itertools.pairwise(times)]


async def test_time_and_evidence_at_start_and_in_their_rhythm(autojump_clock: trio.testing.MockClock) -> None:
    """Time first. Ten and five minutes, a little earlier by chance, for a day."""
    keeper, hub = Keeper(), Hub()
    async with running(keeper, hub) as loop:
        await trio.sleep(86_400)
        assert hub.calls[0][0] == "time"
        assert [name for name, _ in hub.calls[1:3]] == ["begin", "attest"]
        assert loop.problems() == []
        assert (loop.boundary_unix_ms, loop.answer) == (42, WORKS)
    for what, every_s in (("time", TIME_EVERY_S), ("attest", ATTEST_EVERY_S)):
        pauses = gaps(hub.times(what))
        assert all(every_s * 0.9 <= pause <= every_s for pause in pauses)
        assert len({round(pause, 3) for pause in pauses}) > len(pauses) / 2
    assert keeper.tokens == [number.to_bytes(32) for number in range(1, len(keeper.tokens) + 1)]
    assert hub.evidence[0].quote.statement == keeper.tpm.statement(bytes(32))
    standing = hub.evidence[0].standing
    assert standing is not None
    assert standing.counter.statement == keeper.tpm.counter_statement(bytes(32))
    assert standing.release == b"a release"


@pytest.mark.parametrize(("reason", "longest_s"), [(Reason.LINK_DOWN, AWAY_PAUSE_S), (Reason.BUSY, LONGEST_PAUSE_S)])
async def test_a_hub_that_is_away_or_refuses_is_not_hammered(
    reason: Reason, longest_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    """Pauses grow, further where somebody refuses; it is said what is wrong; afterwards all is well soon."""
    keeper, hub = Keeper(), Hub(failure=UnavailableError(reason))
    async with running(keeper, hub) as loop:
        await trio.sleep(3600)
        assert [(where, error.reason) for where, error in loop.problems()] == [("time", reason), ("attest", reason)]
        assert 3600 / longest_s <= len(hub.times("time")) <= 2.4 * 3600 / longest_s
        pauses = gaps(hub.times("time"))
        assert pauses[0] < 2
        assert max(pauses) <= longest_s
        assert min(pauses[8:]) >= longest_s / 2
        hub.failure = None
        await trio.sleep(longest_s)
        assert loop.problems() == []


async def test_a_hub_that_says_stale_is_shown_evidence_soon_and_not_too_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However often it says so; other refusals are no reason."""
    keeper, hub = Keeper(), Hub()
    async with running(keeper, hub) as loop:
        await trio.sleep(60)
        assert len(hub.times("attest")) == 1
        for _ in range(100):
            loop.heard(DeniedError(Reason.ATTESTATION_FAILED))
            await trio.sleep(0.1)
        assert len(hub.times("attest")) == 1
        for _ in range(100):
            loop.heard(DeniedError(Reason.ATTESTATION_STALE))
            await trio.sleep(0.1)
        assert 2 <= len(hub.times("attest")) <= 1 + 10 / SHORTEST_GAP_S + 1
        assert len(hub.times("time")) == 1


async def test_a_keeper_without_time_gets_it(autojump_clock: trio.testing.MockClock) -> None:
    """As when it was restarted without its offset."""
    keeper, hub = Keeper(), Hub()
    async with running(keeper, hub):
        await trio.sleep(60)
        keeper.state = KeeperState.TIME_UNKNOWN
        await trio.sleep(2 * SHORTEST_GAP_S)
        assert len(hub.times("time")) == 2
        assert keeper.state is KeeperState.READY


async def test_a_box_attests_as_soon_as_it_is_enrolled(autojump_clock: trio.testing.MockClock) -> None:
    """Until then the hub does not know it, and the pauses have grown."""
    keeper = Keeper(state=KeeperState.NOT_ENROLLED)
    hub = Hub(failure=DeniedError(Reason.UNKNOWN_PEER))
    async with running(keeper, hub) as loop:
        await trio.sleep(600)
        hub.failure, keeper.state = None, KeeperState.READY
        await trio.sleep(2 * SHORTEST_GAP_S)
        assert len(hub.evidence) == 1
        assert [where for where, _ in loop.problems()] in ([], ["time"])


async def test_a_keeper_that_is_away_is_a_problem_and_no_end(autojump_clock: trio.testing.MockClock) -> None:
    """The loop outlives it."""
    keeper, hub = Keeper(), Hub()
    async with running(keeper, hub) as loop:
        keeper.away = UnavailableError(Reason.TPM_ABSENT)
        await trio.sleep(3600)
        keeper.away = None
        await trio.sleep(600)
        assert loop.problems() == []


async def test_what_the_hub_finds_is_shown_and_over_within_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    """It is asked again with growing pauses: what it found may be over."""
    keeper, hub = Keeper(), Hub(answer=AttestationAnswer(False, ("PCR 7 differs",)))
    async with running(keeper, hub) as loop:
        await trio.sleep(1000)
        ((where, error),) = loop.problems()
        assert (where, error.reason, error.detail) == ("attest", Reason.ATTESTATION_FAILED, "PCR 7 differs")
        assert 15 < len(hub.evidence) < 45
        hub.answer = WORKS
        await trio.sleep(LONGEST_PAUSE_S)
        assert loop.problems() == []


async def test_a_tpm_that_is_well_again_is_shown_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """As after a reset, in whose middle the hub saw a boot that was not finished; every time, not by chance."""
    keeper, hub = Keeper(), Hub(answer=AttestationAnswer(False, ("PCR 11 differs",)))
    async with running(keeper, hub) as loop:
        for _ in range(10):
            await trio.sleep(1000)
            keeper.state = KeeperState.TPM_REFUSED
            await trio.sleep(2 * LOOK_EVERY_S)
            before, keeper.state = len(hub.evidence), KeeperState.READY
            await trio.sleep(LOOK_EVERY_S + SHORTEST_GAP_S)
            assert len(hub.evidence) > before
        hub.answer = WORKS
        await trio.sleep(LONGEST_PAUSE_S)
        assert loop.problems() == []


async def test_a_token_that_the_keeper_refuses_is_asked_for_again(autojump_clock: trio.testing.MockClock) -> None:
    """With growing pauses, as when the hub's clock went back."""
    keeper, hub = Keeper(), Hub()

    async def refuse(token: bytes) -> int:
        raise DeniedError(Reason.BAD_TIME_TOKEN, "before the floor")

    keeper.set_time = refuse  # type: ignore[method-assign]
    async with running(keeper, hub) as loop:
        await trio.sleep(600)
        assert [error.reason for _, error in loop.problems()] == [Reason.BAD_TIME_TOKEN]
        assert 10 <= len(hub.times("time")) <= 40


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_is_never_in_a_hurry_and_never_late(seed: int) -> None:
    """Whatever is asked of it and however it goes: attempts keep their gap, and each duty keeps coming."""
    random, now = Random(seed), 0.0
    schedule = TrustSchedule(random)
    last: dict[Duty, float] = {}
    for _ in range(2000):
        action = random.random()
        if action < 0.5:
            schedule.wanted(random.choice(list(Duty)), now)
        duty, due = schedule.next()
        if action < 0.4:
            now += random.uniform(0, 3)
            continue
        now = max(now, due)
        assert now - last.get(duty, -SHORTEST_GAP_S) >= 0.5
        assert now - last.get(duty, now) <= TIME_EVERY_S + 10
        last[duty] = now
        (schedule.done if random.random() < 0.7 else schedule.failed)(duty, now)
