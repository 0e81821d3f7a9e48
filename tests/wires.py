# SPDX-License-Identifier: Apache-2.0
"""A real nats-facts with our own connections to it, for service tests of what stands on the wire client."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.boundary.names import Category, ZoneId
from appliance.boundary.policy import CategoryPolicy, ZonePolicy
from appliance.brokers.config import AGENT_USER, Limits, Local
from appliance.brokers.process import BrokerProcess
from appliance.factlog.island import NatsIsland
from appliance.factlog.jetstream import JetStreamLogs
from appliance.factlog.natslogin import Credentials, Login
from appliance.factlog.natsproto import Delivery, publish
from appliance.factlog.natswire import NatsWire
from appliance.factlog.streams import StreamAdmin
from tests.brokers import LIMITS, process
from tests.doors import Door, door

PLANT = ZoneId("plant-a")
NOBODY = Credentials("nobody", "no-password")


@asynccontextmanager
async def facts_broker(folder: Path, limits: Limits = LIMITS) -> AsyncIterator[tuple[BrokerProcess, Door]]:
    """A running nats-facts without local users, ended whatever happens."""
    listen = door(folder, limits=limits)
    broker = process(folder, "facts", listen.text(), listen.listen)
    await broker.start()
    try:
        yield broker, listen
    finally:
        with trio.CancelScope(shield=True):
            await broker.stop()


@asynccontextmanager
async def wire_to(listen: Door | Local, login: Login | None = None) -> AsyncIterator[NatsWire]:
    """A connected wire that is kept up meanwhile."""
    async with running_wire(listen, login) as wire:
        with trio.fail_after(10):
            await wire.wait_connected()
        yield wire


@asynccontextmanager
async def running_wire(listen: Door | Local, login: Login | None = None) -> AsyncIterator[NatsWire]:
    """A wire that tries to connect, as the agent if not said otherwise."""
    if login is None and isinstance(listen, Door):
        login = listen.login(AGENT_USER)
    async with trio.open_nursery() as nursery:
        wire = NatsWire(listen.host, listen.port, login or NOBODY, name="test")
        nursery.start_soon(wire.run)
        yield wire
        nursery.cancel_scope.cancel()


@contextmanager
def island_to(listen: Door | Local, login: Login | None = None) -> Iterator[NatsIsland]:
    """An island, ended afterwards."""
    if login is None and isinstance(listen, Door):
        login = listen.login(AGENT_USER)
    island = NatsIsland(listen.host, listen.port, login or NOBODY, name="test")
    try:
        yield island
    finally:
        island.close()


@contextmanager
def stopped(broker: BrokerProcess) -> Iterator[None]:
    """A broker that hangs: it keeps its connections, and does nothing."""
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def echo(wire: NatsWire, subject: str) -> None:
    """Answer what is asked on a subject with what was asked."""

    def answer(deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            wire.send(publish(delivery.reply, delivery.payload))

    wire.subscribe(subject, answer)


@dataclass
class Log:
    """The logs of PLANT on a real broker, and what they stand on."""

    broker: BrokerProcess
    listen: Door
    wire: NatsWire
    admin: StreamAdmin
    logs: JetStreamLogs

    def reopened(self, categories: Mapping[Category, CategoryPolicy]) -> JetStreamLogs:
        """As after a restart with another policy."""
        return JetStreamLogs(ZonePolicy(PLANT, categories), self.wire, self.admin)


@asynccontextmanager
async def real_logs(
    folder: Path, categories: Mapping[Category, CategoryPolicy], limits: Limits = LIMITS
) -> AsyncIterator[Log]:
    """Logs with these categories on a broker of their own."""
    async with facts_broker(folder, limits) as (broker, listen), wire_to(listen) as wire:
        with island_to(listen) as island:
            admin = StreamAdmin(island)
            yield Log(broker, listen, wire, admin, JetStreamLogs(ZonePolicy(PLANT, categories), wire, admin))


async def until(holds: Callable[[], bool], within_s: float = 10) -> None:
    """Wait until something holds. :raises trio.TooSlowError: it does not."""
    with trio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110 - nothing announces it
            await trio.sleep(0.01)
