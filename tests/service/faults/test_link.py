# SPDX-License-Identifier: Apache-2.0
"""The link and what is behind it fail in mid-transfer: a hub that restarts, a link that is silent for long."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from appliance.dev.layout import ENTERPRISE, PLANT, ProcessName
from appliance.dev.link import Cut
from appliance.peer.link import LinkLimits
from tests.service.world.judgement import Tell, conclude
from tests.service.world.seeds import seed_of
from tests.service.world.zones import AUDIT, OPERATIONAL, TELEMETRY, World, running_world

BACKLOG: Final = 1500
"""Facts of each producer that wait when the link comes back."""


def test_a_hub_that_restarts_in_mid_transfer(tmp_path: Path, tell: Tell) -> None:
    """Killed again and again while a backlog crosses in both directions."""
    asyncio.run(_hub_restarts(tmp_path, tell))


async def _hub_restarts(folder: Path, tell: Tell) -> None:
    async with running_world(folder, seed_of("hub restarts")) as world:
        await world.cut()
        await _backlog(world)
        await world.heal()
        received, restarts = 0, 0
        deadline = time.monotonic() + 30
        while restarts < 6 and time.monotonic() < deadline:
            at = sum((await world.readers[ENTERPRISE].positions()).values())
            if at > received:  # it has taken pages since it was last killed, and others are on their way
                received = at
                await world.kill_surely(ProcessName.HUB)
                restarts += 1
            await asyncio.sleep(0.01)
        await conclude(world, "hub restarted in mid-transfer", tell)
        assert restarts >= 2


def test_a_link_that_is_silent_for_longer_than_the_keepalive(tmp_path: Path, tell: Tell) -> None:
    """A black hole in mid-transfer: both sides notice, go on locally, and find each other again."""
    asyncio.run(_black_hole(tmp_path, tell))


async def _black_hole(folder: Path, tell: Tell) -> None:
    limits = LinkLimits()
    async with running_world(folder, seed_of("black hole")) as world:
        await world.cut()
        await _backlog(world)
        await world.heal()
        await world.until(lambda crossing: crossing.reachable)
        await world.cut(Cut.BLACKHOLE)
        silent = time.monotonic()
        await world.until(lambda crossing: not crossing.reachable)
        noticed = time.monotonic() - silent
        await _backlog(world, count=50)
        await asyncio.sleep(max(0.0, limits.ping_after_s + limits.ping_timeout_s + 3 - noticed))
        await world.heal()
        await conclude(world, f"black hole, noticed after {noticed:.1f} s", tell)
        assert noticed < limits.ping_after_s + limits.ping_timeout_s + 10


async def _backlog(world: World, count: int = BACKLOG) -> None:
    await asyncio.gather(
        *(
            producer.send_all([producer.make(category, to, 300) for _ in range(count)])
            for producer, category, to in (
                (world.producer(PLANT, "sensors"), TELEMETRY, ENTERPRISE),
                (world.producer(PLANT, "cli"), OPERATIONAL, ENTERPRISE),
                (world.producer(ENTERPRISE, "orders"), OPERATIONAL, PLANT),
                (world.producer(ENTERPRISE, "app"), AUDIT, PLANT),
            )
        )
    )
