# SPDX-License-Identifier: Apache-2.0
"""A simulated machine: what it keeps on disk, and the process on it, which can be killed at any await."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

import trio

from appliance.boundary.claims import IdClaims
from appliance.boundary.crossing import Crossing
from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.intake import Intake
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import Receipt, Signature
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, WhenFull, ZonePolicy
from appliance.boundary.ports import SinkPort, SourcePort
from appliance.boundary.reasons import Reason
from appliance.boundary.records import Incident, LogId, Record, StoredRecord
from appliance.boundary.retention import Trimmer
from appliance.boundary.sink import Sink
from appliance.boundary.source import Source
from appliance.boundary.store import StoreBuffer
from appliance.boundary.transfer import Backoff
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeDisk, FakeLog, FakeLogs, FakeStream, Faults, Limits
from tests.sim.plan import CATEGORIES, DROPPED, HUB, KEPT, PLANT

if TYPE_CHECKING:
    from tests.sim.book import Dropped
    from tests.sim.world import World

T = TypeVar("T")


class GoneError(Exception):
    """The process that was called is not there (any more); the outcome of the call is unknown."""


class SimKeys:
    """Simulated keys: a signature is a hash over the signer's zone and the statement.

    It takes its time, the keeper may be away or answer too late, and the key may be latched for a while.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine, self._zone = machine, machine.zone

    async def sign(self, statement: bytes) -> Signature:
        """See :class:`appliance.boundary.ports.KeysPort`."""
        world, machine = self._machine.world, self._machine
        world.book.signed(self._zone, statement)
        if world.plan.sign_s:
            await trio.sleep(world.dice.uniform(0.1, 1) * world.plan.sign_s)
        if trio.current_time() < machine.latched_until:
            world.book.count("signature refused")
            raise DeniedError(Reason.KEY_LATCHED, "simulated")
        if not world.healed and world.dice.random() < world.plan.sign_lost:
            world.book.count("signature not given")
            raise UnavailableError(Reason.KEEPER_UNAVAILABLE, "simulated")
        return self._signature(self._zone, statement)

    def verify(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """See :class:`appliance.boundary.ports.KeysPort`."""
        return self._signature(zone, statement) == signature

    @staticmethod
    def _signature(zone: ZoneId, statement: bytes) -> Signature:
        return Signature(hashlib.sha256(zone.encode() + b"\0" + statement).digest(), f"of {zone}".encode())


class SimLog(FakeLog):
    """A log that tells the world about new epochs, and spoils the records that the world wants spoiled."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(name, machine.disk, machine.faults)
        self._machine = machine

    async def roll_epoch(self, reader: ZoneId | None) -> bytes:
        """See the port."""
        stream = self._stream
        assert isinstance(stream, SimStream)
        before = stream.epoch
        view = stream.epochs.get(HUB if self._machine.zone == PLANT else PLANT, before)
        try:
            return await super().roll_epoch(reader)
        finally:
            self._machine.world.book.rolled(self._machine.zone, stream, reader, before, view)


@dataclass(slots=True)
class SimStream(FakeStream):
    """A stream whose disk may spoil what is written."""

    machine: Machine = field(kw_only=True)
    category: Category = field(kw_only=True)

    def append(self, records: Sequence[Record]) -> list[StoredRecord]:
        """See :class:`tests.fakes.logs.FakeStream`."""
        book = self.machine.world.book
        if self.log is not None:
            return FakeStream.append(self, records)
        stored = FakeStream.append(self, [book.spoil(record) for record in records])
        book.written(self.machine.zone, self, stored)
        return stored

    def forget(self, records: Sequence[StoredRecord]) -> None:
        """See :class:`tests.fakes.logs.FakeStream`."""
        for record in records:
            self.machine.world.book.trimmed(self.machine.zone, self, record)
        FakeStream.forget(self, records)


class SimLogs(FakeLogs):
    """The streams of a simulated machine."""

    def __init__(self, machine: Machine) -> None:
        limits = {DROPPED: Limits(machine.world.plan.capacity, drop_oldest=True)}
        super().__init__(machine.zone, machine.disk, machine.faults, limits)
        self._machine = machine

    def _open(self, name: str, epoch: bytes, category: Category, log: LogId | None) -> FakeLog:
        if name not in self._disk.streams:
            limits = self._limits.get(category, Limits())
            self._disk.streams[name] = SimStream(
                epoch, limits=limits, log=log, machine=self._machine, category=category
            )
        return SimLog(self._machine, name)


@dataclass(slots=True)
class _Reply:
    """Where a called process leaves its answer."""

    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    value: object = None
    error: BsfgError | None = None
    answered: bool = False


class SimSource(Source):
    """A source whose zone tells the judge which receipts it took."""

    def __init__(self, machine: Machine, policy: ZonePolicy, stores: dict[Category, StoreBuffer]) -> None:
        super().__init__(policy, stores, machine.ledger, SimKeys(machine), note=machine.note)
        self._machine = machine

    async def confirm_receipt(self, reader: ZoneId, receipt: Receipt) -> Signature:
        """See :class:`appliance.boundary.ports.SourcePort`."""
        signature = await super().confirm_receipt(reader, receipt)
        if self._machine.newest_receipt(receipt) == receipt:
            world = self._machine.world
            world.book.confirmed(self._machine.zone, receipt, world.machines[receipt.receiver])
        return signature


class Process:
    """The product's parts of one zone, wired as in production; everything in it dies with its nursery."""

    def __init__(self, machine: Machine, nursery: trio.Nursery) -> None:
        world, zone = machine.world, machine.zone
        self._machine, self.nursery = machine, nursery
        peer = HUB if zone == PLANT else PLANT
        categories = {category: CategoryPolicy() for category in CATEGORIES}
        categories[KEPT] = CategoryPolicy(max_bytes=world.plan.buffer_bytes)
        categories[DROPPED] = CategoryPolicy(WhenFull.DROP_OLDEST)
        both = frozenset(CATEGORIES)
        policy = ZonePolicy(zone, categories, {peer: PeerPolicy(both, both)})
        claims, logs = IdClaims(), SimLogs(machine)
        self.stores = {
            category: StoreBuffer(zone, category, logs, machine.ledger, claims, note=machine.note)
            for category in CATEGORIES
        }
        self.intakes = {category: Intake(store) for category, store in self.stores.items()}
        self.source = SimSource(machine, policy, self.stores)
        self.sink = Sink(
            policy,
            logs,
            machine.ledger,
            SimKeys(machine),
            claims,
            wall_clock_ms=machine.wall_clock_ms,
            note=machine.note,
            backoff=Backoff(dice=world.dice),
        )
        self.trimmer = Trimmer(policy, self.stores, machine.ledger)
        self.crossings: list[Crossing] = []
        if zone == PLANT:  # the plant dials: it pulls and it pushes
            remote = world.peer(machine, world.machines[HUB])
            for category in CATEGORIES:
                self.crossings += [
                    self._crossing(f"push {category}", category, zone, peer, self.source, remote),
                    self._crossing(f"pull {category}", category, peer, zone, remote, self.sink),
                ]

    def loops(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """What runs as long as the process lives."""
        yield self.trimmer.run
        yield self.sink.run
        for intake in self.intakes.values():
            yield intake.run
        for crossing in self.crossings:
            yield crossing.run

    def _crossing(
        self, name: str, category: Category, origin: ZoneId, reader: ZoneId, source: SourcePort, sink: SinkPort
    ) -> Crossing:
        plan = self._machine.world.plan
        return Crossing(
            name,
            category,
            origin,
            reader,
            source,
            sink,
            wait_ms=plan.wait_ms,
            page_facts=plan.page_facts,
            backoff=Backoff(dice=self._machine.world.dice),
        )

    async def call(self, work: Callable[[Process], Awaitable[T]]) -> T:
        """Have the process do something. A caller that gives up may or may not end the work with it.

        :raises GoneError: the process died before it answered.
        """
        if self._machine.process is not self:
            raise GoneError
        reply = _Reply()
        self.nursery.start_soon(self._serve, work, reply)
        try:
            await reply.done.wait()
        except trio.Cancelled:
            if self._machine.world.dice.random() < 0.5:
                reply.scope.cancel()
            raise
        if reply.error is not None:
            raise reply.error
        if not reply.answered:
            raise GoneError
        return cast(T, reply.value)

    async def _serve(self, work: Callable[[Process], Awaitable[object]], reply: _Reply) -> None:
        try:
            with reply.scope:
                reply.value = await work(self)
                reply.answered = True
        except BsfgError as error:
            reply.error = error
        finally:
            reply.done.set()


class Machine:
    """One zone's machine. ``disk`` and ``ledger`` survive everything but disasters."""

    def __init__(self, world: World, zone: ZoneId) -> None:
        plan = world.plan
        self.world, self.zone = world, zone
        self.faults = self._faults(world.dice, plan.lost, "broker")
        self.faults.late, self.faults.later, self.faults.atomic_from = plan.late, self.later, plan.atomic_from
        self.ledger_faults = self._faults(world.dice, plan.lost / 4, "ledger")
        self.disk = FakeDisk(dice=random.Random(f"disk {zone} {plan.seed}"))
        self.ledger = FakeLedger(self.ledger_faults)
        self.backups: list[tuple[FakeDisk, FakeLedger, Dropped]] = []
        self.process: Process | None = None
        self.clock_error_s = world.dice.uniform(-1e6, 1e6)
        self.latched_until = 0.0
        self.fuse = 0
        self.crashes = 0
        self._repairs: list[Callable[[], None]] = []
        self._life = 0

    def _faults(self, dice: random.Random, lost: float, part: str) -> Faults:
        plan = self.world.plan
        return Faults(dice, lost, lost, plan.slow, 0.5, tap=lambda what: self._tap(f"{part} {what}"))

    # -- life and death ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live, crash, come back, until cancelled."""
        while True:
            while self._repairs:
                self._life += 1
                self._repairs.pop(0)()
            async with trio.open_nursery() as nursery:
                self.process = Process(self, nursery)
                self.world.trace(f"{self.zone} starts")
                for work in self.process.loops():
                    nursery.start_soon(work)
                nursery.start_soon(trio.sleep_forever)
            await trio.sleep(self.world.dice.uniform(0, 2))

    def crash(self) -> None:
        """Kill the process. What it had sent to its broker may still arrive."""
        if self.process is not None:
            self.world.trace(f"{self.zone} crashes")
            self.world.book.fault("crash", self.zone)
            self.crashes += 1
            self.fuse = 0
            self.process.nursery.cancel_scope.cancel()
            self.process = None

    def strike(self, disaster: Callable[[], None]) -> None:
        """Crash, and damage what the machine keeps before it comes back; the broker is down meanwhile."""
        self.crash()
        self._repairs.append(disaster)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """The broker does something on its own, unless a disaster comes first."""
        life = self._life

        async def act() -> None:
            await trio.sleep(delay_s)
            if self._life == life and not self._repairs:
                self.world.trace(f"{self.zone} broker late append")
                action()

        self.world.nursery.start_soon(act)

    def _tap(self, what: str) -> None:
        self.world.trace(f"{self.zone} {what}")
        if self.fuse:
            self.fuse -= 1
            if self.fuse == 0:
                self.crash()

    def newest_receipt(self, like: Receipt) -> Receipt | None:
        """The newest receipt that the ledger has of the same receiver for the same log."""
        held = self.ledger._receipts.get((LogId(like.origin, like.category, like.epoch), like.receiver))
        return held[-1][0] if held else None

    # -- what the product asks of its machine ------------------------------------------------------------------------

    def wall_clock_ms(self) -> int:
        """A clock that is wrong, and that is stepped at times."""
        return int((2_000_000_000 + self.clock_error_s + trio.current_time()) * 1000)

    def note(self, incident: Incident) -> None:
        """What the product reports, as an operator sees it."""
        self.world.book.noted(self, incident)
