# SPDX-License-Identifier: Apache-2.0
"""What the outside world knows of a run: the history for the judge, and what was done to the zones on purpose.

A zone's log is named to the judge by its epoch. When a source gives one reader an epoch of its own although its log was
never damaged, that epoch is another name for the same log, and the judge is told the log's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import trio

from appliance.boundary.names import Category, FactSubject, ZoneId, forward_stream
from appliance.boundary.pages import Fact, Receipt
from appliance.boundary.reasons import Reason
from appliance.boundary.records import HEADER_ID, Incident, LogId, Record, StoredRecord, parse_gap
from tests.judge import (
    Confirm,
    DeadLetter,
    Disaster,
    DisasterKind,
    Fault,
    Gap,
    Heal,
    Link,
    Poison,
    Quiet,
    Read,
    Recorder,
    Retention,
    Topology,
)
from tests.sim.machine import Machine, SimStream
from tests.sim.plan import CATEGORIES, DROPPED, HUB, KEPT, PLANT, ZONES, Accident, Plan

SPOILT_ON_DISK: Final = "-rots"
"""Ends the id of a fact whose bytes its own zone's disk alters."""
SPOILT_BYTES: Final = "-bends"
"""Ends the id of a fact whose bytes are altered on the way."""
SPOILT_SUBJECT: Final = "-strays"
"""Ends the id of a fact whose subject is altered on the way."""
SPOILT: Final = (SPOILT_ON_DISK, SPOILT_BYTES, SPOILT_SUBJECT)
"""All three."""


Dropped = dict[tuple[ZoneId, ZoneId, Category], set[tuple[str, str]]]
"""Per zone, origin and category: producers and ids of received facts that retention has dropped."""


def peer_of(zone: ZoneId) -> ZoneId:
    """The other zone."""
    return HUB if zone == PLANT else PLANT


class Book:
    """The record of one run. ``counts``: what happened, by kind."""

    def __init__(self, plan: Plan) -> None:
        self.recorder = Recorder(name="sim", clock=trio.current_time)
        self.counts: Counter[str] = Counter()
        self.has_spoiled = plan.poisoned > 0
        self.ended_views: set[bytes] = set()
        self.false_alarms: list[str] = []
        self.false_receipts: list[str] = []
        self.incidents: list[tuple[ZoneId, Incident]] = []
        self._names: dict[bytes, str] = {}
        self._older: dict[str, tuple[str, int]] = {}
        self._beside: dict[str, str] = {}
        self._trimmed: dict[tuple[ZoneId, ZoneId, Category, str], int] = {}
        self._places: dict[tuple[ZoneId, Category, str, str], dict[tuple[str, int], None]] = {}
        self._dropped: Dropped = {}
        self._restored: set[bytes] = set()
        self._views: dict[bytes, list[bytes]] = {}
        self._ledger_lost: set[ZoneId] = set()
        self._struck: set[tuple[ZoneId, Category]] = set()
        self._poisons: set[tuple[str, str, str, int]] = set()
        self._ended: dict[tuple[ZoneId, ZoneId, Category], dict[bytes, int]] = {}
        self._forgiven: dict[tuple[ZoneId, Category], set[tuple[bytes, int]]] = {}
        self._gone: dict[tuple[ZoneId, Category], set[tuple[bytes, int, int]]] = {}
        self._receipts: set[bytes] = set()
        self._signed: dict[bytes, int] = {}
        self._damages: Counter[ZoneId] = Counter()
        self.recorder.record(Topology(links=tuple(Link(zone, peer_of(zone)) for zone in ZONES)))
        for zone in ZONES:
            self.recorder.record(Retention(zone=zone, category=DROPPED, drop_unconfirmed=True))
            if plan.buffer_bytes < 10**6:
                self.recorder.record(Retention(zone=zone, category=KEPT, drop_unconfirmed=False))

    # -- what is done to the zones -----------------------------------------------------------------------------------

    def count(self, what: str) -> None:
        """Count something that happened."""
        self.counts[what] += 1

    def fault(self, name: str, zone: ZoneId | None = None) -> None:
        """A fault that must leave no trace."""
        self.count(name)
        self.recorder.record(Fault(name=name, zone=zone))

    def heal(self, name: str, zone: ZoneId | None = None) -> None:
        """The end of a fault."""
        self.recorder.record(Heal(name=name, zone=zone))

    def dropped(self, zone: ZoneId) -> Dropped:
        """What retention of a zone has dropped of received facts, to be kept with a copy of its logs."""
        return {place: set(keys) for place, keys in self._dropped.items() if place[0] == zone}

    def disaster(
        self,
        what: Accident,
        zone: ZoneId,
        category: Category | None = None,
        *,
        dropped: Dropped | None = None,
        restored: Iterable[bytes] = (),
    ) -> None:
        """Logs of a zone are lost, or replaced by an older copy; ``restored``: the epochs of its own logs in that."""
        dropped = dropped or {}
        self._restored |= set(restored)
        self.count(what)
        older = what in (Accident.LOGS_OLDER, Accident.ZONE_OLDER)
        kind = DisasterKind.LOG_RESTORED if older else DisasterKind.LOG_WIPED
        origin = zone if category is not None else None
        self._damages[zone] += 1
        if origin is None:
            # What came since is to come again; what retention had dropped in the copy that is back is not.
            for place in [place for place in self._dropped if place[0] == zone]:
                self._dropped[place] = set(dropped.get(place, ()))
        self.recorder.record(Disaster(zone=zone, kind=kind, origin=origin, category=category))
        self._struck |= {(zone, category)} if category is not None else {(zone, every) for every in CATEGORIES}

    def quiet(self, deadline_s: float) -> None:
        """From here on nothing goes wrong and nobody sends."""
        self.recorder.record(Quiet(deadline_s=deadline_s))

    # -- names of logs -----------------------------------------------------------------------------------------------

    def name(self, epoch: bytes) -> str:
        """What the judge calls the log of an epoch."""
        return self._names.get(epoch, epoch.hex())

    def rolled(self, zone: ZoneId, stream: SimStream, reader: ZoneId | None, before: bytes, view: bytes) -> None:
        """A log of the epoch ``before``, served as ``view``, got a new epoch, for one reader or for all."""
        self.ended_views.add(view)
        self.count("new epoch for a reader" if reader else "new epoch")
        if reader is not None:
            self._views.setdefault(stream.epoch, []).append(stream.epochs.get(reader, stream.epoch))
        elif stream.epoch != before and before not in self._restored:
            self._names[stream.epoch] = self.name(before)  # nothing happened to the log: it is the same one
        elif stream.epoch != before:
            self._older[self.name(stream.epoch)] = (self.name(before), stream.last_seq)
        if reader is not None and (zone, stream.category) in self._struck:
            self._beside[self.name(stream.epochs.get(reader, stream.epoch))] = self.name(stream.epoch)
        elif reader is not None:
            self._names[stream.epochs.get(reader, stream.epoch)] = self.name(stream.epoch)
        self._declare(zone, stream, stream.records)

    def epochs(self, stream: SimStream) -> set[str]:
        """Every name a log has now."""
        return {self.name(stream.epoch), *(self.name(epoch) for epoch in stream.epochs.values())}

    def views(self, epoch: bytes) -> list[bytes]:
        """All names a reader may know a log by, the newest last."""
        return [epoch, *self._views.get(epoch, ())]

    def trimmed(self, zone: ZoneId, stream: SimStream, record: StoredRecord) -> None:
        """Retention of a zone dropped a record."""
        log = stream.log
        origin, epoch = (zone, stream.epoch) if log is None else (log.origin, log.epoch)
        through = record.seq if log is None else record.position.offset
        place = (zone, origin, stream.category, self.name(epoch))
        self._trimmed[place] = max(through, self._trimmed.get(place, 0))
        if log is not None and record.is_fact:
            self._dropped.setdefault((zone, origin, stream.category), set()).add(_key(record))

    def ledger_lost(self, zone: ZoneId) -> None:
        """The ids of facts that retention has dropped are forgotten with the ledger."""
        self._ledger_lost.add(zone)

    # -- spoilt facts ------------------------------------------------------------------------------------------------

    def spoil(self, record: Record) -> Record:
        """The disk alters the facts that are to rot."""
        if not self.has_spoiled or not record.headers.get(HEADER_ID, "").endswith(SPOILT_ON_DISK):
            return record
        return replace(record, payload=record.payload.replace(b'"n":', b'"m":'))

    def spoil_on_the_way(self, fact: Fact) -> Fact:
        """The way alters the facts that are to be altered there."""
        if (SPOILT_BYTES + '"').encode() in fact.message:
            return replace(fact, message=fact.message.replace(b'"n":', b'"m":'))
        if (SPOILT_SUBJECT + '"').encode() in fact.message:
            return replace(fact, subject=fact.subject + "\r\nPUB x 1")
        return fact

    def written(self, zone: ZoneId, stream: SimStream, records: list[StoredRecord]) -> None:
        """Records were stored: the judge must know which of them are spoilt."""
        if stream.log is None:
            self._declare(zone, stream, records)

    def _declare(self, zone: ZoneId, stream: SimStream, records: list[StoredRecord]) -> None:
        for record in records:
            places = self._places.setdefault((zone, stream.category, *_key(record)), {})
            places[self.name(stream.epoch), record.seq] = None
            fact_id, peer = record.headers.get(HEADER_ID, ""), peer_of(zone)
            if not fact_id.endswith(SPOILT) or not FactSubject.parse(record.subject).addresses(peer):
                continue
            for epoch in self.epochs(stream):
                if (place := (zone, stream.category, epoch, record.seq)) not in self._poisons:
                    self._poisons.add(place)
                    self.count("spoilt fact")
                    self.recorder.record(
                        Poison(
                            zone=peer,
                            origin=zone,
                            category=stream.category,
                            epoch=epoch,
                            offset=record.seq,
                            id=fact_id,
                        )
                    )

    # -- what the product says ---------------------------------------------------------------------------------------

    def noted(self, machine: Machine, incident: Incident) -> None:
        """An incident that an operator of the zone sees."""
        zone = machine.zone
        self.count(f"incident {incident.reason}")
        self.incidents.append((zone, incident))
        facts = incident.facts
        if incident.reason is Reason.LOG_LOST:
            span = (bytes.fromhex(facts["epoch"]), int(facts["first"]), int(facts["last"]))
            self._gone.setdefault((zone, Category(facts["category"])), set()).add(span)
        if incident.reason is Reason.LOG_DIVERGED and "ended" in facts:
            place = (zone, ZoneId(facts["peer"]), Category(facts["category"]))
            ended = self._ended.setdefault(place, {})
            epoch = bytes.fromhex(facts["ended"])
            # A late request for a log that has ended looks like one for a new log to a zone that never heard of it.
            new = LogId(place[1], place[2], bytes.fromhex(facts["epoch"]))
            is_late = new.epoch in self.ended_views and new not in machine.ledger._accounts
            if epoch not in self.ended_views and not is_late:
                self.false_alarms.append(f"{zone} says that epoch {epoch.hex()} of {place[1]} {place[2]} has ended")
            ended[epoch] = min(int(facts["after"]), ended.get(epoch, int(facts["after"])))

    def signed(self, zone: ZoneId, statement: bytes) -> None:
        """A zone signs something."""
        self._signed.setdefault(statement, self._damages[zone])

    def confirmed(self, observer: ZoneId, receipt: Receipt, receiver: Machine) -> None:
        """An observer took a receipt; what it is for must be on the receiver's disk by now."""
        statement = receipt.statement()
        if statement in self._receipts:
            return  # the same one again says nothing new
        self._receipts.add(statement)
        if self._signed[statement] != self._damages[receipt.receiver]:
            self.count("receipt overtaken by a disaster")
            return  # it speaks of what has been lost since
        stream = receiver.disk.streams.get(forward_stream(receipt.category, receipt.origin, receipt.epoch))
        if stream is None or (stream.records and stream.records[-1].position.offset < receipt.through.offset):
            self.false_receipts.append(f"{receipt.receiver} {receipt.category} through {receipt.through.offset}")
        self.recorder.record(
            Confirm(
                observer=f"{observer} after {self._damages[observer]} disasters",  # it may have forgotten what it saw
                receiver=receipt.receiver,
                origin=receipt.origin,
                category=receipt.category,
                epoch=receipt.epoch.hex(),
                offset=receipt.through.offset,
            )
        )

    # -- what a reader finds -----------------------------------------------------------------------------------------

    def snapshot(self, machine: Machine) -> None:  # noqa: C901, PLR0912 - one reading, told in one piece
        """Read all that a zone holds, as it lies on the disk."""
        zone = machine.zone
        with self.recorder.snapshot(zone) as snapshot:
            for name, stream in machine.disk.streams.items():
                assert isinstance(stream, SimStream)
                if stream.log is None:
                    self._read_store(snapshot, zone, name, stream)
                else:
                    self._read_forward(snapshot, zone, stream.log, name, stream)
            for (at, origin, category), ended in self._ended.items():
                for epoch, after in ended.items() if at == zone else ():
                    self._gap(snapshot, origin, category, self.name(epoch), after + 1, None, "log_diverged")
            for (at, origin, category, epoch_name), through in self._trimmed.items():
                if at == zone:
                    self._gap(snapshot, origin, category, epoch_name, 1, through, "retention")
                for newer, (older, end) in self._older.items() if at == zone else ():
                    if older == epoch_name and end:  # what the older log gave is not stored again from the newer
                        self._gap(snapshot, origin, category, newer, 1, min(through, end), "retention")
            self._known_before(snapshot, machine)
            for (origin, category), gone in self._gone.items():
                for epoch, first, last in sorted(gone) if origin == zone else ():
                    self._gap(snapshot, origin, category, self.name(epoch), first, last, "log_lost")
            for (origin, category), lost in self._forgiven.items():
                for epoch, offset in sorted(lost):
                    self._gap(snapshot, origin, category, self.name(epoch), offset, offset, "nobody can know")
            self._read_dead_letters(snapshot, machine)

    def _known_before(self, snapshot: str, machine: Machine) -> None:
        """What a zone received and retention dropped is known there: under a new epoch it is not stored again."""
        held = {
            (stream.category, *_key(record))
            for stream in machine.disk.streams.values()
            if isinstance(stream, SimStream) and stream.log is not None
            for record in stream.records
            if record.is_fact
        }
        for (zone, origin, category), dropped in self._dropped.items():
            for key in sorted(dropped) if zone == machine.zone else ():
                if (category, *key) not in held:
                    for epoch, offset in self._places[origin, category, *key]:
                        self._gap(snapshot, origin, category, epoch, offset, offset, "retention")

    def _read_store(self, snapshot: str, zone: ZoneId, name: str, stream: SimStream) -> None:
        category, epoch = stream.category, self.name(stream.epoch)
        for record in stream.records:
            self._read(snapshot, name, zone, category, epoch, record, record.seq)

    def _read_forward(self, snapshot: str, zone: ZoneId, log: LogId, name: str, stream: SimStream) -> None:
        epoch = self.name(log.epoch)
        # With the ledger an id is forgotten that retention dropped: under a new epoch its fact may be stored once more.
        dropped = self._dropped.get((zone, log.origin, log.category), set()) if zone in self._ledger_lost else set()
        for record in stream.records:
            if record.is_fact and _key(record) in dropped:
                self.count("stored again after retention and ledger loss")
                at = record.origin_offset
                self._gap(snapshot, log.origin, log.category, epoch, at, at, "retention")
            elif record.is_fact:
                self._read(snapshot, name, log.origin, log.category, epoch, record, record.origin_offset)
            elif (text := record.headers.get("Bsfg-Gap")) is not None:
                gap = parse_gap(text)
                self.count(f"gap marker read: {gap.reason}")
                self._gap(snapshot, log.origin, log.category, epoch, gap.first, gap.last, gap.reason)

    def _read(
        self, snapshot: str, stream: str, origin: ZoneId, category: Category, epoch: str, record: StoredRecord, at: int
    ) -> None:
        self.recorder.record(
            Read(
                snapshot=snapshot,
                stream=stream,
                origin=origin,
                category=category,
                epoch=epoch,
                seq=record.seq,
                offset=at,
                producer=FactSubject.parse(record.subject).producer,
                id=record.headers[HEADER_ID],
                content=hashlib.sha256(record.payload).hexdigest(),
            )
        )

    def _gap(
        self, snapshot: str, origin: ZoneId, category: Category, epoch: str, first: int, last: int | None, reason: str
    ) -> None:
        """A gap, under the name it was told with, and under the others that the same log has or had."""
        for name, end in self._others(epoch, first, last):
            self.recorder.record(
                Gap(
                    snapshot=snapshot,
                    origin=origin,
                    category=category,
                    epoch=name,
                    first=first,
                    last=end,
                    reason=reason,
                )
            )

    def _others(self, epoch: str, first: int, last: int | None) -> list[tuple[str, int | None]]:
        """Every name under which the log of an epoch has, or had, a range; with where the range ends there."""
        found: dict[str, int | None] = {}
        waiting = [(epoch, last)]
        while waiting:
            name, end = waiting.pop()
            if name in found or (end is not None and end < first):
                continue
            found[name] = end
            if name in self._beside:
                waiting.append((self._beside[name], end))
            if name in self._older:
                older, limit = self._older[name]
                waiting.append((older, limit if end is None else min(end, limit)))
        return list(found.items())

    def _read_dead_letters(self, snapshot: str, machine: Machine) -> None:
        told = set()
        for letter in machine.disk.dead_letters.values():
            log = letter.log
            # Served again under another name of the same log, the same fact is diverted again: one place, one letter.
            for name, _ in self._others(self.name(log.epoch), letter.offset, letter.offset):
                if (place := (log.origin, log.category, name, letter.offset, letter.message)) in told:
                    continue
                told.add(place)
                self.recorder.record(
                    DeadLetter(
                        snapshot=snapshot,
                        origin=log.origin,
                        category=log.category,
                        epoch=name,
                        offset=letter.offset,
                        id=None,
                        reason=letter.reason,
                    )
                )

    # -- what nobody can know ----------------------------------------------------------------------------------------

    def forgive(self, zone: ZoneId, category: Category, epoch: bytes, offset: int) -> None:
        """A fact is lost without a trace anywhere in the world, so no product could say so."""
        self.count("lost without trace")
        self._forgiven.setdefault((zone, category), set()).add((epoch, offset))

    def holds(self, machine: Machine, origin: ZoneId, category: Category, key: tuple[str, str]) -> bool:
        """Whether a zone has received a fact."""
        return any(
            record.is_fact and _key(record) == key
            for stream in machine.disk.streams.values()
            if stream.log is not None and (stream.log.origin, stream.log.category) == (origin, category)
            for record in stream.records
        )

    def is_told(self, reader: ZoneId, origin: ZoneId, category: Category, epoch: bytes, offset: int) -> bool:
        """Whether a zone's operator was already told that a log ended before an offset."""
        after = self._ended.get((reader, origin, category), {}).get(epoch)
        return after is not None and after < offset


def _key(record: StoredRecord) -> tuple[str, str]:
    return FactSubject.parse(record.subject).producer, record.headers[HEADER_ID]
