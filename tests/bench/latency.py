# SPDX-License-Identifier: Apache-2.0
"""Latency: from a producer's publish in one zone until a consumer in the other zone is given the fact.

What a consumer is given has been committed there, so this is an upper bound of "committed in the other zone". Facts
come at a steady rate, whether the ones before have arrived or not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.boundary.names import ZoneId, store_stream
from appliance.brokers.binary import BrokerBinary
from appliance.dev.layout import ENTERPRISE, HOST, PLANT
from tests.bench.children import run_job
from tests.bench.facts import CATEGORY, PRODUCER
from tests.bench.figures import percentile
from tests.bench.log import connected
from tests.bench.native import MIRROR, NativePair, create_stream
from tests.bench.usage import all_cpu_s
from tests.bench.zones import AGENT, HUB, Zones

PUSH, PULL, NATIVE = "push", "pull", "native mirror"
RATE: Final = 100
"""Facts per second."""
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Delays:
    """One trial, in milliseconds; CPU in percent of a core, by process."""

    way: str
    acknowledged_ms: Sequence[float]
    seen_ms: Sequence[float]
    cpu_percent: Mapping[str, float]

    def at(self, share: float) -> tuple[float, float]:
        """The percentile of both delays: acknowledged, and seen in the other zone."""
        return percentile(self.acknowledged_ms, share), percentile(self.seen_ms, share)


class LatencyBench:
    """The trials, in a folder; between :meth:`start` and :meth:`stop`."""

    def __init__(self, root: Path, binary: BrokerBinary, produced_at_unix_ms: int) -> None:
        self._zones = Zones(root / "latency", binary)
        self._native = NativePair(root / "latency-native", binary)
        self._produced_at = produced_at_unix_ms
        self.ways: dict[str, Callable[[], dict[str, Any]]] = {
            PUSH: lambda: self._crossing(PLANT, ENTERPRISE),
            PULL: lambda: self._crossing(ENTERPRISE, PLANT),
            NATIVE: self._mirroring,
        }

    async def start(self) -> None:
        """Start everything; what is not being measured waits for facts meanwhile."""
        for zone, module in ((ENTERPRISE, HUB), (PLANT, AGENT)):
            await self._zones.start_broker(zone)
            await self._zones.start_node(zone, module)
        for zone in (ENTERPRISE, PLANT):
            await self._native.start(zone)
        async with AsyncExitStack() as stack:
            plant, hub = [
                await stack.enter_async_context(connected(HOST, port, self._native.login))
                for port in (self._native.ports[PLANT], self._native.ports[ENTERPRISE])
            ]
            await create_stream(plant)
            await self._native.linked(hub)
            await self._native.mirror(hub)

    async def stop(self) -> None:
        """End everything."""
        await self._zones.stop()
        await self._native.stop()

    async def run(self, way: str, seconds: float) -> Delays:
        """One trial. :raises BenchError: not every fact arrived."""
        pids = self._native.pids() if way == NATIVE else self._zones.pids(ENTERPRISE if way == PULL else PLANT)
        job = self.ways[way]() | {
            "facts": int(RATE * seconds),
            "rate": RATE,
            "run": secrets.token_hex(4),
            "produced_at_unix_ms": self._produced_at,
        }
        cpu = all_cpu_s(pids)
        result = await run_job("tests.bench.probe", job, seconds + _PATIENCE_S)
        percent = {name: (value - cpu[name]) / seconds * 100 for name, value in all_cpu_s(pids).items()}
        return Delays(way, result["acknowledged_ms"], result["seen_ms"], percent)

    def _crossing(self, source: ZoneId, target: ZoneId) -> dict[str, Any]:
        return {
            "zone": source,
            "to": target,
            "stream": f"{store_stream(CATEGORY)}_FROM_",
            "source": self._end(source),
            "target": self._end(target),
        }

    def _end(self, zone: ZoneId) -> dict[str, Any]:
        zones = self._zones
        return {"host": HOST, "port": zones.port(zone), "login": zones.login(zone, PRODUCER), "inbox": "_INBOX"}

    def _mirroring(self) -> dict[str, Any]:
        ends = {
            zone: {"host": HOST, "port": port, "login": self._native.login, "inbox": "_BENCH"}
            for zone, port in self._native.ports.items()
        }
        return {
            "zone": PLANT,
            "to": ENTERPRISE,
            "stream": MIRROR,
            "source": ends[PLANT],
            "target": ends[ENTERPRISE],
        }
