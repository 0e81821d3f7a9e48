# SPDX-License-Identifier: Apache-2.0
"""Catching up: a full log on one side, an empty one on the other, and how fast the second follows the first.

Every way is timed by the same observer, which asks the target's broker how many facts it holds. The clock starts when
the first facts are there and stops when the last is, so that starting and connecting do not count; the facts that were
there at the start do not count either. Then the target is read back and compared with what was sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import trio

from appliance.boundary.names import ZoneId, store_stream
from appliance.brokers.binary import BrokerBinary
from appliance.dev.layout import ENTERPRISE, HOST, PLANT
from appliance.factlog.natswire import NatsWire
from tests.bench.facts import CATEGORY, FactFactory, Stock, digest
from tests.bench.failure import BenchError
from tests.bench.log import connected, count_facts, digest_of, stream_like
from tests.bench.native import MIRROR, NativePair
from tests.bench.usage import all_cpu_s, all_peak_mib
from tests.bench.zones import AGENT, HUB, Zones

T = TypeVar("T")

ONE_BY_ONE: Final = "tests.bench.one_by_one"
PUSH, PULL = "push, pages", "pull, pages"
PUSH_SINGLE, PULL_SINGLE = "push, fact by fact", "pull, fact by fact"
NATIVE: Final = "native mirror"
_LOOK_EVERY_S: Final = 0.02
_BEGIN_S: Final = 20.0
"""How long the first fact may take."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many facts cross: in pages, fact by fact, by the native mirror; and how long a trial may be observed.

    Slow ways are given fewer facts, so that all take about as long. One that is still not done after ``window_s`` is
    judged by what it has done until then; pages must be done within ``pages_s``.
    """

    facts: int
    singles: int
    native: int
    window_s: float = 10.0
    pages_s: float = 90.0


@dataclass(frozen=True, slots=True)
class Crossed:
    """One trial: CPU in seconds per 100 000 facts and peak memory in MiB, by process."""

    way: str
    facts: int
    timed: int
    seconds: float
    complete: bool
    cpu: Mapping[str, float]
    peak_mib: Mapping[str, float]
    digest: str

    @property
    def rate(self) -> float:
        """Facts per second."""
        return self.timed / self.seconds


class CatchUp:
    """The trials, in a folder. :meth:`prepare` first; then :meth:`run` any of :attr:`ways`."""

    def __init__(
        self,
        root: Path,
        binary: BrokerBinary,
        size: Size,
        factory: Callable[[ZoneId, ZoneId], FactFactory],
        zones: Zones | None = None,
    ) -> None:
        self._root, self._size = root, size
        self._zones = zones or Zones(root / "zones", binary)
        self._native = NativePair(root / "native", binary)
        most = max(size.facts, size.singles, size.native)
        self._stocks = {
            PLANT: Stock.make(factory(PLANT, ENTERPRISE), most),
            ENTERPRISE: Stock.make(factory(ENTERPRISE, PLANT), size.facts),
        }
        # Neighbours in time are what is compared.
        self.ways: dict[str, Callable[[], Awaitable[Crossed]]] = {
            PUSH_SINGLE: lambda: self._cross(PUSH_SINGLE, PLANT, ONE_BY_ONE, size.singles),
            PUSH: lambda: self._cross(PUSH, PLANT, AGENT, size.facts),
            NATIVE: self._mirror,
            PULL: lambda: self._cross(PULL, ENTERPRISE, AGENT, size.facts),
            PULL_SINGLE: lambda: self._cross(PULL_SINGLE, ENTERPRISE, ONE_BY_ONE, size.singles),
        }

    async def prepare(self) -> None:
        """Fill the source logs once; every trial begins with a copy of one."""
        for zone in (PLANT, ENTERPRISE):
            for count in {self._size.facts, self._size.singles}:
                async with self._running():
                    await self._zones.start_broker(zone)
                    await self._zones.fill(zone, self._stocks[zone].first(count))
                self._zones.put_aside(zone, self._filled(zone, count))
        async with self._running():
            await self._native.start(PLANT)
            await self._native.fill(self._stocks[PLANT].first(self._size.native))
        self._native.put_aside(self._root / "filled-native")

    async def run(self, way: str) -> Crossed:
        """One trial. :raises BenchError: it gives no figure."""
        async with self._running():
            return await self.ways[way]()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._zones.stop()
            await self._native.stop()

    def _filled(self, zone: ZoneId, count: int) -> Path:
        return self._root / f"filled-{zone}-{count}"

    async def _cross(self, way: str, source: ZoneId, agent: str, count: int) -> Crossed:
        target = ENTERPRISE if source == PLANT else PLANT
        zones = self._zones
        zones.empty(target)
        zones.put_back(source, self._filled(source, count))
        for zone in (PLANT, ENTERPRISE):
            await zones.start_broker(zone)
        await zones.start_node(ENTERPRISE, HUB)
        async with connected(HOST, zones.port(target), zones.login(target, "agent")) as wire:
            await zones.start_node(PLANT, agent, wait=False)
            prefix = f"{store_stream(CATEGORY)}_FROM_"
            stream = await _appeared(lambda: stream_like(wire, prefix))
            return await self._observe(way, wire, stream, self._stocks[source].first(count), zones.pids(source))

    async def _mirror(self) -> Crossed:
        native = self._native
        native.put_back(self._root / "filled-native")
        for zone in (ENTERPRISE, PLANT):
            await native.start(zone)
        async with connected(HOST, native.ports[ENTERPRISE], native.login) as wire:
            await native.linked(wire)
            await native.mirror(wire)
            return await self._observe(
                NATIVE, wire, MIRROR, self._stocks[PLANT].first(self._size.native), native.pids()
            )

    async def _observe(self, way: str, wire: NatsWire, stream: str, stock: Stock, pids: Mapping[str, int]) -> Crossed:
        total, paged = len(stock), way in (PUSH, PULL)
        limit_s = self._size.pages_s if paged else self._size.window_s
        first = await _appeared(lambda: count_facts(wire, stream))
        started, cpu = trio.current_time(), all_cpu_s(pids)
        count = first
        while count < total and trio.current_time() - started < limit_s:
            await trio.sleep(_LOOK_EVERY_S)
            count = await count_facts(wire, stream)
        seconds = trio.current_time() - started
        used = {name: value - cpu[name] for name, value in all_cpu_s(pids).items()}
        timed = count - first
        if timed <= 0:
            raise BenchError(f"{way}: {count} of {total} facts came before the clock was started")
        if count > total or (paged and count < total):
            raise BenchError(f"{way}: {count} of {total} facts arrived in {seconds:.1f} s")
        found = await digest_of(wire, stream, count)
        if found != digest(stock.payloads[:count]):
            raise BenchError(f"{way}: what arrived is not what was sent, or not in its order")
        per_100k = {name: value * 100_000 / timed for name, value in used.items()}
        return Crossed(way, count, timed, seconds, count == total, per_100k, all_peak_mib(pids), found)


async def _appeared(look: Callable[[], Awaitable[T | None]]) -> T:
    """The first answer that is something. :raises BenchError: there was none in time."""
    end = trio.current_time() + _BEGIN_S
    while trio.current_time() < end:
        if found := await look():
            return found
        await trio.sleep(_LOOK_EVERY_S / 4)
    raise BenchError(f"nothing arrived within {_BEGIN_S:g} s")
