# SPDX-License-Identifier: Apache-2.0
"""A stream emptied by retention: what the site lets go is told as an explicit gap, and positions outlive it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from appliance.boundary.names import Category
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.dev.environment import CATEGORIES
from appliance.dev.layout import ENTERPRISE, PLANT, ProcessName
from tests.judge import Gap
from tests.service.world.judgement import Tell, conclude, settle
from tests.service.world.readers import EXPIRED
from tests.service.world.seeds import seed_of
from tests.service.world.zones import TELEMETRY, World, running_world

SOON_S: Final = 4
SMALL: Final = 1024**2
FACTS: Final = 100


def _expiring(max_age_s: int, max_bytes: int) -> Mapping[Category, CategoryPolicy]:
    telemetry = CategoryPolicy(WhenFull.DROP_OLDEST, max_bytes=max_bytes, max_age_s=max_age_s)
    return {**CATEGORIES, Category(TELEMETRY): telemetry}


def test_what_expired_before_it_crossed_is_an_explicit_gap(tmp_path: Path, tell: Tell) -> None:
    """The source is emptied by age while the link is cut; once the agent sees it happen, once it was away meanwhile."""
    asyncio.run(_by_age(tmp_path, tell))


async def _by_age(folder: Path, tell: Tell) -> None:
    async with running_world(folder, seed_of("expired"), _expiring(SOON_S, 64 * SMALL)) as world:
        sensors = world.producer(PLANT, "sensors")
        for restarted in (False, True):
            await sensors.send_all([sensors.make(TELEMETRY, ENTERPRISE) for _ in range(50)])
            await settle(world)
            await world.cut()
            lost = [a.offset for a in await sensors.send_all([sensors.make(TELEMETRY, ENTERPRISE) for _ in range(300)])]
            await _emptied(world)
            if restarted:
                await world.kill_surely(ProcessName.AGENT, ProcessName.PLANT_NATS)
            await world.heal()
            await sensors.send_all([sensors.make(TELEMETRY, ENTERPRISE) for _ in range(50)])
            await settle(world)
            assert _told(world, min(lost), max(lost)), "the loss is not told at the receiver"
        await conclude(world, "expired at the source", tell)


def test_what_was_pushed_out_before_it_crossed_is_an_explicit_gap(tmp_path: Path, tell: Tell) -> None:
    """The source is full and drops its oldest facts while the link is cut; the newest cross."""
    asyncio.run(_by_size(tmp_path, tell))


async def _by_size(folder: Path, tell: Tell) -> None:
    async with running_world(folder, seed_of("pushed out"), _expiring(3600, SMALL)) as world:
        sensors = world.producer(PLANT, "sensors")
        await sensors.send_all([sensors.make(TELEMETRY, ENTERPRISE) for _ in range(20)])
        await settle(world)
        await world.cut()
        sent = await sensors.send_stream([sensors.make(TELEMETRY, ENTERPRISE, 20_000) for _ in range(120)])
        await world.heal()
        await settle(world)
        assert _told(world, sent[0].offset, sent[50].offset), "the loss is not told at the receiver"
        await conclude(world, "pushed out at the source", tell)


def test_a_position_outlives_the_facts_of_a_forward_stream(tmp_path: Path, tell: Tell) -> None:
    """Emptied by age, killed and asked again: nothing is fetched twice, nothing skipped."""
    asyncio.run(_emptied_forward(tmp_path, tell))


async def _emptied_forward(folder: Path, tell: Tell) -> None:
    async with running_world(folder, seed_of("emptied"), _expiring(SOON_S, 64 * SMALL)) as world:
        sensors, orders = world.producer(PLANT, "sensors"), world.producer(ENTERPRISE, "orders")
        written = 0
        for _ in range(2):
            await sensors.send_all([sensors.make(TELEMETRY, ENTERPRISE) for _ in range(FACTS)])
            await orders.send_all([orders.make(TELEMETRY, PLANT) for _ in range(FACTS)])
            await settle(world)
            await world.confirmed()
            await _emptied(world)
            await world.kill_surely(ProcessName.AGENT, ProcessName.HUB, ProcessName.ENTERPRISE_NATS)
            await world.arrived()
            before, written = written, await _written(world)
            # A round writes its facts and a few markers into both forward streams; what is fetched again would show.
            assert 2 * FACTS <= written - before <= 2 * FACTS + 20, (before, written)
        assert not _gaps(world), "a gap was told although everything had crossed"
        await conclude(world, "forward streams emptied", tell)


async def _emptied(world: World) -> None:
    """Wait until all telemetry of both zones has expired."""
    async with asyncio.timeout(30):
        for reader in world.readers.values():
            while await reader.facts_left(TELEMETRY):  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.2)


async def _written(world: World) -> int:
    """How many records were ever written into the forward streams of telemetry."""
    written = 0
    for zone, reader in world.readers.items():
        written += sum(s.last for s in await reader.streams() if s.category == TELEMETRY and s.origin != zone)
    return written


def _gaps(world: World) -> list[Gap]:
    """The gap records that readers found, without what they see to have expired where they read."""
    return [event for event in world.recorder.events if isinstance(event, Gap) and event.reason != EXPIRED]


def _told(world: World, first: int, last: int) -> bool:
    """Whether a gap record of the receiver names all offsets of a range of the plant's telemetry."""
    named = {
        offset
        for gap in _gaps(world)
        if (gap.origin, gap.category, gap.reason) == (PLANT, TELEMETRY, "retention")
        for offset in range(gap.first, (gap.last or gap.first) + 1)
    }
    return named >= set(range(first, last + 1))
