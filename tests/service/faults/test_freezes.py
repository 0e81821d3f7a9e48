# SPDX-License-Identifier: Apache-2.0
"""Processes that hang and go on: what was given up meanwhile must not take effect twice when it does at last."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final

from appliance.boundary.names import EVERYONE
from appliance.dev.layout import ProcessName
from tests.service.world.judgement import Tell, conclude
from tests.service.world.producers import Producer
from tests.service.world.seeds import LONG, seed_of
from tests.service.world.zones import AUDIT, OPERATIONAL, TELEMETRY, World, peer_of, running_world

LONGER_THAN_ANY_PATIENCE_S: Final = 12.0
"""Of agent and hub towards their brokers (5 and 10 s) and each other (5 and 5 s), and of producers (3 s)."""
ROUNDS: Final = 10 if LONG else 1
PAIRS: Final = (
    (ProcessName.AGENT, ProcessName.ENTERPRISE_NATS),
    (ProcessName.PLANT_NATS, ProcessName.HUB),
)


def test_what_was_given_up_does_not_happen_twice(tmp_path: Path, tell: Tell) -> None:
    """Two at a time are frozen under load, for longer than everybody waits for them."""
    asyncio.run(_freeze(tmp_path, tell))


async def _freeze(folder: Path, tell: Tell) -> None:
    async with running_world(folder, seed_of("freezes")) as world:
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as load:
            for producer in world.producers.values():
                load.create_task(_produce(producer, random.Random(world.dice.random()), ended))
            for _ in range(ROUNDS):
                for pair in PAIRS:
                    await _freeze_both(world, pair)
            ended.set()
        await conclude(world, "frozen", tell, receipts=True)
        assert world.freezes == 2 * ROUNDS * len(PAIRS)


async def _freeze_both(world: World, pair: tuple[ProcessName, ProcessName]) -> None:
    await asyncio.sleep(world.dice.uniform(0.5, 1.5))
    longest = LONGER_THAN_ANY_PATIENCE_S
    await asyncio.gather(*(world.freeze(process, world.dice.uniform(longest - 2, longest + 1)) for process in pair))


async def _produce(producer: Producer, dice: random.Random, ended: asyncio.Event) -> None:
    while not ended.is_set():
        facts = producer.make_many(
            dice.choice((1, 30, 80)), (OPERATIONAL, TELEMETRY, AUDIT), (peer_of(producer.zone), EVERYONE)
        )
        await producer.send_all(facts)
        await asyncio.sleep(dice.uniform(0, 0.3))
