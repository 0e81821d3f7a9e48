# SPDX-License-Identifier: Apache-2.0
"""Ledgers deleted, logs wiped, an older copy put in place: what can be had again comes back, the rest is explicit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from appliance.boundary.names import EVERYONE, ZoneId
from appliance.dev.layout import ENTERPRISE, NODE, PLANT, ZONES
from tests.judge import Gap
from tests.service.world.judgement import Tell, conclude, settle
from tests.service.world.producers import CONFLICT, DUPLICATE, STORED, Outgoing
from tests.service.world.seeds import seed_of
from tests.service.world.zones import AUDIT, OPERATIONAL, TELEMETRY, World, peer_of, running_world

FACTS: Final = 60
"""Of each producer and round."""


async def _produce(world: World, *, local: bool = True) -> None:
    """One round of facts of all producers in both zones; ``local``: some stay in their own zone."""
    await asyncio.gather(
        *(
            producer.send_all(
                producer.make_many(
                    FACTS,
                    (OPERATIONAL, TELEMETRY, AUDIT),
                    (peer_of(zone), EVERYONE, zone) if local else (peer_of(zone), EVERYONE),
                )
            )
            for (zone, _), producer in world.producers.items()
        )
    )


async def _ids_are_known(world: World, zones: Sequence[ZoneId]) -> None:
    """Facts that are still in the log: the same again is a duplicate at its place, other content is refused."""
    for (zone, _), producer in world.producers.items():
        if zone not in zones:
            continue
        chosen = world.dice.sample(producer.acknowledged, FACTS // 2)
        answers = await producer.send_all([fact for fact, _ in chosen])
        assert [(a.word, a.offset) for a in answers] == [(DUPLICATE, offset) for _, offset in chosen]
        refusals = await producer.send_all([fact.forged(1) for fact, _ in chosen])
        assert {answer.word for answer in refusals} == {CONFLICT}


@pytest.mark.parametrize("zones", [(PLANT,), (ENTERPRISE,), ZONES], ids="-".join)
def test_a_deleted_ledger_is_rebuilt_from_the_logs(tmp_path: Path, tell: Tell, zones: Sequence[ZoneId]) -> None:
    """With a backlog on both sides, and killed while it is being rebuilt."""
    asyncio.run(_ledger_deleted(tmp_path, tell, zones))


async def _ledger_deleted(folder: Path, tell: Tell, zones: Sequence[ZoneId]) -> None:
    async with running_world(folder, seed_of(f"ledger deleted {zones}")) as world:
        await _produce(world)
        await settle(world)
        await world.cut()
        await _produce(world)
        async with world.stopped():
            for zone in zones:
                world.delete_ledger(zone)
        await world.kill_surely(*(NODE[zone] for zone in zones))
        await _ids_are_known(world, ZONES)
        await _produce(world)
        await conclude(world, f"ledger deleted: {', '.join(zones)}", tell)


@pytest.mark.parametrize("reflashed", [False, True], ids=["ledger-kept", "ledger-too"])
def test_a_wiped_plant_starts_a_new_epoch(tmp_path: Path, tell: Tell, reflashed: bool) -> None:
    """What had not crossed is an explicit gap at the hub; what is sent again is stored, and not doubled there."""
    asyncio.run(_plant_wiped(tmp_path, tell, reflashed))


async def _plant_wiped(folder: Path, tell: Tell, reflashed: bool) -> None:
    async with running_world(folder, seed_of(f"plant wiped {reflashed}")) as world:
        await _produce(world, local=not reflashed)
        await settle(world)
        await world.confirmed()
        crossed = {name: len(world.producer(PLANT, name).acknowledged) for name in _names(world)}
        await world.cut()
        await _produce(world, local=not reflashed)
        again = {name: list(world.producer(PLANT, name).acknowledged) for name in _names(world)}
        old = {s.epoch for s in await world.readers[PLANT].streams() if s.origin == PLANT}
        async with world.stopped():
            world.wipe_logs(PLANT)
            if reflashed:
                world.delete_ledger(PLANT)
        await world.arrived()
        for name, sent in again.items():
            producer = world.producer(PLANT, name)
            chosen = sent[: crossed[name] // 2] + sent[crossed[name] + FACTS // 2 :]
            answers = await producer.send_all([fact for fact, _ in chosen])
            assert {answer.word for answer in answers} <= {STORED, DUPLICATE}
            assert sum(answer.word == STORED for answer in answers) > FACTS // 2
        await _produce(world)
        await conclude(world, f"plant wiped, ledger {'too' if reflashed else 'kept'}", tell)
        new = {s.epoch for s in await world.readers[PLANT].streams() if s.origin == PLANT}
        assert not old & new, "a log that was lost must not go on under its old name"
        told = {gap.epoch for gap in world.recorder.events if isinstance(gap, Gap) and gap.origin == PLANT}
        assert told >= old, "what was lost with each log is told"


def _names(world: World) -> list[str]:
    return [name for zone, name in world.producers if zone == PLANT]


def test_a_hub_restored_from_an_older_copy_is_refilled(tmp_path: Path, tell: Tell) -> None:
    """The plant sends again what the hub lost, and takes nothing twice that the hub sends again."""
    asyncio.run(_hub_restored(tmp_path, tell))


async def _hub_restored(folder: Path, tell: Tell) -> None:
    async with running_world(folder, seed_of("hub restored")) as world:
        await _produce(world)
        await settle(world)
        async with world.stopped():
            world.copy_zone(ENTERPRISE, folder / "copy")
        await _produce(world, local=False)
        await settle(world)
        await world.confirmed()
        lost = {name: _since(world, name) for zone, name in world.producers if zone == ENTERPRISE}
        async with world.stopped():
            world.restore_zone(ENTERPRISE, folder / "copy")
        for name, facts in lost.items():  # the hub does not know these any more, but the plant has them
            answers = await world.producer(ENTERPRISE, name).send_all(facts)
            assert {answer.word for answer in answers} <= {STORED, DUPLICATE}
        await _produce(world)
        await conclude(world, "hub restored from an older copy", tell)


def _since(world: World, name: str) -> list[Outgoing]:
    """Half of what a producer of the enterprise sent in its last round."""
    return [fact for fact, _ in world.producer(ENTERPRISE, name).acknowledged[-FACTS:][: FACTS // 2]]
