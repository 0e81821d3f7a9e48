# SPDX-License-Identifier: Apache-2.0
"""A whole zone on real files and a real broker, in this process: for service tests of what agent and hub share."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from appliance.boundary.names import Category, ZoneId
from appliance.boundary.policy import CategoryPolicy
from appliance.brokers.config import Local
from appliance.brokers.process import BrokerProcess
from appliance.dev.environment import FACTS_PORT, Environment
from appliance.dev.layout import HOST, PLANT, KeysChoice, Layout
from appliance.dev.provision import provision
from appliance.node.config import NodeConfig
from appliance.node.status import CrossingReport, PeerStatus, Problem
from appliance.node.zone import ZoneRuntime
from tests.brokers import binary

AUDIT, TELEMETRY = Category("audit"), Category("telemetry")
CATEGORIES = {AUDIT: CategoryPolicy(max_bytes=64 * 1024**2), TELEMETRY: CategoryPolicy(max_bytes=64 * 1024**2)}


def two_zones(folder: Path, categories: Mapping[Category, CategoryPolicy] = CATEGORIES) -> Environment:
    """The files of two zones; nothing runs."""
    environment = replace(Environment.generate(Layout.at(folder / "zones"), KeysChoice.SOFTWARE), categories=categories)
    provision(environment)
    return environment


def broker_of(environment: Environment, zone: ZoneId = PLANT) -> BrokerProcess:
    """The zone's nats-facts, not started."""
    files = environment.layout.zone(zone)
    listen = Local(HOST, environment.ports[FACTS_PORT[zone]])
    return BrokerProcess(binary(), files.facts_config, environment.layout.log(f"{zone}-nats"), listen)


@asynccontextmanager
async def running_broker(environment: Environment, zone: ZoneId = PLANT) -> AsyncIterator[BrokerProcess]:
    """The zone's nats-facts, running; ended whatever happens."""
    broker = broker_of(environment, zone)
    await broker.start()
    try:
        yield broker
    finally:
        with trio.CancelScope(shield=True):
            await broker.stop()


def nothing() -> tuple[Sequence[CrossingReport], Sequence[PeerStatus], Sequence[Problem]]:
    """What a zone without a boundary adds to its status."""
    return (), (), ()


@asynccontextmanager
async def running_zone(environment: Environment, zone: ZoneId = PLANT) -> AsyncIterator[ZoneRuntime]:
    """A zone's runtime without its boundary; its broker runs already."""
    config = NodeConfig.load(environment.layout.zone(zone).node_config)
    async with trio.open_nursery() as nursery:
        runtime = ZoneRuntime("zone", config)
        with trio.fail_after(20):
            await nursery.start(partial(runtime.run, nothing))
            while not runtime.status().ready:  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.01)
        yield runtime
        nursery.cancel_scope.cancel()


def digest_of(folder: Path) -> str:
    """A digest over all files below a folder."""
    running = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        running.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return running.hexdigest()
