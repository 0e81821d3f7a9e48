# SPDX-License-Identifier: Apache-2.0
"""Group commit: many producers share an append, units are whole, every producer is answered once and truly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from appliance.boundary import intake as intake_module
from appliance.boundary.claims import IdClaims
from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.intake import Intake, Outcome
from appliance.boundary.names import Category
from appliance.boundary.producing import AppendOutcome, ProducedFact
from appliance.boundary.reasons import Reason
from appliance.boundary.store import StoreBuffer
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeDisk, FakeLogs, Faults, Limits
from tests.produced import PLANT, produced

AUDIT = Category("audit")
STORED, DUPLICATE, CONFLICT = AppendOutcome.STORED, AppendOutcome.DUPLICATE, AppendOutcome.CONFLICT
INVALID, NOT_STORED = AppendOutcome.INVALID, AppendOutcome.NOT_STORED


@dataclass
class Bench:
    """An intake over in-memory logs, and everything that was answered."""

    intake: Intake
    disk: FakeDisk
    faults: Faults
    calls: Counter[str] = field(default_factory=Counter)
    answers: dict[int, list[Outcome]] = field(default_factory=dict)

    def submit(self, *facts: ProducedFact) -> int:
        """Hand a unit in; its number."""
        number = len(self.answers)
        answers = self.answers[number] = []
        self.intake.submit(facts, answers.append)
        return number

    async def settled(self) -> None:
        """Wait until everything handed in was answered."""
        with trio.fail_after(10):
            while not all(self.answers.values()):  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.001)

    def outcomes(self, number: int) -> list[tuple[AppendOutcome, int]]:
        """What a unit was told: one answer, and what it says."""
        (answer,) = self.answers[number]
        assert not isinstance(answer, BsfgError)
        return [(result.outcome, result.offset) for result in answer]

    def error(self, number: int) -> BsfgError:
        """The error a unit was told."""
        (answer,) = self.answers[number]
        assert isinstance(answer, BsfgError)
        return answer

    def stored(self) -> list[str]:
        """The ids in the log, in order."""
        return [record.headers["Bsfg-Id"] for record in self.disk.streams["FACTS_AUDIT"].records]


@asynccontextmanager
async def bench(*, running: bool = True, limits: Limits | None = None, seed: int = 0) -> AsyncIterator[Bench]:
    """A bench whose intake runs, or will when the block is left."""
    faults, disk, ledger = Faults(random.Random(seed)), FakeDisk(), FakeLedger()
    logs = FakeLogs(PLANT, disk, faults, {AUDIT: limits} if limits else None)
    store = StoreBuffer(PLANT, AUDIT, logs, ledger, IdClaims(), note=lambda incident: None)
    made = Bench(Intake(store), disk, faults)
    faults.tap = lambda what: made.calls.update([what])
    async with trio.open_nursery() as nursery:
        if running:
            nursery.start_soon(made.intake.run)
        yield made
        nursery.cancel_scope.cancel()


async def drained(made: Bench) -> None:
    """Run the intake until everything is answered."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.intake.run)
        await made.settled()
        nursery.cancel_scope.cancel()


async def test_what_waits_shares_one_append() -> None:
    """500 producers, one write; each is told its own offset, in the order they came."""
    async with bench(running=False) as made:
        numbers = [made.submit(produced(f"m-{n}", n=n)) for n in range(500)]
        await drained(made)
        assert made.calls["append"] == 1
        assert [made.outcomes(number) for number in numbers] == [[(STORED, n + 1)] for n in range(500)]
        assert made.stored() == [f"m-{n}" for n in range(500)]
        assert made.intake.counts == {STORED: 500}


async def test_what_comes_during_a_write_is_the_next_group() -> None:
    """Nobody waits for a timer, and nobody gets a write of his own."""
    async with bench() as made:

        def tap(what: str) -> None:
            made.calls[what] += 1
            if what == "append" and made.calls["append"] == 1:
                for n in range(1, 51):
                    made.submit(produced(f"m-{n}", n=n))

        made.faults.tap = tap
        made.submit(produced("m-0"))
        await made.settled()
        await trio.testing.wait_all_tasks_blocked()
        await made.settled()
        assert made.calls["append"] == 2
        assert made.stored() == [f"m-{n}" for n in range(51)]


async def test_a_group_has_at_most_a_page_of_facts() -> None:
    """1000 facts, and a unit is never split over two groups."""
    async with bench(running=False) as made:
        sizes = (999, 1, 400, 600, 1, 1000)
        for unit, size in enumerate(sizes):
            made.submit(*(produced(f"m-{unit}-{n}") for n in range(size)))
        await drained(made)
        assert made.calls["append"] == 4  # 999 + 1, 400 + 600, 1, 1000
        assert len(made.stored()) == sum(sizes)


async def test_a_group_has_at_most_a_page_of_bytes() -> None:
    """4 MiB, however few facts that are."""
    async with bench(running=False) as made:
        for n in range(40):
            made.submit(produced(f"m-{n}", text="x" * 200_000))
        await drained(made)
        assert made.calls["append"] == 2
        assert len(made.stored()) == 40


async def test_a_unit_is_stored_whole_or_not_at_all() -> None:
    """One bad fact keeps its companions out, and nobody else."""
    async with bench(running=False) as made:
        bad = ProducedFact(produced("x").subject, b"not json")
        before = made.submit(produced("a"))
        unit = made.submit(produced("b"), bad, produced("c"))
        conflict = made.submit(produced("d"), produced("a", other=1))
        after = made.submit(produced("e"), produced("f"))
        await drained(made)
        assert made.outcomes(before) == [(STORED, 1)]
        assert made.outcomes(unit) == [(NOT_STORED, 0), (INVALID, 0), (NOT_STORED, 0)]
        assert made.outcomes(conflict) == [(NOT_STORED, 0), (CONFLICT, 0)]
        assert made.outcomes(after) == [(STORED, 2), (STORED, 3)]
        assert made.stored() == ["a", "e", "f"]
        assert made.intake.counts == {STORED: 3, NOT_STORED: 3, INVALID: 1, CONFLICT: 1}


async def test_duplicates_are_told_the_first_offset() -> None:
    """Within a unit, within a group, and later; another producer's id is another id."""
    async with bench(running=False) as made:
        unit = made.submit(produced("a"), produced("b"), produced("a"))
        same_group = made.submit(produced("b"))
        other = made.submit(produced("a", producer="mes"))
        await drained(made)
        later = made.submit(produced("a"))
        await drained(made)
        assert made.outcomes(unit) == [(STORED, 1), (STORED, 2), (DUPLICATE, 1)]
        assert made.outcomes(same_group) == [(DUPLICATE, 2)]
        assert made.outcomes(other) == [(STORED, 3)]
        assert made.outcomes(later) == [(DUPLICATE, 1)]
        assert made.calls["append"] == 1


async def test_the_reason_reaches_the_producer() -> None:
    """What is wrong, with the field's name."""
    async with bench() as made:
        number = made.submit(ProducedFact(produced("a").subject, b'{"envelope":{}}'))
        await made.settled()
        (answer,) = made.answers[number]
        assert not isinstance(answer, BsfgError)
        assert answer[0].reason is Reason.MISSING_FIELD
        assert answer[0].detail


async def test_an_unreachable_log_fails_the_group_and_not_the_intake() -> None:
    """Everybody in the group hears that the outcome is unknown; the next group finds what there is."""
    async with bench() as made:
        first = made.submit(produced("a"))
        await made.settled()
        made.faults.lost_before = 1.0
        lost = [made.submit(produced("b")), made.submit(produced("c"))]
        await made.settled()
        assert {made.error(number).reason for number in lost} == {Reason.BROKER_UNAVAILABLE}
        assert made.intake.problem is not None
        made.faults.lost_before = 0.0
        again = made.submit(produced("b"))
        await made.settled()
        assert made.outcomes(again) == [(STORED, 2)]
        assert made.outcomes(first) == [(STORED, 1)]
        assert made.intake.problem is None


async def test_a_full_log_is_a_refusal_of_new_facts_alone() -> None:
    """What was stored before is still recognised, so a producer that repeats itself is not told a lie."""
    async with bench(limits=Limits(max_records=2)) as made:
        made.submit(produced("a"))
        made.submit(produced("b"))
        await made.settled()
        full, duplicate = made.submit(produced("c")), made.submit(produced("a"))
        await made.settled()
        assert made.outcomes(full) == [(INVALID, 0)]
        (answer,) = made.answers[full]
        assert not isinstance(answer, BsfgError)
        assert answer[0].reason is Reason.BUFFER_FULL
        assert made.outcomes(duplicate) == [(DUPLICATE, 1)]


@pytest.mark.parametrize(
    ("name", "bound"),
    [("MAX_WAITING_FACTS", 10), ("MAX_WAITING_BYTES", 10 * len(produced("m-0000").payload) + 1)],
)
async def test_overload_is_answered_at_once(monkeypatch: pytest.MonkeyPatch, name: str, bound: int) -> None:
    """Memory is bounded; whoever is turned away may come again, whoever waits is served."""
    monkeypatch.setattr(intake_module, name, bound)
    async with bench(running=False) as made:
        numbers = [made.submit(produced(f"m-{n:04}")) for n in range(50)]
        waiting = [number for number in numbers if not made.answers[number]]
        turned_away = [number for number in numbers if made.answers[number]]
        assert len(waiting) == 10
        assert {made.error(number).reason for number in turned_away} == {Reason.NOT_READY}
        assert all(isinstance(made.error(number), UnavailableError) for number in turned_away)
        await drained(made)
        assert len(made.stored()) == 10
        assert not made.answers[made.submit(produced("later"))]  # there is room again
        await drained(made)
        assert made.stored()[-1] == "later"


async def test_ending_answers_nothing_that_is_not_so() -> None:
    """Cancelled in the middle: whoever was not answered sends again, and learns what became of it."""
    async with bench(running=False) as made:
        number = made.submit(produced("a"))
        made.faults.slow, made.faults.delay_s = 1.0, 5.0
        with trio.move_on_after(0.02):
            await made.intake.run()
        assert made.answers[number] == []


@pytest.mark.parametrize("seed", range(30))
async def test_each_unit_is_answered_once_and_truly(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Answers lost before and after they took effect, at random: producers repeat themselves until they know."""
    dice = random.Random(seed)
    async with bench(seed=seed) as made:
        made.faults.lost_before, made.faults.lost_after = 0.15, 0.15
        made.faults.slow, made.faults.delay_s = 0.2, 0.05
        told: dict[str, set[int]] = {}

        async def producer(name: str) -> None:
            for n in range(12):
                unit = [produced(f"{name}-{n}-{i}", n=n) for i in range(dice.randint(1, 3))]
                number = made.submit(*unit)
                while True:
                    while not made.answers[number]:  # noqa: ASYNC110 - nothing announces it
                        await trio.sleep(0.01)
                    if not isinstance(made.answers[number][0], BsfgError):
                        break
                    await trio.sleep(dice.random() * 0.1)
                    number = made.submit(*unit)
                for fact, (outcome, offset) in zip(unit, made.outcomes(number), strict=True):
                    assert outcome in (STORED, DUPLICATE)
                    told.setdefault(fact.payload.decode(), set()).add(offset)

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(producer, f"p{n}")
        assert {len(answers) for answers in made.answers.values()} == {1}
        records = made.disk.streams["FACTS_AUDIT"].records
        assert [r.seq for r in records] == list(range(1, len(records) + 1))
        assert len(set(made.stored())) == len(records) == len(told)
        assert {offset for offsets in told.values() for offset in offsets} == {r.seq for r in records}
