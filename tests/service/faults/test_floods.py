# SPDX-License-Identifier: Apache-2.0
"""Floods of duplicates and of conflicts: answered one by one to the producer's face, and nothing of them is stored."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from appliance.boundary.names import EVERYONE
from appliance.dev.layout import PLANT, ZONES, ProcessName
from tests.service.world.judgement import Tell, conclude, settle
from tests.service.world.producers import CONFLICT, DUPLICATE, STORED, Outgoing, Producer
from tests.service.world.seeds import LONG, seed_of
from tests.service.world.zones import AUDIT, OPERATIONAL, TELEMETRY, World, peer_of, running_world

FACTS: Final = 250
"""Of each producer."""
ROUNDS: Final = 40 if LONG else 4
"""How often each fact is sent again."""
FORGERIES: Final = 10 if LONG else 1
"""How many other contents are tried under each id."""


def test_floods_are_answered_and_store_nothing(tmp_path: Path, tell: Tell) -> None:
    """In both zones, before and after agent, hub and brokers were killed, and in other categories too."""
    asyncio.run(_flood(tmp_path, tell))


async def _flood(folder: Path, tell: Tell) -> None:
    async with running_world(folder, seed_of("floods")) as world:
        producers = list(world.producers.values())
        await asyncio.gather(*(_first(producer) for producer in producers))
        await settle(world)
        before = await _ends(world)
        for process in (None, ProcessName.AGENT, ProcessName.HUB, ProcessName.PLANT_NATS, ProcessName.ENTERPRISE_NATS):
            if process is not None:
                await world.kill_surely(process)
            for producer in producers:
                await _repeat(producer, world.dice)
        assert await _ends(world) == before, "a duplicate or a conflict was stored"
        judgement = await conclude(world, "floods", tell, receipts=True)
        counts = judgement.verdict.counts
        assert counts.duplicates >= 5 * ROUNDS * FACTS * len(producers) // 4
        assert counts.refused[CONFLICT] >= 5 * FORGERIES * FACTS * len(producers) // 4


async def _first(producer: Producer) -> None:
    facts = producer.make_many(FACTS, (OPERATIONAL, TELEMETRY), (peer_of(producer.zone), EVERYONE))
    answers = await producer.send_all(facts)
    assert {answer.word for answer in answers} <= {STORED, DUPLICATE}


async def _repeat(producer: Producer, dice: random.Random) -> None:
    """A quarter of what was sent, again and again, mixed with other contents under the same ids."""
    chosen = dice.sample(producer.acknowledged, FACTS // 4 + 1)
    calls: list[tuple[Outgoing, int | None]] = [pair for _ in range(ROUNDS) for pair in chosen]
    calls += [(fact.forged(number), None) for number in range(FORGERIES) for fact, _ in chosen]
    calls += [(_elsewhere(fact), None) for fact, _ in chosen[:10]]
    dice.shuffle(calls)
    answers = await producer.send_all([fact for fact, _ in calls])
    for (fact, offset), answer in zip(calls, answers, strict=True):
        if offset is None:
            assert answer.word == CONFLICT, (fact.fact_id, answer)
            assert "sha256" in answer.detail or "category" in answer.detail
        else:
            assert (answer.word, answer.offset) == (DUPLICATE, offset), fact.fact_id


def _elsewhere(fact: Outgoing) -> Outgoing:
    """The same content in a category where it is not stored; "duplicate" would say that it is."""
    return replace(fact, category=AUDIT, subject=fact.subject.replace(fact.category, AUDIT, 1))


async def _ends(world: World) -> Counter[str]:
    """The last fact's place in every log of both zones; markers do not count."""
    ends: Counter[str] = Counter()
    for zone in ZONES:
        for stream in await world.readers[zone].streams():
            if stream.origin == zone:
                ends[f"{zone} {stream.name}"] = stream.last
    for (origin, category, _), position in (await world.readers[PLANT].positions()).items():
        ends[f"{origin} {category}"] = position
    return ends
