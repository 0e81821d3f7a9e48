# SPDX-License-Identifier: Apache-2.0
"""Ledgers deleted, logs wiped, an older copy put in place: what can be had again comes back, the rest is explicit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import pytest

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import EVERYONE, Category, ZoneId
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.dev.environment import CATEGORIES
from appliance.dev.layout import ENTERPRISE, NODE, PLANT, ZONES, ProcessName
from tests.judge import Gap
from tests.service.world.judgement import Tell, audited, conclude, settle
from tests.service.world.producers import CONFLICT, DUPLICATE, STORED, Outgoing
from tests.service.world.seeds import seed_of
from tests.service.world.zones import AUDIT, OPERATIONAL, TELEMETRY, World, peer_of, running_world

FACTS: Final = 60
"""Of each producer and round."""
VICTIMS: Final = (ProcessName.AGENT, ProcessName.HUB, ProcessName.PLANT_NATS, ProcessName.ENTERPRISE_NATS)


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


async def _shake(world: World) -> None:
    """Kill what is just recovering, at moments nobody chose."""
    for _ in range(4):
        await asyncio.sleep(world.dice.uniform(0, 1.2))
        await world.kill_surely(world.dice.choice(VICTIMS))


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
                with pytest.raises(UnavailableError, match=r"ledger\.db"):  # the auditor must say what is gone
                    await audited(world, zone)
        await world.kill_surely(*(NODE[zone] for zone in zones))
        await _ids_are_known(world, ZONES)
        await _produce(world)
        await conclude(world, f"ledger deleted: {', '.join(zones)}", tell)


def test_a_ledger_that_knew_of_a_gap_is_deleted(tmp_path: Path, tell: Tell) -> None:
    """The plant forgets which gap it told: the hub takes the log under a new epoch, and nothing twice."""
    asyncio.run(_gap_forgotten(tmp_path, tell))


async def _gap_forgotten(folder: Path, tell: Tell) -> None:
    telemetry = CategoryPolicy(WhenFull.DROP_OLDEST, max_bytes=1024**2, max_age_s=3600)
    categories = {**CATEGORIES, Category(TELEMETRY): telemetry}
    async with running_world(folder, seed_of("gap forgotten"), categories) as world:
        sensors = world.producer(PLANT, "sensors")
        await sensors.send_all([sensors.make(TELEMETRY, ENTERPRISE) for _ in range(FACTS)])
        await settle(world)
        await world.cut()
        await sensors.send_stream([sensors.make(TELEMETRY, ENTERPRISE, 20_000) for _ in range(100)])
        await world.heal()
        await sensors.send_all([sensors.make(TELEMETRY, ENTERPRISE) for _ in range(FACTS)])
        await settle(world)
        async with world.stopped():
            world.delete_ledger(PLANT)
        await _produce(world)
        await conclude(world, "ledger with a gap deleted", tell)


class Damage(StrEnum):
    """What happens to the plant."""

    WIPED = "logs wiped, ledger kept"
    REFLASHED = "logs and ledger wiped"
    OLDER = "logs older than the ledger"


@pytest.mark.parametrize("damage", list(Damage), ids=[damage.name.lower() for damage in Damage])
def test_a_plant_that_lost_its_logs_starts_a_new_epoch(tmp_path: Path, tell: Tell, damage: Damage) -> None:
    """What had not crossed is an explicit gap at the hub; what is sent again is stored, and not doubled there."""
    asyncio.run(_plant_damaged(tmp_path, tell, damage))


async def _plant_damaged(folder: Path, tell: Tell, damage: Damage) -> None:
    # Facts that never left a plant of which nothing is left are known to nobody, so nobody can tell that they are gone.
    local = damage is not Damage.REFLASHED
    async with running_world(folder, seed_of(damage)) as world:
        producers = [producer for (zone, _), producer in world.producers.items() if zone == PLANT]
        await _produce(world, local=local)
        await settle(world)
        async with world.stopped():
            world.copy_zone(PLANT, folder / "copy")
        await world.cut()
        await _produce(world, local=local)
        sent = {producer: list(producer.acknowledged) for producer in producers}
        old = await _epochs(world)
        async with world.stopped():
            if damage is Damage.OLDER:
                world.restore_logs(PLANT, folder / "copy")
            else:
                world.wipe_logs(PLANT)
                assert "the log is not there" in str(await audited(world, PLANT)), "the auditor must say what is gone"
            if damage is Damage.REFLASHED:
                world.delete_ledger(PLANT)
        await _shake(world)
        await world.arrived()
        for producer, facts in sent.items():  # half of what had crossed, half of what had not
            answers = await producer.send_all([fact for fact, _ in facts[: FACTS // 2] + facts[-FACTS // 2 :]])
            assert [answer.word for answer in answers[-FACTS // 2 :]] == [STORED] * (FACTS // 2)
            assert {answer.word for answer in answers} <= {STORED, DUPLICATE}
        await _produce(world)
        judgement = await conclude(world, f"plant: {damage}", tell, receipts=True)
        new = await _epochs(world)
        assert not old & new, "a log that was lost must not go on under its old name"
        told = {gap.epoch for gap in world.recorder.events if isinstance(gap, Gap) and gap.origin == PLANT}
        assert told >= old, "what was lost with each log is told"
        if damage is not Damage.REFLASHED:
            retired = {log.epoch for log in judgement.audits[PLANT] if log.retired and log.origin == PLANT}
            assert retired >= old, "the auditor must say that these logs were replaced"


async def _epochs(world: World) -> set[str]:
    """The epochs of the plant's own logs."""
    return {stream.epoch for stream in await world.readers[PLANT].streams() if stream.origin == PLANT}


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
        await _shake(world)
        for name, facts in lost.items():  # the hub does not know these any more, but the plant has them
            answers = await world.producer(ENTERPRISE, name).send_all(facts)
            assert {answer.word for answer in answers} <= {STORED, DUPLICATE}
        await _produce(world)
        await conclude(world, "hub restored from an older copy", tell, receipts=True)


def _since(world: World, name: str) -> list[Outgoing]:
    """Half of what a producer of the enterprise sent in its last round."""
    return [fact for fact, _ in world.producer(ENTERPRISE, name).acknowledged[-FACTS:][: FACTS // 2]]
