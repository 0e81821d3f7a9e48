# SPDX-License-Identifier: Apache-2.0
"""Intake: durable facts a second through the agent, beside publishing directly to an equal stream of the same broker.

The producers are the same program; only the subject differs, and with it who answers: the agent (which validates,
looks ids up, commits in groups, enters the ledger) or JetStream itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.boundary.names import store_stream
from appliance.brokers.binary import BrokerBinary
from appliance.dev.layout import ENTERPRISE, HOST, PLANT
from appliance.factlog.natswire import NatsWire
from tests.bench.children import run_job
from tests.bench.facts import CATEGORY, PRODUCER
from tests.bench.failure import BenchError
from tests.bench.figures import percentile
from tests.bench.log import connected, request
from tests.bench.usage import all_cpu_s
from tests.bench.zones import AGENT, Zones

AGENT_WAY, DIRECT_WAY = "through the agent", "directly to a stream"
PRODUCERS: Final = (1, 16, 256)
"""How many produce at once, each with one fact under way."""
_DIRECT: Final = "BENCH_DIRECT"
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class TakenIn:
    """One trial; CPU in seconds per 100 000 facts by process, waits in milliseconds."""

    way: str
    producers: int
    acknowledged: int
    seconds: float
    wait_p50_ms: float
    wait_p99_ms: float
    cpu: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Durable facts per second."""
        return self.acknowledged / self.seconds


class IntakeBench:
    """The trials, between :meth:`start` and :meth:`stop`. The hub is away, so nothing crosses meanwhile."""

    def __init__(self, root: Path, binary: BrokerBinary, produced_at_unix_ms: int) -> None:
        self._zones = Zones(root / "intake", binary)
        self._produced_at = produced_at_unix_ms

    async def start(self) -> None:
        """Start the plant's broker and agent, and make the equal stream."""
        await self._zones.start_broker(PLANT)
        await self._zones.start_node(PLANT, AGENT)
        async with self._wire() as wire:
            answer = await request(wire, f"$JS.API.STREAM.INFO.{store_stream(CATEGORY)}")
            config = {**answer["config"], "name": _DIRECT, "subjects": ["direct.>"], "metadata": {}}
            del config["subject_transform"]
            await request(wire, f"$JS.API.STREAM.CREATE.{_DIRECT}", config)

    async def stop(self) -> None:
        """End both."""
        await self._zones.stop()

    async def run(self, way: str, producers: int, seconds: float) -> TakenIn:
        """One trial. :raises BenchError: what was acknowledged is not what was stored."""
        stream = _DIRECT if way == DIRECT_WAY else store_stream(CATEGORY)
        job = self._job(producers, seconds, direct=way == DIRECT_WAY)
        async with self._wire() as wire:
            before = await _messages(wire, stream)
            pids = self._zones.pids(PLANT)
            cpu = all_cpu_s(pids)
            result = await run_job("tests.bench.producers", job, seconds + _PATIENCE_S)
            used = {name: value - cpu[name] for name, value in all_cpu_s(pids).items()}
            stored = await _messages(wire, stream) - before
        waits: list[float] = result["waits_ms"]
        answered = len(waits) + int(result["late"])
        if stored != answered or not waits:
            raise BenchError(f"{way}: {answered} facts were acknowledged and {stored} stored")
        used["producers"] = float(result["cpu_s"])
        per_100k = {name.removeprefix("source "): value * 100_000 / answered for name, value in used.items()}
        return TakenIn(way, producers, len(waits), seconds, percentile(waits, 0.5), percentile(waits, 0.99), per_100k)

    def _job(self, producers: int, seconds: float, *, direct: bool) -> dict[str, Any]:
        # Local users reach the intake alone; to publish past it takes the user that owns the streams.
        user = "agent" if direct else PRODUCER
        return {
            "host": HOST,
            "port": self._zones.port(PLANT),
            "login": self._zones.login(PLANT, user),
            "inbox": "_BENCH" if direct else "_INBOX",
            "prefix": "direct." if direct else "",
            "producers": producers,
            "seconds": seconds,
            "zone": PLANT,
            "to": ENTERPRISE,
            "run": secrets.token_hex(4),
            "produced_at_unix_ms": self._produced_at,
        }

    def _wire(self) -> AbstractAsyncContextManager[NatsWire]:
        zones = self._zones
        return connected(HOST, zones.port(PLANT), zones.login(PLANT, "agent"))


async def _messages(wire: NatsWire, stream: str) -> int:
    answer = await request(wire, f"$JS.API.STREAM.INFO.{stream}")
    return int(answer["state"]["messages"])
