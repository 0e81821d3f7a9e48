# SPDX-License-Identifier: Apache-2.0
"""The link and what is behind it fail in mid-transfer: a hub that restarts, a link that is silent for long."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from appliance.dev.layout import ENTERPRISE, PLANT, ProcessName
from appliance.dev.link import Cut
from appliance.peer.link import LinkLimits
from tests.service.world.judgement import Tell, conclude
from tests.service.world.seeds import seed_of
from tests.service.world.zones import AUDIT, BROKER_AWAY, OPERATIONAL, TELEMETRY, World, running_world

BACKLOG: Final = 3000
"""Facts of one log that wait when the link comes back: several pages."""


def test_a_hub_that_restarts_in_mid_transfer(tmp_path: Path, tell: Tell) -> None:
    """Killed again and again while a backlog crosses in both directions."""
    asyncio.run(_hub_restarts(tmp_path, tell))


async def _hub_restarts(folder: Path, tell: Tell) -> None:
    async with running_world(folder, seed_of("hub restarts")) as world:
        await world.cut()
        await _backlog(world, BACKLOG)
        await world.heal()
        received = restarts = 0
        while await world.missing():
            with suppress(*BROKER_AWAY):
                at = sum((await world.readers[ENTERPRISE].positions()).values())
                if at > received:  # it has taken pages since it was last killed, and others are on their way
                    received, restarts = at, restarts + 1
                    await world.kill_surely(ProcessName.HUB)
            await asyncio.sleep(0.01)
        await conclude(world, "hub restarted in mid-transfer", tell, receipts=True)
        assert restarts >= 3


def test_a_link_that_is_silent_for_longer_than_the_keepalive(tmp_path: Path, tell: Tell) -> None:
    """A black hole in mid-transfer: both sides notice, go on locally, and find each other again."""
    asyncio.run(_black_hole(tmp_path, tell))


async def _black_hole(folder: Path, tell: Tell) -> None:
    limits = LinkLimits()
    async with running_world(folder, seed_of("black hole")) as world:
        await world.cut()
        await _backlog(world, BACKLOG // 2)
        await world.heal()
        while not sum((await world.readers[ENTERPRISE].positions()).values()):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)
        await world.cut(Cut.BLACKHOLE)
        assert await world.missing(), "all had crossed before the link was cut"
        silent = time.monotonic()
        await world.until(lambda crossing: not crossing.reachable)
        noticed = time.monotonic() - silent
        await _backlog(world, 50)
        await asyncio.sleep(max(0.0, limits.ping_after_s + limits.ping_timeout_s + 3 - noticed))
        await world.heal()
        await conclude(world, f"black hole, noticed after {noticed:.1f} s", tell)
        idle_s = 5  # a crossing with nothing to carry looks for facts so long before it speaks to the other side
        assert noticed < idle_s + limits.ping_after_s + limits.ping_timeout_s + 10


async def _backlog(world: World, count: int) -> None:
    """Facts in both directions, so many in each of two logs and half as many in two others."""
    await asyncio.gather(
        *(
            producer.send_all([producer.make(category, to, 300) for _ in range(some)])
            for producer, category, to, some in (
                (world.producer(PLANT, "sensors"), OPERATIONAL, ENTERPRISE, count // 2),
                (world.producer(PLANT, "cli"), OPERATIONAL, ENTERPRISE, count // 2),
                (world.producer(ENTERPRISE, "orders"), OPERATIONAL, PLANT, count),
                (world.producer(PLANT, "app"), TELEMETRY, ENTERPRISE, count // 2),
                (world.producer(ENTERPRISE, "app"), AUDIT, PLANT, count // 2),
            )
        )
    )
