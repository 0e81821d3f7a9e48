# SPDX-License-Identifier: Apache-2.0
"""One simulated world: two machines, the link, producers, accidents; then healing, quiet, and the final reading."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import trio

from appliance.boundary.names import EVERYONE, Category, FactSubject, MessageId, ProducerId, ZoneId, forward_stream
from appliance.boundary.records import HEADER_GAP, HEADER_ID, LogId, parse_gap
from appliance.boundary.transfer import Step
from tests.fakes.logs import FakeStream
from tests.sim.book import Book, peer_of
from tests.sim.link import Link, RemotePeer
from tests.sim.machine import Machine, SimStream
from tests.sim.plan import CATEGORIES, DROPPED, PLANT, ZONES, Accident, Mishap, Plan
from tests.sim.producers import Producer

QUIET_S = 120.0
"""Virtual seconds after the last fault within which everything must have crossed and be confirmed."""

MAX_STEPS = 30_000
"""More than this and a run spins without progress."""
SPINS = f"more than {MAX_STEPS} steps: something spins"


class Trace:
    """The hash over everything that happens, in order; with ``keep`` also the text."""

    def __init__(self, *, keep: bool = False) -> None:
        self._hash = hashlib.sha256()
        self.steps = 0
        self.lines: list[str] | None = [] if keep else None

    def __call__(self, text: str) -> None:
        """Something happens now."""
        line = f"{trio.current_time():.6f} {text}\n"
        self._hash.update(line.encode())
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise RuntimeError(SPINS)
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """What stands for the whole run."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class Held:
    """A fact of a zone's own log, and whether the other zone is to have it."""

    zone: ZoneId
    category: Category
    epoch: bytes
    offset: int
    crosses: bool
    key: tuple[str, str]


class World:
    """Everything there is in one run."""

    nursery: trio.Nursery

    def __init__(self, plan: Plan, trace: Trace) -> None:
        self.plan, self.trace = plan, trace
        self.dice = random.Random(f"world {plan.seed}")
        self.book = Book(plan)
        self.link = Link()
        self.healed = False
        self.sent: dict[ZoneId, dict[tuple[ProducerId, MessageId], None]] = {zone: {} for zone in ZONES}
        self.forgotten: set[tuple[ZoneId, ProducerId, MessageId]] = set()
        self.converged_s: float | None = None
        self.machines = {zone: Machine(self, zone) for zone in ZONES}
        self._lost: dict[Held, None] = {}

    def peer(self, caller: Machine, server: Machine) -> RemotePeer:
        """The other side, as a dialling machine sees it."""
        return RemotePeer(self, caller, server)

    async def run(self) -> None:
        """Live through the plan, heal, wait until quiet, read everything."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for machine in self.machines.values():
                nursery.start_soon(machine.run)
            async with trio.open_nursery() as work:
                for machine in self.machines.values():
                    for name in ("one", "two"):
                        work.start_soon(Producer(self, machine, name).run)
                work.start_soon(self._live)
            while any(m.process is None for m in self.machines.values()):  # noqa: ASYNC110 - virtual time
                await trio.sleep(0.5)
            self.book.quiet(QUIET_S)
            await self._settle()
            for machine in self.machines.values():
                await self._compare(machine)
                self.book.snapshot(machine)
            nursery.cancel_scope.cancel()

    async def _live(self) -> None:
        for mishap in self.plan.mishaps:
            await trio.sleep_until(mishap.at)
            self._happen(mishap)
        await trio.sleep_until(self.plan.length_s)
        self._heal()

    def _heal(self) -> None:
        self.healed = True
        self.trace("healed")
        while self.link.is_cut:
            self.link.heal()
        for machine in self.machines.values():
            for faults in (machine.faults, machine.ledger_faults):
                faults.lost_before = faults.lost_after = faults.slow = faults.late = faults.away_until = 0.0
            machine.fuse = 0
            machine.latched_until = 0.0
        self.book.heal("everything")

    async def _settle(self) -> None:
        """Wait until everything has crossed and is confirmed, at most :data:`QUIET_S`."""
        began = trio.current_time()
        while trio.current_time() < began + QUIET_S - 1:
            if self._is_idle(began) and self.is_level():
                self.converged_s = trio.current_time() - began
                return
            await trio.sleep(0.5)

    async def _compare(self, machine: Machine) -> None:
        """No accident may look as if somebody had forged a ledger: on a box that is quarantine."""
        process = machine.process
        if process is None:
            return
        for category in CATEGORIES:
            receipt = await process.source.contradicted(peer_of(machine.zone), category)
            if receipt is not None:
                text = f"{machine.zone} {category}: offset {receipt.through.offset} looks forged"
                self.book.false_alarms.append(text)

    # -- accidents ---------------------------------------------------------------------------------------------------

    def _happen(self, mishap: Mishap) -> None:
        machine = self.machines[mishap.zone]
        self.trace(f"accident {mishap.what} {mishap.zone} {mishap.size:.3f}")
        match mishap.what:
            case Accident.CRASH:
                machine.crash()
            case Accident.CRASH_AT_STEP:
                machine.fuse = 1 + int(mishap.size * 60)
            case Accident.BROKER_AWAY | Accident.LEDGER_AWAY | Accident.KEY_LATCHED:
                self._take_away(machine, mishap)
            case Accident.LINK_CUT:
                self.book.fault(mishap.what)
                self.link.cut()
                self.nursery.start_soon(self._heal_link, mishap.size * 5)
            case Accident.BACKUP:
                machine.backups.append((machine.disk.copy(), machine.ledger.copy(), self.book.dropped(machine.zone)))
            case Accident.SNAPSHOT:
                self.book.snapshot(machine)
            case Accident.CLOCK_STEP:
                machine.clock_error_s += (mishap.size - 0.5) * 1e7
            case Accident.RETENTION | Accident.EMPTIED:
                self._retain(machine, mishap)
            case _:
                machine.strike(lambda: self._strike(machine, mishap))

    def _take_away(self, machine: Machine, mishap: Mishap) -> None:
        """Something that a machine needs does not answer for a while."""
        match mishap.what:
            case Accident.BROKER_AWAY:
                machine.faults.away_until = trio.current_time() + mishap.size * 5
            case Accident.LEDGER_AWAY:
                machine.ledger_faults.away_until = trio.current_time() + mishap.size * 2
            case _:
                machine.latched_until = trio.current_time() + mishap.size * 5
        self.book.fault(mishap.what, mishap.zone)

    async def _heal_link(self, after_s: float) -> None:
        await trio.sleep(after_s)
        if self.link.is_cut:
            self.link.heal()
            self.book.heal(Accident.LINK_CUT)

    def _retain(self, machine: Machine, mishap: Mishap) -> None:
        """Retention drops old facts of the category that allows it, own and received ones.

        Old means at least: the ledger has had the time to enter them, and a transfer was idle since it brought them.
        """
        self.book.count(mishap.what)
        for stream in machine.disk.streams.values():
            assert isinstance(stream, SimStream)
            if stream.category == DROPPED:
                share = 1.0 if mishap.what is Accident.EMPTIED else mishap.size
                through = stream.first_seq - 1 + int((stream.last_seq - stream.first_seq + 1) * share)
                account = machine.ledger._accounts.get(stream.log or LogId(machine.zone, DROPPED, stream.epoch))
                old = account.state.seq if account is not None else 0
                if stream.log is not None:
                    marks = [record.seq for record in stream.records if record.subject == "log.position"]
                    old = min([old, *marks[-1:]]) if marks else 0
                stream.drop(min(through, old))

    def _strike(self, machine: Machine, mishap: Mishap) -> None:
        """A disaster, while the machine is down."""
        before = self._held(machine)
        views = self._views(machine.zone)
        older = machine.backups[int(mishap.size * len(machine.backups))] if machine.backups else None
        match mishap.what:
            case Accident.LEDGER_DELETED:
                machine.ledger.restore(type(machine.ledger)())
                self.book.ledger_lost(machine.zone)
                self.book.fault(mishap.what, machine.zone)
            case Accident.LEDGER_OLDER if older:
                machine.ledger.restore(older[1])
                self.book.ledger_lost(machine.zone)
                self.book.fault(mishap.what, machine.zone)
            case Accident.LOG_WIPED:
                machine.disk.streams.pop(f"FACTS_{mishap.category.upper()}", None)
                self.book.disaster(mishap.what, machine.zone, mishap.category)
            case Accident.LOGS_WIPED | Accident.ZONE_WIPED:
                machine.disk.streams.clear()
                machine.disk.dead_letters.clear()
                if mishap.what is Accident.ZONE_WIPED:
                    machine.ledger.restore(type(machine.ledger)())
                self.book.disaster(mishap.what, machine.zone)
            case Accident.LOGS_OLDER | Accident.ZONE_OLDER if older:
                machine.disk.restore(older[0])
                if mishap.what is Accident.ZONE_OLDER:
                    machine.ledger.restore(older[1])
                restored = [stream.epoch for stream in machine.disk.streams.values() if stream.log is None]
                self.book.disaster(mishap.what, machine.zone, dropped=older[2], restored=restored)
            case _:
                return
        self.trace(f"{machine.zone} struck by {mishap.what}")
        self.book.ended_views |= views - self._views(machine.zone)
        self._forget(machine)
        after = self._held(machine)
        self._lost |= {fact: None for fact in before if fact not in after}
        for fact in [fact for fact in self._lost if not self._leaves_trace(fact)]:
            del self._lost[fact]
            self.book.forgive(fact.zone, fact.category, fact.epoch, fact.offset)

    def _views(self, zone: ZoneId) -> set[bytes]:
        """The epochs under which a zone's own logs are served now."""
        stores = [self._store(zone, category) for category in CATEGORIES]
        return {stream.epochs.get(peer_of(zone), stream.epoch) for stream in stores if stream is not None}

    def _forget(self, machine: Machine) -> None:
        """Ids that neither ledger nor log of the zone knows any more: no product could tell them from new ones."""
        known = {key for zone, key in machine.ledger._ids if zone == machine.zone}
        for category in CATEGORIES:
            stream = self._store(machine.zone, category)
            for record in stream.records if stream is not None else ():
                known.add((FactSubject.parse(record.subject).producer, MessageId(record.headers[HEADER_ID])))
        for key in self.sent[machine.zone]:
            if key not in known:
                self.forgotten.add((machine.zone, *key))

    def _held(self, machine: Machine) -> dict[Held, None]:
        """What a zone's own logs hold, or its ledger still knows."""
        zone, peer = machine.zone, peer_of(machine.zone)
        held: dict[Held, None] = {}
        for category in CATEGORIES:
            stream = self._store(zone, category)
            for record in stream.records if stream is not None else ():
                subject = FactSubject.parse(record.subject)
                key = (subject.producer, record.headers[HEADER_ID])
                place = (zone, category, stream.epoch if stream else b"", record.seq)
                held[Held(*place, subject.addresses(peer), key)] = None
        for log, account in machine.ledger._accounts.items():
            for row in account.rows if log.origin == zone else ():
                key = (row.producer, row.message_id)
                held[Held(zone, log.category, log.epoch, row.offset, row.to in (peer, EVERYONE), key)] = None
        return held

    def _leaves_trace(self, fact: Held) -> bool:
        """Whether the reader of a fact gone from its zone knows the log, and will find out that it has ended."""
        if not fact.crosses:
            return False
        peer, now = peer_of(fact.zone), self._store(fact.zone, fact.category)
        if self.book.holds(self.machines[peer], fact.zone, fact.category, fact.key):
            return True
        current = now.epochs.get(peer, now.epoch) if now is not None else b""
        for view in self.book.views(fact.epoch):
            if self.book.is_told(peer, fact.zone, fact.category, view, fact.offset):
                return True
            received = self.machines[peer].disk.streams.get(forward_stream(fact.category, fact.zone, view))
            if received is None:
                continue
            gaps = [parse_gap(r.headers[HEADER_GAP]) for r in received.records if HEADER_GAP in r.headers]
            if any(gap.first <= fact.offset <= gap.last for gap in gaps):
                return True
            frontier = received.records[-1].position.offset if received.records else 0
            if fact.offset > frontier and (view != current or (now is not None and frontier > now.last_seq)):
                return True
        return False

    # -- looking at everything ---------------------------------------------------------------------------------------

    def _store(self, zone: ZoneId, category: Category) -> FakeStream | None:
        return self.machines[zone].disk.streams.get(f"FACTS_{category.upper()}")

    def _is_idle(self, since: float) -> bool:
        """Whether every transfer has found nothing to do since a moment."""
        plant = self.machines[PLANT].process
        crossings = plant.crossings if plant is not None else []
        return bool(crossings) and all(
            c.status.step is Step.FETCH and c.status.last_exchange is not None and c.status.last_exchange >= since
            for c in crossings
        )

    def is_level(self) -> bool:
        """Whether each zone has, and has confirmed, everything the other has for it."""
        return all(self._level(origin, category) for origin in ZONES for category in CATEGORIES)

    def _level(self, origin: ZoneId, category: Category) -> bool:
        peer, stream = peer_of(origin), self._store(origin, category)
        if stream is None:
            return False
        log = LogId(origin, category, stream.epoch)
        account = self.machines[origin].ledger._accounts.get(log)
        if account is None:
            return not stream.last_seq
        wanted = max((row.offset for row in account.rows if row.to in (peer, EVERYONE)), default=0)
        if not wanted:
            return True
        # A new epoch for the reader whose answer was lost is not in use before the source starts anew.
        views = [LogId(origin, category, epoch) for epoch in self.book.views(log.epoch)]
        return any(self._has_confirmed(peer, view, wanted) for view in views)

    def _has_confirmed(self, reader: ZoneId, log: LogId, wanted: int) -> bool:
        """Whether a reader has taken a log up to an offset, and its source knows it."""
        name = forward_stream(log.category, log.origin, log.epoch)
        received = self.machines[reader].disk.streams.get(name)
        if received is None or not received.records or received.records[-1].position.offset < wanted:
            return False
        held = self.machines[log.origin].ledger._receipts.get((log, reader))
        return held is not None and held[-1][0].through.offset >= wanted
