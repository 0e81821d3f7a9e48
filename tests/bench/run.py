# SPDX-License-Identifier: Apache-2.0
"""One run: the chosen benchmarks, each round by round, every way once in each round."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import ZoneId
from appliance.brokers.binary import BrokerBinary
from tests.bench import keys_report, report
from tests.bench.catchup import CatchUp, Crossed, Size
from tests.bench.facts import SIZE, FactFactory
from tests.bench.failure import BenchError
from tests.bench.intake import AGENT_WAY, DIRECT_WAY, PRODUCERS, IntakeBench, TakenIn
from tests.bench.keyed import KeyedCrossing, KeysEffect
from tests.bench.latency import RATE, Delays, LatencyBench
from tests.bench.machine import Machine
from tests.bench.sessions import Handshakes, Issued, SessionBench
from tests.bench.zones import SESSION_S

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and how much of it; ``limit_s`` ends the whole run."""

    benchmarks: Sequence[str]
    rounds: int
    size: Size
    intake_s: float
    latency_s: float
    sessions_s: float
    keyed_facts: int
    limit_s: float


@dataclass(slots=True)
class Results:
    """Every trial of a run, by round; one that failed is missing, and ``failures`` says why."""

    machine: Machine
    catchup: list[dict[str, Crossed | None]] = field(default_factory=list)
    intake: list[dict[tuple[str, int], TakenIn | None]] = field(default_factory=list)
    latency: list[dict[str, Delays | None]] = field(default_factory=list)
    issued: list[dict[str, Issued | None]] = field(default_factory=list)
    handshakes: list[dict[str, Handshakes | None]] = field(default_factory=list)
    keyed: list[dict[tuple[str, str], KeyedCrossing | None]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """All raw figures, for JSON."""
        return {
            "machine": asdict(self.machine),
            "catchup": [[_raw(trial) for trial in found.values()] for found in self.catchup],
            "intake": [[_raw(trial) for trial in found.values()] for found in self.intake],
            "latency": [[_raw(trial) for trial in found.values()] for found in self.latency],
            "sessions": [[_raw(trial) for trial in found.values()] for found in self.issued],
            "handshakes": [[_raw(trial) for trial in found.values()] for found in self.handshakes],
            "keys": [[_raw(trial) for trial in found.values()] for found in self.keyed],
            "failures": self.failures,
        }


def _raw(trial: Crossed | TakenIn | Delays | Issued | Handshakes | KeyedCrossing | None) -> dict[str, Any] | None:
    match trial:
        case None:
            return None
        case Delays():
            return asdict(trial)
        case Crossed() | TakenIn() | KeyedCrossing():
            return asdict(trial) | {"facts_per_s": trial.rate}
        case _:
            return asdict(trial) | {"per_s": trial.rate}


def say(text: str) -> None:
    """Print at once: a run takes minutes."""
    print(text, flush=True)


class Run:
    """One run of the benchmarks in a folder."""

    def __init__(self, plan: Plan, root: Path, binary: BrokerBinary) -> None:
        self.results = Results(Machine.describe(root, str(binary.version)))
        self._plan, self._root, self._binary = plan, root, binary
        self._run = secrets.token_hex(4)
        self._produced_at = int(time.time() * 1000)
        self._benchmarks = {
            "catchup": self._catchup,
            "intake": self._intake,
            "latency": self._latency,
            "sessions": self._sessions,
            "keys": self._keys,
        }

    async def all(self) -> None:
        """Run what was chosen, within the limit; what is not done then is a failure."""
        with trio.move_on_after(self._plan.limit_s) as limit:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signal, nursery.cancel_scope)
                for name in self._plan.benchmarks:
                    await self._benchmarks[name]()
                nursery.cancel_scope.cancel()
        if limit.cancelled_caught:
            self._fail(f"not done within {self._plan.limit_s:g} s; this machine needs smaller figures or --limit")

    async def _end_on_signal(self, scope: trio.CancelScope) -> None:
        """Interrupted or terminated, a run ends its processes and removes its files like any other."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                self._fail(f"ended by {signal.Signals(number).name}")
                scope.cancel()
                return

    async def _catchup(self) -> None:
        size = self._plan.size
        say(
            f"\n== catching up: facts of {SIZE} bytes; {size.facts:,} in pages, {size.singles:,} fact by fact, "
            f"{size.native:,} by the native mirror; compared by rate"
        )
        bench = CatchUp(self._root, self._binary, size, self._factory)
        started = time.monotonic()
        await bench.prepare()
        say(f"(logs filled through the intake in {time.monotonic() - started:.1f} s)\n")
        trials = {way: partial(bench.run, way) for way in bench.ways}
        await self._rounds(trials, self.results.catchup, report.catchup_round)
        say(report.catchup_summary(self.results.catchup))

    async def _intake(self) -> None:
        say(
            f"\n== intake: stock nats-py producers, each awaiting its acknowledgements, for {self._plan.intake_s:g} s\n"
        )
        bench = IntakeBench(self._root, self._binary, self._produced_at)
        trials = {
            (way, producers): partial(bench.run, way, producers, self._plan.intake_s)
            for producers in PRODUCERS
            for way in (AGENT_WAY, DIRECT_WAY)
        }
        try:
            await bench.start()
            await self._rounds(trials, self.results.intake, report.intake_round)
        finally:
            await bench.stop()
        say(report.intake_summary(self.results.intake))

    async def _latency(self) -> None:
        say(f"\n== latency: {RATE} facts a second for {self._plan.latency_s:g} s\n")
        bench = LatencyBench(self._root, self._binary, self._produced_at)
        trials = {way: partial(bench.run, way, self._plan.latency_s) for way in bench.ways}
        try:
            await bench.start()
            await self._rounds(trials, self.results.latency, report.latency_round)
        finally:
            await bench.stop()
        say(report.latency_summary(self.results.latency))

    async def _sessions(self) -> None:
        say(f"\n== sessions: keys in a software TPM, at will behind a slow bus, for {self._plan.sessions_s:g} s\n")
        bench = SessionBench(self._root, self._plan.sessions_s)
        try:
            commands = await bench.start()
            say(f"(a session takes {commands:.0f} TPM commands on a box that was never in quarantine)\n")
            await self._rounds(bench.issuing, self.results.issued, keys_report.issued_round)
            for number in range(self._plan.rounds):
                shaken: dict[str, Handshakes | None] = dict(await self._try(bench.handshakes) or {})
                self.results.handshakes.append(shaken)
                say(f"round {number + 1} of {self._plan.rounds}\n{keys_report.handshakes_round(shaken)}\n")
        finally:
            await bench.stop()
        say(keys_report.sessions_summary(self.results.issued, self.results.handshakes))

    async def _keys(self) -> None:
        facts = self._plan.keyed_facts
        say(
            f"\n== keys: catching up in pages, {facts:,} facts of {SIZE} bytes; software keys beside keepers, sessions"
            f" of {SESSION_S} s\n"
        )
        bench = KeysEffect(self._root, self._binary, facts, self._factory)
        try:
            await bench.prepare()
            await self._rounds(bench.ways, self.results.keyed, keys_report.keyed_round)
        finally:
            await bench.stop()
        say(keys_report.keyed_summary(self.results.keyed))

    async def _rounds(
        self,
        trials: Mapping[K, Callable[[], Awaitable[T]]],
        rounds: list[dict[K, T | None]],
        render: Callable[[Mapping[K, T | None]], str],
    ) -> None:
        """A B C A B C ...: whatever slows the machine for a while slows neighbours in the same round."""
        for number in range(self._plan.rounds):
            found = {key: await self._try(trial) for key, trial in trials.items()}
            rounds.append(found)
            say(f"round {number + 1} of {self._plan.rounds}\n{render(found)}\n")

    async def _try(self, trial: Callable[[], Awaitable[T]]) -> T | None:
        """A trial's figures, or nothing when it failed: the run goes on, and ends with exit code 1."""
        found: T | None = None
        try:
            found = await trial()
        except* (BenchError, BsfgError, trio.TooSlowError) as group:
            self._fail("; ".join(str(error) or repr(error) for error in _leaves(group)))
        return found

    def _fail(self, text: str) -> None:
        self.results.failures.append(text)
        say(f"FAILED: {text}")

    def _factory(self, zone: ZoneId, to: ZoneId) -> FactFactory:
        return FactFactory(zone, to, self._run, self._produced_at)


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
