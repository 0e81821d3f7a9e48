# SPDX-License-Identifier: Apache-2.0
"""kill -9 of every process at random moments, under load in both directions; the link is cut, processes freeze."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final

import pytest

from appliance.boundary.names import EVERYONE, ZoneId
from appliance.dev.layout import KEEPER, TPM, ZONES, KeysChoice, ProcessName, process_names
from appliance.dev.link import Cut
from tests.service.world.judgement import Tell, conclude
from tests.service.world.producers import Producer
from tests.service.world.seeds import LONG, seed_of
from tests.service.world.zones import AUDIT, OPERATIONAL, TELEMETRY, World, in_background, peer_of, running_world

KILLS: Final = {KeysChoice.SOFTWARE: 1000 if LONG else 64, KeysChoice.SWTPM: 300 if LONG else 32}
VICTIMS: Final = (
    *(ProcessName.AGENT, ProcessName.HUB, ProcessName.PLANT_NATS, ProcessName.ENTERPRISE_NATS) * 5,
    *(ProcessName.PLANT_CONTROL, ProcessName.ENTERPRISE_CONTROL),
)
KEEPING: Final = (*KEEPER.values(), *TPM.values())
CATEGORIES: Final = (OPERATIONAL, OPERATIONAL, TELEMETRY, AUDIT)


@pytest.mark.parametrize("keys", KeysChoice)
def test_nothing_is_lost_or_doubled_by_kills_and_cuts(tmp_path: Path, tell: Tell, keys: KeysChoice) -> None:
    """Producers in both zones go on all the time, repeat themselves, and see their own conflicts refused.

    With software TPMs these are killed, too, and so are the keepers, while sessions of 30 s are renewed.
    """
    asyncio.run(_storm(tmp_path, tell, keys))


async def _storm(folder: Path, tell: Tell, keys: KeysChoice) -> None:
    async with running_world(folder, seed_of("kills"), keys=keys) as world:
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as load:
            for (zone, _), producer in world.producers.items():
                load.create_task(_produce(zone, producer, random.Random(world.dice.random()), ended))
            async with in_background(_cut_often(world), _freeze_often(world), _read_often(world)):
                await _kill_often(world)
            await world.heal()
            ended.set()
        await conclude(world, "kills and cuts", tell, receipts=True)
        assert sum(world.kills.values()) >= KILLS[keys]
        assert set(world.kills) == set(process_names(world.environment.keys))


async def _produce(zone: ZoneId, producer: Producer, dice: random.Random, ended: asyncio.Event) -> None:
    """Single facts, bursts, repetitions and forgeries, until the end; then each still gets its answer."""
    addressees = (peer_of(zone), peer_of(zone), EVERYONE, zone)
    while not ended.is_set():
        await producer.send_all(producer.make_many(dice.choice((1, 1, 5, 20, 80)), CATEGORIES, addressees))
        known = producer.acknowledged
        if known:
            again = [dice.choice(known)[0] for _ in range(dice.choice((0, 1, 10, 40)))]
            await producer.send_all(again)
            if dice.random() < 0.3:
                await producer.send(dice.choice(known)[0].forged(dice.randrange(1000)))
        await asyncio.sleep(dice.uniform(0, 0.4))


async def _kill_often(world: World) -> None:
    dice, keys = world.dice, world.environment.keys
    victims = (*VICTIMS, *KEEPING) if keys is KeysChoice.SWTPM else VICTIMS
    for process in process_names(keys):  # each at least once
        await world.kill_surely(process)
        await asyncio.sleep(dice.uniform(0.1, 0.8))
    while sum(world.kills.values()) < KILLS[keys]:
        await world.kill(dice.choice(victims))
        if dice.random() < 0.2:  # two at once
            await world.kill(dice.choice(victims))
        await asyncio.sleep(dice.uniform(0.05, 1.5))


async def _cut_often(world: World) -> None:
    dice = world.dice
    while True:
        await asyncio.sleep(dice.uniform(2, 6))
        await world.cut(dice.choice(list(Cut)))
        await asyncio.sleep(dice.uniform(0.2, 3))
        await world.heal()


async def _freeze_often(world: World) -> None:
    """A frozen process takes up late what it was told before; at times others have given it up by then."""
    dice = world.dice
    while True:
        await asyncio.sleep(dice.uniform(1, 5))
        await world.freeze(dice.choice(VICTIMS), dice.choice((dice.uniform(0.1, 2), dice.uniform(2, 12))))


async def _read_often(world: World) -> None:
    while True:
        await asyncio.sleep(world.dice.uniform(4, 10))
        await world.try_read(world.dice.choice(ZONES))
