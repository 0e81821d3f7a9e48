# SPDX-License-Identifier: Apache-2.0
"""Simulated producers: they live outside the product, repeat themselves until they are answered, and misbehave."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.intake import Outcome
from appliance.boundary.names import EVERYONE, Category, MessageId, ProducerId, ZoneId, identity_of
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact
from appliance.boundary.reasons import Reason
from tests.sim.book import SPOILT, peer_of
from tests.sim.machine import GoneError, Machine, Process
from tests.sim.plan import CATEGORIES

if TYPE_CHECKING:
    from tests.sim.world import World

_INVALID: Final = ('{"envelope":', '{"envelope":{},"fact":{}}', '{"n":1}', "[]")
_INVALID_ID: Final = "-bad"
Call = list[list["Sent"]]
"""What a producer sends at once: units, each of which is stored as a whole or not at all."""
Answers = list[tuple[AppendResult, str]]
"""The answer to a unit: a result per fact, and the epoch of the log it is about."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One fact as a producer sends it. ``content``: the digest of its canonical bytes, made here independently."""

    zone: ZoneId
    producer: str
    category: Category
    to: str
    fact_id: str
    subject: str
    payload: bytes
    content: str


def make_fact(zone: ZoneId, producer: str, category: Category, to: str, fact_id: str, number: int) -> Sent:
    """A valid fact."""
    document = {
        "envelope": {
            "from_zone": identity_of(zone),
            "message_id": fact_id,
            "produced_at_unix_ms": 1_700_000_000_000 + number,
            "to_zone": to if to == EVERYONE else identity_of(ZoneId(to)),
        },
        "fact": {"object_json": {"n": number}, "predicate": "is", "subject": f"thing:{number}"},
    }
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    payload = canonical if number % 2 else json.dumps(document, indent=1).encode()
    subject = f"facts.{category}.{zone}.{to}.{producer}.reading"
    return Sent(zone, producer, category, to, fact_id, subject, payload, hashlib.sha256(canonical).hexdigest())


def make_invalid(fact: Sent, dice: random.Random) -> Sent:
    """The same without sense."""
    payload = dice.choice(_INVALID).encode()
    return Sent(
        fact.zone,
        fact.producer,
        fact.category,
        fact.to,
        fact.fact_id + _INVALID_ID,
        fact.subject,
        payload,
        hashlib.sha256(payload).hexdigest(),
    )


class Producer:
    """One producer of a zone, with its script of calls."""

    def __init__(self, world: World, machine: Machine, name: str) -> None:
        self._world, self._machine, self._name = world, machine, name
        self._dice = random.Random(f"producer {machine.zone} {name} {world.plan.seed}")
        self._sent: list[Sent] = []

    async def run(self) -> None:
        """Send the whole script, call by call, with some of the calls side by side."""
        async with trio.open_nursery() as nursery:
            for call in self._script():
                if self._dice.random() < 0.15:
                    nursery.start_soon(self._send, call)
                else:
                    await self._send(call)
                if self._dice.random() < 0.3 and not self._world.healed:
                    await trio.sleep(self._dice.uniform(0, self._world.plan.length_s / 4))

    def _script(self) -> Iterator[Call]:
        dice, plan = self._dice, self._world.plan
        number = 0
        while number < plan.facts:
            category = dice.choice(CATEGORIES)
            unit = []
            for _ in range(dice.choice((1, 1, 1, 2, 3))):
                number += 1
                unit.append(self._fresh(category, number))
            if dice.random() < plan.invalid:
                unit[dice.randrange(len(unit))] = make_invalid(unit[0], dice)
            yield [unit]
            self._sent += [fact for fact in unit if not fact.fact_id.endswith((*SPOILT, _INVALID_ID))]
            yield from self._misbehave(unit)

    def _fresh(self, category: Category, number: int) -> Sent:
        dice, zone = self._dice, self._machine.zone
        to = dice.choice((EVERYONE, EVERYONE, peer_of(zone), zone))
        fact_id = f"{self._name}-{number}"
        if to != zone and dice.random() < self._world.plan.poisoned:
            fact_id += dice.choice(SPOILT)
        return make_fact(zone, self._name, category, to, fact_id, number)

    def _misbehave(self, unit: list[Sent]) -> Iterator[Call]:
        dice, plan = self._dice, self._world.plan
        if not self._sent:
            return
        fact = dice.choice(self._sent)
        if dice.random() < plan.repeated:
            yield [[dice.choice(self._sent)] for _ in range(dice.randint(1, 3))]
        if dice.random() < plan.repeated:
            yield [unit]
        if dice.random() < plan.conflicting:
            yield [[make_fact(fact.zone, fact.producer, fact.category, fact.to, fact.fact_id, 10_000)]]
        if dice.random() < plan.conflicting / 3:
            other = CATEGORIES[1 - CATEGORIES.index(fact.category)]
            yield [[make_fact(fact.zone, fact.producer, other, fact.to, fact.fact_id, 10_000)]]

    async def _send(self, call: Call) -> None:
        """Repeat a call until every unit of it is answered."""
        waiting = [unit for unit in call if not self._forgotten(unit)]
        while waiting:
            ops = [[self._op(fact) for fact in unit] for unit in waiting]
            answers = await self._call(waiting)
            waiting = [
                unit
                for unit, unit_ops, answer in zip(waiting, ops, answers, strict=True)
                if not self._is_settled(unit, unit_ops, answer)
            ]
            if waiting:
                await trio.sleep(self._dice.uniform(0.05, 1.0))
                waiting = [unit for unit in waiting if not self._forgotten(unit)]

    def _forgotten(self, unit: list[Sent]) -> bool:
        """A producer does not send again what its zone can no longer know: the facts and the ledger are gone."""
        forgotten = self._world.forgotten
        return any((fact.zone, ProducerId(fact.producer), MessageId(fact.fact_id)) in forgotten for fact in unit)

    def _op(self, fact: Sent) -> str:
        self._world.sent[fact.zone][ProducerId(fact.producer), MessageId(fact.fact_id)] = None
        return self._world.book.recorder.append(
            zone=fact.zone,
            producer=fact.producer,
            category=fact.category,
            to=fact.to,
            fact_id=fact.fact_id,
            content=fact.content,
        )

    async def _call(self, units: Call) -> list[Answers | None]:
        """Hand units in, all at once; what is not answered stays ``None``."""
        answers: list[Answers | None] = [None] * len(units)
        process = self._machine.process
        if process is None:
            await trio.sleep(0.1)
            return answers

        async def append(to: Process) -> None:
            done, missing = trio.Event(), set(range(len(units)))

            def answer(index: int, outcome: Outcome) -> None:
                if not isinstance(outcome, BsfgError):
                    answers[index] = [(result, self._epoch(units[index][0].category)) for result in outcome]
                missing.discard(index)
                if not missing:
                    done.set()

            for index, unit in enumerate(units):
                facts = [ProducedFact(fact.subject, fact.payload) for fact in unit]
                to.intakes[unit[0].category].submit(facts, partial(answer, index))
            await done.wait()

        with suppress(GoneError):
            await process.call(append)
        return answers

    def _epoch(self, category: Category) -> str:
        stream = self._machine.disk.streams[f"FACTS_{category.upper()}"]
        return self._world.book.name(stream.epoch)

    def _is_settled(self, unit: list[Sent], ops: list[str], answers: Answers | None) -> bool:
        """Record the answer to a unit; whether it is final."""
        recorder, full = self._world.book.recorder, False
        if answers is None:
            for op in ops:
                recorder.info(op, "no answer")
            return False
        for fact, op, (result, epoch) in zip(unit, ops, answers, strict=True):
            if result.outcome in (AppendOutcome.STORED, AppendOutcome.DUPLICATE):
                duplicate = result.outcome is AppendOutcome.DUPLICATE
                recorder.ok(op, offset=result.offset, epoch=epoch, duplicate=duplicate)
            else:
                full |= result.reason is Reason.BUFFER_FULL
                recorder.refused(op, result.reason or result.outcome)
            self._world.trace(f"{fact.zone} answers {fact.fact_id} {result.outcome} {result.offset}")
            self._world.book.count(f"fact {result.reason if full else result.outcome}")
        return not full
