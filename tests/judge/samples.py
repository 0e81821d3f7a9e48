# SPDX-License-Identifier: Apache-2.0
"""Good histories to prove the judge with: a tiny model of zones that does everything right, and the shapes it acts out.

The model is not the product and shares nothing with it. It stores, crosses, trims, is wiped and refilled in plain lists
and records what producers and readers would see.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tests.judge.events import (
    Append,
    Confirm,
    DeadLetter,
    Disaster,
    DisasterKind,
    Event,
    Fault,
    Gap,
    Heal,
    Info,
    Link,
    Ok,
    Poison,
    Quiet,
    Read,
    Refused,
    Retention,
    SnapshotBegin,
    SnapshotEnd,
    Topology,
)
from tests.judge.recorder import content_digest

PLANT, OTHER, HUB = "plant-a", "plant-b", "enterprise"
OPS, TELE = "operational", "telemetry"
TWO_ZONES = (Link(PLANT, HUB), Link(HUB, PLANT))
THREE_ZONES = (*TWO_ZONES, Link(OTHER, HUB), Link(HUB, OTHER, (OPS,)))

Log = tuple[str, str]
"""(origin, category)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One stored fact: where it stands in its origin's log, and whether it can be processed."""

    epoch: str
    offset: int
    producer: str
    id: str
    to: str
    content: str
    poison: bool = False


@dataclass(slots=True)
class Side:
    """What one zone holds. ``logs``: local sequence and item per log; ``position``: consumed through here."""

    logs: dict[Log, list[tuple[int, Item]]] = field(default_factory=lambda: defaultdict(list))
    sequence: dict[Log, int] = field(default_factory=lambda: defaultdict(int))
    position: dict[Log, tuple[str, int]] = field(default_factory=dict)
    gaps: list[tuple[Log, str, int, int | None, str]] = field(default_factory=list)
    dead: list[tuple[Log, Item, str]] = field(default_factory=list)


class World:
    """Zones joined by links; every method acts and records the events of it."""

    def __init__(self, links: tuple[Link, ...] = TWO_ZONES, *, acks_epoch: bool = True) -> None:
        self.links = links
        self.acks_epoch = acks_epoch
        self.events: list[Event] = []
        self.sides: dict[str, Side] = defaultdict(Side)
        self.epochs: dict[Log, int] = defaultdict(int)
        self.number = 0
        self.put(Topology(t=0.0, links=links))

    def put(self, event: Event) -> None:
        """Record one event."""
        self.events.append(event)

    @property
    def now(self) -> float:
        """A new time, one millisecond on."""
        self.number += 1
        return self.number / 1000

    def epoch(self, log: Log) -> str:
        """The epoch of an origin's log."""
        return f"{log[0]}-{log[1]}-{self.epochs[log]}"

    def call(
        self, zone: str, category: str, fact_id: str, *, to: str = "all", producer: str = "p1", body: str = ""
    ) -> str:
        """A producer starts a call; returns its op."""
        op = f"op{self.number}"
        content = content_digest((body or fact_id).encode())
        self.put(
            Append(
                t=self.now, op=op, zone=zone, producer=producer, category=category, to=to, id=fact_id, content=content
            )
        )
        return op

    def store(self, op: str) -> tuple[Item, bool] | None:
        """The zone takes the call: the item and whether it was a duplicate; None for a conflict."""
        call = next(e for e in reversed(self.events) if isinstance(e, Append) and e.op == op)
        side, log = self.sides[call.zone], (call.zone, call.category)
        for _, item in side.logs[log]:
            if (item.producer, item.id) == (call.producer, call.id):
                return (item, True) if item.content == call.content else None
        side.sequence[log] += 1
        item = Item(self.epoch(log), side.sequence[log], call.producer, call.id, call.to, call.content)
        side.logs[log].append((item.offset, item))
        return item, False

    def answer(self, op: str) -> None:
        """The zone takes the call and answers it."""
        stored = self.store(op)
        if stored is None:
            self.put(Refused(t=self.now, op=op, reason="conflicting_duplicate"))
            return
        item, duplicate = stored
        epoch = item.epoch if self.acks_epoch else None
        self.put(Ok(t=self.now, op=op, offset=item.offset, epoch=epoch, duplicate=duplicate))

    def send(self, zone: str, category: str, *ids: str, to: str = "all", producer: str = "p1", body: str = "") -> None:
        """Whole calls, one after the other."""
        for fact_id in ids:
            self.answer(self.call(zone, category, fact_id, to=to, producer=producer, body=body))

    def send_unknown(self, zone: str, category: str, fact_id: str, *, stored: bool, to: str = "all") -> None:
        """A call whose outcome the producer never learns."""
        op = self.call(zone, category, fact_id, to=to)
        if stored:
            self.store(op)
        self.put(Info(t=self.now, op=op, reason="timeout"))

    def refuse(self, zone: str, category: str, fact_id: str, reason: str, *, to: str = "all", body: str = "") -> None:
        """A call that is refused."""
        op = self.call(zone, category, fact_id, to=to, body=body)
        self.put(Refused(t=self.now, op=op, reason=reason))

    def cross(self, origin: str, target: str, category: str, count: int = 1 << 30) -> None:
        """Move up to ``count`` entries of the origin's log (addressed or not) into the target, then confirm them."""
        log = (origin, category)
        here, there = self.sides[target], self.sides[origin]
        epoch, position = here.position.get(log, (self.epoch(log), 0))
        if epoch != self.epoch(log):
            epoch, position = self.epoch(log), 0
        held = {(item.producer, item.id): item for _, item in here.logs[log]}
        for _, item in [pair for pair in there.logs[log] if pair[1].offset > position][:count]:
            position = item.offset
            if item.to not in ("all", target):
                continue
            twin = held.get((item.producer, item.id))
            if item.poison or (twin is not None and twin.content != item.content):
                here.dead.append((log, item, "malformed_json" if item.poison else "conflicting_duplicate"))
            elif twin is None:
                here.sequence[log] += 1
                here.logs[log].append((here.sequence[log], item))
        here.position[log] = (epoch, position)
        self.put(
            Confirm(
                t=self.now,
                observer=origin,
                receiver=target,
                origin=origin,
                category=category,
                epoch=epoch,
                offset=position,
            )
        )

    def cross_all(self) -> None:
        """Everything over every link."""
        for link in self.links:
            for category in link.categories or (OPS, TELE):
                if self.sides[link.origin].logs[link.origin, category]:
                    self.cross(link.origin, link.target, category)

    def read(self, zone: str, *, ends: bool = True, origin: str | None = None, category: str | None = None) -> None:
        """A reader reads the zone from the beginning."""
        name, side = f"s{self.number}", self.sides[zone]
        self.put(SnapshotBegin(t=self.now, snapshot=name, zone=zone, origin=origin, category=category))
        wanted = [log for log in side.logs if origin in (None, log[0]) and category in (None, log[1])]
        for log in wanted:
            store = f"FACTS_{log[1].upper()}" + ("" if log[0] == zone else f"_FROM_{log[0].upper()}")
            for seq, item in side.logs[log]:
                self.put(
                    Read(
                        t=self.now, snapshot=name, stream=store, origin=log[0], category=log[1], epoch=item.epoch,
                        seq=seq, offset=item.offset, producer=item.producer, id=item.id, content=item.content,
                    )
                )  # fmt: skip
        for log, epoch, first, last, reason in side.gaps:
            self.put(
                Gap(
                    t=self.now,
                    snapshot=name,
                    origin=log[0],
                    category=log[1],
                    epoch=epoch,
                    first=first,
                    last=last,
                    reason=reason,
                )
            )
        for log, item, reason in side.dead:
            self.put(
                DeadLetter(
                    t=self.now, snapshot=name, origin=log[0], category=log[1], epoch=item.epoch, offset=item.offset,
                    id=item.id, reason=reason,
                )
            )  # fmt: skip
        if ends:
            self.put(SnapshotEnd(t=self.now, snapshot=name))

    def finish(self, deadline_s: float = 60.0) -> list[Event]:
        """Quiet, everything crosses, every zone is read."""
        self.put(Quiet(t=self.now, deadline_s=deadline_s))
        self.cross_all()
        for zone in sorted({zone for link in self.links for zone in (link.origin, link.target)}):
            self.read(zone)
        return self.events

    def fault(self, name: str, zone: str | None = None) -> None:
        """A fault and its end."""
        self.put(Fault(t=self.now, name=name, zone=zone))
        self.put(Heal(t=self.now, name=name, zone=zone))

    def allow_trim(self, zone: str, category: str, *, drop_unconfirmed: bool = False) -> None:
        """The site allows retention."""
        self.put(Retention(t=self.now, zone=zone, category=category, drop_unconfirmed=drop_unconfirmed))

    def trim(self, zone: str, log: Log, upto: int) -> None:
        """The zone expires its first entries and records the range."""
        side = self.sides[zone]
        gone = [item for _, item in side.logs[log] if item.offset <= upto]
        side.logs[log] = [pair for pair in side.logs[log] if pair[1].offset > upto]
        side.gaps.append((log, gone[0].epoch, gone[0].offset, gone[-1].offset, "expired"))

    def poison(self, origin: str, target: str, category: str) -> Item:
        """An unprocessable entry gets into the origin's log."""
        side, log = self.sides[origin], (origin, category)
        side.sequence[log] += 1
        name = f"bad{side.sequence[log]}"
        item = Item(self.epoch(log), side.sequence[log], "?", name, target, content_digest(name.encode()), poison=True)
        side.logs[log].append((item.offset, item))
        self.put(
            Poison(
                t=self.now, zone=target, origin=origin, category=category, epoch=item.epoch, offset=item.offset, id=None
            )
        )
        return item

    def wipe(self, zone: str) -> None:
        """The zone loses every log; its own logs start new epochs."""
        self.sides[zone] = Side()
        for log in [log for log in self.epochs if log[0] == zone]:
            self.epochs[log] += 1
        self.put(Disaster(t=self.now, zone=zone, kind=DisasterKind.LOG_WIPED))

    def restore(self, zone: str, log: Log, keep: int) -> None:
        """One log of the zone falls back to its first ``keep`` entries, as its older copy had them."""
        side = self.sides[zone]
        side.logs[log] = side.logs[log][:keep]
        side.sequence[log] = side.logs[log][-1][0]
        last = side.logs[log][-1][1]
        side.position[log] = (last.epoch, last.offset)
        self.put(Disaster(t=self.now, zone=zone, kind=DisasterKind.LOG_RESTORED, origin=log[0], category=log[1]))


def long_history(facts: int) -> list[Event]:
    """A long run: each fact is sent, acknowledged and read in both zones (four events), with receipts in between."""
    events: list[Event] = [Topology(links=TWO_ZONES)]
    digest = content_digest(b"x")
    for n in range(1, facts + 1):
        call = Append(op=f"o{n}", zone=PLANT, producer="p", category=OPS, to=HUB, id=f"i{n}", content=digest)
        events += (call, Ok(op=f"o{n}", offset=n, epoch="e", duplicate=False))
        if n % 100 == 0:
            events.append(Confirm(observer=PLANT, receiver=HUB, origin=PLANT, category=OPS, epoch="e", offset=n))
    events.append(Quiet(deadline_s=1.0))
    for zone in (HUB, PLANT):
        events.append(SnapshotBegin(snapshot=zone, zone=zone))
        events += (
            Read(
                snapshot=zone, stream="S", origin=PLANT, category=OPS, epoch="e", seq=n, offset=n, producer="p",
                id=f"i{n}", content=digest,
            )
            for n in range(1, facts + 1)
        )  # fmt: skip
        events.append(SnapshotEnd(snapshot=zone))
    return events


def conflict_flood(calls: int) -> list[Event]:
    """One id, sent with as many contents as there are calls; all but the first are refused."""
    events: list[Event] = [Topology(links=TWO_ZONES)]
    for n in range(calls):
        digest = content_digest(str(n).encode())
        events.append(Append(op=f"o{n}", zone=PLANT, producer="p", category=OPS, to=PLANT, id="same", content=digest))
        first = Ok(op="o0", offset=1, epoch="e", duplicate=False)
        events.append(Refused(op=f"o{n}", reason="conflicting_duplicate") if n else first)
    return events
