# SPDX-License-Identifier: Apache-2.0
"""Group commit: what local producers hand in while one batch is being written becomes the next batch.

One :class:`Intake` per category. Facts of many producers share one fsync; each unit (one fact from a NATS producer, up
to 1000 from an AppendFact call) is stored all or not at all, and answered only when it is durable.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.messages import Message, parse_produced
from appliance.boundary.names import Category, FactSubject, ZoneId
from appliance.boundary.pages import MAX_PAGE_BYTES, MAX_PAGE_FACTS
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact, Producer
from appliance.boundary.reasons import Reason
from appliance.boundary.store import StoreBuffer
from appliance.boundary.suspending import NobodySuspended, SuspensionsPort

_log = logging.getLogger(__name__)

MAX_WAITING_FACTS: Final = 20_000
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
_PARSE_TURN: Final = 100
"""Facts parsed before others get a turn of the loop."""

Outcome = Sequence[AppendResult] | BsfgError
Answer = Callable[[Outcome], None]


@dataclass(slots=True)
class _Entry:
    facts: Sequence[ProducedFact]
    answer: Answer
    size: int


class Intake:
    """Collects units for one category's store buffer and commits them in groups."""

    def __init__(self, store: StoreBuffer, suspensions: SuspensionsPort | None = None) -> None:
        self._suspensions = suspensions or NobodySuspended()
        self.counts: Counter[AppendOutcome] = Counter()
        self.problem: BsfgError | None = None
        self._store = store
        self._waiting: deque[_Entry] = deque()
        self._facts = 0
        self._bytes = 0
        self._wake = trio.Event()

    def submit(self, facts: Sequence[ProducedFact], answer: Answer) -> None:
        """Queue a unit; ``answer`` is called once, with its results or the error that leaves them unknown."""
        size = sum(len(fact.payload) for fact in facts)
        if self._facts + len(facts) > MAX_WAITING_FACTS or self._bytes + size > MAX_WAITING_BYTES:
            answer(UnavailableError(Reason.NOT_READY, f"{self._facts} facts are waiting to be stored"))
            return
        self._waiting.append(_Entry(facts, answer, size))
        self._facts += len(facts)
        self._bytes += size
        self._wake.set()

    async def run(self) -> None:
        """Commit groups until cancelled. An error is answered to its group and does not end the intake."""
        while True:
            await self._wake.wait()
            group = self._take()
            if not group:
                self._wake = trio.Event()
                continue
            outcomes = await self._commit(group)
            for entry, outcome in zip(group, outcomes, strict=True):
                if not isinstance(outcome, BsfgError):
                    self.counts.update(result.outcome for result in outcome)
                entry.answer(outcome)

    def _take(self) -> list[_Entry]:
        group: list[_Entry] = []
        facts = size = 0
        while self._waiting:
            entry = self._waiting[0]
            if group and (facts + len(entry.facts) > MAX_PAGE_FACTS or size + entry.size > MAX_PAGE_BYTES):
                break
            group.append(self._waiting.popleft())
            facts += len(entry.facts)
            size += entry.size
        self._facts -= facts
        self._bytes -= size
        return group

    async def _commit(self, group: Sequence[_Entry]) -> Sequence[Outcome]:
        units = []
        for number, entry in enumerate(group, start=1):
            units.append([self._served(_parse(fact)) for fact in entry.facts])
            if number % _PARSE_TURN == 0:
                await trio.sleep(0)  # noqa: ASYNC115 - this layer keeps off trio.lowlevel
        try:
            results = await self._store.commit(units)
        except BsfgError as error:
            if self.problem is None or self.problem.reason is not error.reason:
                _log.warning("%s intake: %s", self._store.category, error)
            self.problem = error
            return [error] * len(group)
        self.problem = None
        for unit, outcome in zip(units, results, strict=True):
            for fact, result in zip(unit, outcome, strict=True):
                if isinstance(fact, Message) and result.outcome is AppendOutcome.CONFLICT:
                    detail = f"{fact.subject}, id {fact.message_id}: {result.detail}"
                    await self._suspensions.suspend(fact.subject.producer, detail)
        return results

    def _served(self, fact: Message | AppendResult) -> Message | AppendResult:
        """The fact, unless its producer is suspended."""
        suspended = self._suspensions.of(fact.subject.producer) if isinstance(fact, Message) else None
        return fact if suspended is None else suspended.refusal()


def _parse(fact: ProducedFact) -> Message | AppendResult:
    try:
        return parse_produced(fact)
    except RefusedError as refused:
        return AppendResult(AppendOutcome.INVALID, reason=refused.reason, detail=refused.detail)


class ProducerDesk:
    """AppendFact for local producers; implements :class:`~appliance.boundary.ports.ProducerPort`."""

    def __init__(self, zone: ZoneId, intakes: Mapping[Category, Intake]) -> None:
        self._zone = zone
        self._intakes = intakes

    async def append_facts(self, producer: Producer, facts: Sequence[ProducedFact]) -> list[AppendResult]:
        """See the port. :raises RefusedError: ``bad_request``: none, too many, or of several categories."""
        if not 1 <= len(facts) <= MAX_PAGE_FACTS:
            raise RefusedError(Reason.BAD_REQUEST, f"{len(facts)} facts; 1 to {MAX_PAGE_FACTS} are allowed")
        subjects = [FactSubject.parse(fact.subject) for fact in facts]
        if len({subject.category for subject in subjects}) > 1:
            raise RefusedError(Reason.BAD_REQUEST, "the facts of one request are of one category")
        subject = subjects[0]
        if any(s.producer != producer.id or s.origin != self._zone for s in subjects):
            raise DeniedError(Reason.CATEGORY_DENIED, f"{producer.id} appends under its own name in {self._zone} only")
        intake = self._intakes.get(subject.category)
        if intake is None or not producer.may_append(subject.category):
            raise DeniedError(Reason.CATEGORY_DENIED, f"{producer.id} may not append {subject.category}")
        answered = trio.Event()
        outcomes: list[Outcome] = []

        def answer(outcome: Outcome) -> None:
            outcomes.append(outcome)
            answered.set()

        intake.submit(facts, answer)
        await answered.wait()
        outcome = outcomes[0]
        if isinstance(outcome, BsfgError):
            raise outcome
        return list(outcome)
