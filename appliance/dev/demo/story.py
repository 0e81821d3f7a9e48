# SPDX-License-Identifier: Apache-2.0
"""The demo's story: a list of named acts, told as they happen; then the table, read from the logs of both zones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.modes import Mode
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.reasons import Reason
from appliance.dev.boxes import hub_authority
from appliance.dev.control import CutRequest, HealRequest, KillRequest, Request
from appliance.dev.demo.boxes import LatchAct, Sightings, ZoneKeys
from appliance.dev.demo.compare import Comparison, compare, read_log
from appliance.dev.demo.impostor import IMPOSTORS, Attempt, impersonate
from appliance.dev.demo.producer import Outgoing, Producer
from appliance.dev.demo.readings import Machine
from appliance.dev.environment import Environment
from appliance.dev.latching import latch, reboot, release
from appliance.dev.layout import ENTERPRISE, PLANT, ZONES, ProcessName
from appliance.dev.lifecycle import query
from appliance.factlog.audit import LogAudit
from appliance.node.status import StatusDocument

TELEMETRY: Final = Category("telemetry")
OPERATIONAL: Final = Category("operational")

READ_EVERY_S: Final = 0.1
ORDER_EVERY_S: Final = 0.2
CUT_S: Final = 6.0
CALM_S: Final = 4.0
LATCHED_S: Final = 2.0
BURST_FACTS: Final = 6000
BURST_PAGE: Final = 100
KILL_EVERY_S: Final = 1.5
KILLED: Final = (
    ProcessName.AGENT,
    ProcessName.HUB,
    ProcessName.PLANT_KEEPER,
    ProcessName.PLANT_NATS,
    ProcessName.PLANT_TPM,
    ProcessName.ENTERPRISE_NATS,
)
SESSION_S: Final = 20
"""Seconds that a session certificate is good for in the demo: short, so that some are renewed and one ends."""
DUPLICATES: Final = 300
QUIET_TIMEOUT_S: Final = 60.0

Tell = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of the demo and how it ended."""

    name: str
    sent: int
    stored: int
    duplicate: int
    rejected: int
    comparison: Comparison
    lag: int


@dataclass(frozen=True, slots=True)
class ZoneAudit:
    """What the audit of one zone found, over all its logs."""

    zone: ZoneId
    facts: int
    receipts: int
    countersigned: int
    findings: tuple[str, ...]

    @classmethod
    def of(cls, zone: ZoneId, logs: Sequence[LogAudit]) -> ZoneAudit:
        """The sum over the logs of a zone."""
        return cls(
            zone,
            sum(log.facts for log in logs),
            sum(log.receipts for log in logs),
            sum(log.countersigned for log in logs),
            tuple(f"{log.origin} {log.category}: {finding}" for log in logs for finding in log.findings),
        )

    @property
    def intact(self) -> bool:
        """Whether there was something to audit, and nothing contradicts anything."""
        return self.facts > 0 and self.receipts > 0 and not self.findings


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo ends with."""

    directions: tuple[Direction, ...]
    modes: tuple[tuple[float, str], ...]
    kills: int
    conflict: str
    catch_up_s: float
    seconds: float
    keys: tuple[ZoneKeys, ...]
    impostors: tuple[Attempt, ...]
    latched: LatchAct
    broker: str
    audits: tuple[ZoneAudit, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether everything that was promised held."""
        return (
            all(d.comparison.equal and d.lag == 0 for d in self.directions)
            and self.conflict.startswith(Reason.CONFLICTING_DUPLICATE)
            and {mode for _, mode in self.modes} >= {Mode.NORMAL, Mode.AUTONOMOUS}
            and {audit.zone for audit in self.audits if audit.intact} == set(ZONES)
            and {keys.zone for keys in self.keys if keys.proven} == set(ZONES)
            and len(self.impostors) == IMPOSTORS
            and all(attempt.reason for attempt in self.impostors)
            and self.latched.held
        )


@dataclass(slots=True)
class Story:
    """One telling; ``tell`` gets each line as it happens."""

    environment: Environment
    tell: Tell
    started: float = field(default_factory=time.monotonic)
    modes: list[tuple[float, str]] = field(default_factory=list)
    _kills: int = 0
    _conflict: str = ""
    _catch_up_s: float = 0.0
    _ended: bool = False
    _sensors: Producer = field(init=False)
    _orders: Producer = field(init=False)
    _sent: list[Outgoing] = field(default_factory=list)
    _machine: Machine = field(default_factory=Machine)
    _sightings: Sightings = field(init=False)
    _impostors: tuple[Attempt, ...] = ()
    _latched: LatchAct = field(default_factory=LatchAct)

    def __post_init__(self) -> None:
        self._sightings = Sightings(self.environment)
        login = self.environment.facts_login
        self._sensors = Producer(PLANT, TELEMETRY, ENTERPRISE, "sensors", login(PLANT, "sensors"))
        self._orders = Producer(ENTERPRISE, OPERATIONAL, PLANT, "orders", login(ENTERPRISE, "orders"))

    async def run(self) -> Report:
        """Play all acts. :raises UnavailableError: the zones did not come to rest in time."""
        await self._until(_together)  # the boxes are enrolled; now they meet
        self.started = time.monotonic()
        async with _background(self._watch_modes(), self._watch_keys()):
            async with asyncio.TaskGroup() as producers:
                producers.create_task(self._read_machine())
                producers.create_task(self._place_orders())
                for act in (self._calm, self._cut, self._heal, self._repeat, self._kill, self._refuse, self._latch):
                    await act()
                self._ended = True  # each producer still gets the answer it waits for
            await self._come_to_rest()
            report = await self._compare()
        await self._sensors.close()
        await self._orders.close()
        return report

    # -- the producers, going on all the time --------------------------------------------------------------------------

    async def _read_machine(self) -> None:
        while not self._ended:
            batch = [self._sensors.message(r.subject, r.predicate, dict(r.values)) for r in self._machine.read()]
            self._sent += batch
            await self._sensors.send_all(batch)
            await asyncio.sleep(READ_EVERY_S)

    async def _place_orders(self) -> None:
        number = 0
        while not self._ended:
            number += 1
            values = {"order": number, "recipe": f"mix-{number % 7}", "quantity": 10 + number % 90}
            await self._orders.send(self._orders.message(f"order:{number}", "order_created", values))
            await asyncio.sleep(ORDER_EVERY_S)

    # -- the acts ------------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        self._say("the plant sends readings of this machine, the enterprise sends orders; both cross")
        await asyncio.sleep(CALM_S)
        self._progress()

    async def _cut(self) -> None:
        await self._control(CutRequest())
        self._say("link cut (simulated): the zones cannot reach each other, producers in both go on")
        before = (len(self._sensors.tally.acknowledged), len(self._orders.tally.acknowledged))
        await asyncio.gather(self._burst(pause_s=0.0), asyncio.sleep(CUT_S))
        readings = len(self._sensors.tally.acknowledged) - before[0]
        orders = len(self._orders.tally.acknowledged) - before[1]
        self._say(f"while cut: {readings} readings and {orders} orders were stored durably where they were made")

    async def _heal(self) -> None:
        healed = time.monotonic()
        await self._control(HealRequest())
        self._say("link healed: the backlog is drained")
        await self._until(lambda status: _together(status) and _lag(status) == 0)
        self._catch_up_s = time.monotonic() - healed
        self._say(f"caught up {self._catch_up_s:.1f} s after the link came back")

    async def _repeat(self) -> None:
        again = self._sent[-DUPLICATES:]
        answers = await self._sensors.send_all(again)
        self._say(f"{len(again)} readings sent a second time: {answers.count('duplicate')} recognised as duplicates")
        first = self._sent[0]
        forged = Outgoing(
            first.subject,
            first.message_id,
            first.payload.replace(b'"object_json": {', b'"object_json": {"forged": 1, '),
        )
        await self._sensors.send(forged)
        self._conflict = self._sensors.tally.refused[-1] if self._sensors.tally.refused else ""
        self._say(f"one id sent with other content: refused {self._conflict.partition(':')[0] or 'NOT'}")

    async def _kill(self) -> None:
        self._say(f"{BURST_FACTS} more readings, and kill -9 of one process after the other while they cross")
        async with _background(self._burst(pause_s=KILL_EVERY_S * len(KILLED) * BURST_PAGE / BURST_FACTS)) as (burst,):
            for process in KILLED:
                await asyncio.sleep(KILL_EVERY_S)
                await self._control(KillRequest(process))
                self._kills += 1
                self._say(f"killed {process}; the supervisor starts it again")
            await burst

    async def _refuse(self) -> None:
        self._say(f"two impostors dial the hub as {PLANT}: every name is right, and the keys are not")
        authority = hub_authority(self.environment)
        self._impostors = tuple(await asyncio.to_thread(impersonate, self.environment, authority))
        for attempt in self._impostors:
            self._say(f"{attempt.who}: {attempt.verdict}")

    async def _latch(self) -> None:
        await self._until(_together)
        counter = await self._keeper(latch)
        began, before = time.monotonic(), len(self._sensors.tally.acknowledged)
        self._say(f"{PLANT} is latched: its TPM counts {counter} and refuses the boundary key; no session is renewed")
        await self._until(lambda status: status.mode == Mode.AUTONOMOUS)
        silent_s = time.monotonic() - began
        self._say(f"the last connection ended with its certificate, {silent_s:.1f} s after the latch")
        await asyncio.sleep(LATCHED_S)
        stored = len(self._sensors.tally.acknowledged) - before
        self._say(f"while latched: {stored} readings were stored in {PLANT}, and none could leave it")
        began = time.monotonic()
        status = await self._keeper(release)
        self._say(f"two operators signed a release for counter {status.counter}; the TPM took it")
        await asyncio.to_thread(reboot, self.environment, PLANT)
        self._say(
            f"{PLANT} is booted anew (simulated: all its processes are killed), so that the hub sees a boot since"
        )
        await self._until(lambda status: _together(status) and _lag(status) == 0)
        self._latched = LatchAct(counter, silent_s, stored, time.monotonic() - began)
        self._say(f"everything crosses again {self._latched.back_s:.1f} s after the release")

    async def _keeper(self, ask: Callable[[Environment, ZoneId], Awaitable[T]]) -> T:
        return await asyncio.to_thread(trio.run, ask, self.environment, PLANT)

    async def _burst(self, *, pause_s: float) -> None:
        for start in range(0, BURST_FACTS, BURST_PAGE):
            reading = self._machine.read()
            page = [
                self._sensors.message(r.subject, r.predicate, {**r.values, "burst": start + i})
                for i, r in enumerate(reading * (BURST_PAGE // len(reading)))
            ]
            await self._sensors.send_all(page)
            await asyncio.sleep(pause_s)

    async def _come_to_rest(self) -> None:
        self._say("producers stopped; waiting until both zones agree")
        offsets = (len(self._sensors.tally.acknowledged), len(self._orders.tally.acknowledged))
        await self._until(lambda status: _rests(status, *offsets))

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _compare(self) -> Report:
        login = self.environment.facts_login
        status = self._status()
        directions = []
        for producer, origin, target, category in (
            (self._sensors, PLANT, ENTERPRISE, TELEMETRY),
            (self._orders, ENTERPRISE, PLANT, OPERATIONAL),
        ):
            own = await read_log(login(origin, "reader"), category, None)
            received = await read_log(login(target, "reader"), category, origin)
            tally = producer.tally
            name = f"{origin} -> {target} {category}"
            lag = sum(c.lag for c in status.crossings if c.category == category)
            directions.append(
                Direction(
                    name,
                    tally.sent,
                    tally.answers["stored"],
                    tally.answers["duplicate"],
                    len(tally.refused),
                    compare(own, received, tally.acknowledged),
                    lag,
                )
            )
        return Report(
            tuple(directions),
            tuple(self.modes),
            self._kills,
            self._conflict,
            self._catch_up_s,
            time.monotonic() - self.started,
            self._sightings.zones(),
            self._impostors,
            self._latched,
            status.broker.version,
        )

    def _status(self) -> StatusDocument:
        return StatusDocument.read(self.environment.layout.zone(PLANT).status_document)

    async def _watch_modes(self) -> None:
        while True:
            with suppress(UnavailableError):
                mode = self._status().mode
                if not self.modes or self.modes[-1][1] != mode:
                    self.modes.append((time.monotonic() - self.started, mode))
                    self._say(f"mode of {PLANT}: {mode}")
            await asyncio.sleep(0.1)

    async def _watch_keys(self) -> None:
        while True:
            await asyncio.to_thread(self._sightings.look)
            await asyncio.sleep(0.5)

    async def _until(self, reached: Callable[[StatusDocument], bool]) -> None:
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while time.monotonic() < deadline:
            with suppress(UnavailableError):
                if reached(self._status()):
                    return
            await asyncio.sleep(0.1)
        raise UnavailableError(Reason.NOT_READY, f"the zones did not come to rest within {QUIET_TIMEOUT_S:g} s")

    async def _control(self, request: Request) -> None:
        await asyncio.to_thread(query, self.environment.layout, request)

    def _progress(self) -> None:
        readings, orders = len(self._sensors.tally.acknowledged), len(self._orders.tally.acknowledged)
        self._say(f"so far {readings} readings and {orders} orders")

    def _say(self, text: str) -> None:
        self.tell(f"{time.monotonic() - self.started:5.1f} s  {text}")


def _together(status: StatusDocument) -> bool:
    """Whether the zones reach each other in every category and direction."""
    reached = [crossing.reachable for crossing in status.crossings]
    return status.mode == Mode.NORMAL and bool(reached) and all(reached)


def _lag(status: StatusDocument) -> int:
    return sum(crossing.lag for crossing in status.crossings)


def _rests(status: StatusDocument, readings: int, orders: int) -> bool:
    """Everything was handed over and confirmed by receipts."""
    at = {(c.direction, c.category): c for c in status.crossings}
    push, pull = at.get(("push", TELEMETRY)), at.get(("pull", OPERATIONAL))
    if push is None or pull is None or _lag(status):
        return False
    return push.confirmed >= readings and pull.confirmed >= orders


@asynccontextmanager
async def _background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[tuple[asyncio.Task[None], ...]]:
    """Run beside the block; a failure ends the block, the end of the block ends the work."""
    async with asyncio.TaskGroup() as group:
        tasks = tuple(group.create_task(each) for each in work)
        yield tasks
        for task in tasks:
            task.cancel()
