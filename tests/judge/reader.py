# SPDX-License-Identifier: Apache-2.0
"""The one pass over the events of a history: from events to the :class:`~tests.judge.book.Book`.

A history that contradicts itself (an answer without a call, a read outside of a snapshot, time that goes back) is
refused here, because nothing can be judged from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tests.judge.book import NEVER, Attempt, Book, Calm, Copy, Entry, Fact, Place, Snapshot
from tests.judge.events import (
    Append,
    Confirm,
    DeadLetter,
    Disaster,
    Event,
    Fault,
    Gap,
    Heal,
    HistoryError,
    Info,
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


class _Reader:
    """The one pass over the events; keeps what is open (calls without answer, snapshots without end)."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.line = 0
        self.time = float("-inf")
        self.open: dict[str, Snapshot] = {}
        self.names: set[str] = set()
        self.calm: Calm | None = None
        self.take: dict[type[Event], Callable[[Any], None]] = {
            Topology: self.topology,
            Append: self.append,
            Ok: self.answer,
            Refused: self.answer,
            Info: self.answer,
            SnapshotBegin: self.begin,
            Read: self.read,
            Gap: self.gap,
            DeadLetter: self.dead_letter,
            SnapshotEnd: self.end,
            Confirm: lambda event: self.book.confirms.append((self.line, event)),
            Fault: self.fault,
            Heal: lambda event: None,
            Quiet: self.quiet,
            Disaster: self.disaster,
            Retention: self.retention,
            Poison: self.poison,
        }

    def run(self, events: Iterable[Event]) -> None:
        """Take every event in order."""
        take = self.take
        for event in events:
            self.line += 1
            if event.t < self.time:
                raise self.wrong(f"t goes back from {self.time} to {event.t}")
            self.time = event.t
            if self.line == 1 and type(event) is not Topology:
                raise self.wrong("a history starts with its topology")
            take[type(event)](event)
        self.book.events = self.line
        if not self.line:
            raise HistoryError("the history is empty")

    def wrong(self, text: str) -> HistoryError:
        """The error for the event at hand."""
        return HistoryError(f"event {self.line}: {text}")

    def fact(self, origin: str, producer: str, id_: str) -> Fact:
        """The fact of this name, made at its first mention."""
        key = (origin, producer, id_)
        fact = self.book.facts.get(key)
        if fact is None:
            fact = self.book.facts[key] = Fact(origin, producer, id_)
        return fact

    def topology(self, event: Topology) -> None:
        if self.line != 1:
            raise self.wrong("a second topology")
        for link in event.links:
            if link.origin == link.target or (link.origin, link.target) in self.book.links:
                raise self.wrong(f"link {link.origin} to {link.target} is double or leads nowhere")
            self.book.links[link.origin, link.target] = link.categories

    def append(self, event: Append) -> None:
        if event.op in self.book.calls:
            raise self.wrong(f"op {event.op} is used twice")
        fact = self.fact(event.zone, event.producer, event.id)
        attempt = self.book.calls[event.op] = Attempt(self.line, event, fact)
        if fact.attempts and fact.attempts[0].event.content != event.content:
            fact.contested = True
        fact.attempts.append(attempt)
        self.book.categories[event.zone].add(event.category)
        self.disturbed()

    def answer(self, event: Ok | Refused | Info) -> None:
        attempt = self.book.calls.get(event.op)
        if attempt is None:
            raise self.wrong(f"an answer to the unknown op {event.op}")
        if attempt.answer is not None:
            raise self.wrong(f"a second answer to op {event.op}")
        attempt.answer = event
        attempt.settled = self.line

    def begin(self, event: SnapshotBegin) -> None:
        if event.snapshot in self.names:
            raise self.wrong(f"snapshot {event.snapshot} is used twice")
        self.names.add(event.snapshot)
        snapshot = self.open[event.snapshot] = Snapshot(event.zone, event, self.line)
        self.book.snapshots.append(snapshot)

    def opened(self, name: str, origin: str, category: str) -> Snapshot:
        """The open snapshot of this name, which must cover the log."""
        snapshot = self.open.get(name)
        if snapshot is None:
            raise self.wrong(f"snapshot {name} is not open")
        if not snapshot.covers(origin, category):
            raise self.wrong(f"snapshot {name} does not read {category} of {origin}")
        return snapshot

    def read(self, event: Read) -> None:
        snapshot = self.opened(event.snapshot, event.origin, event.category)
        entry = Entry(self.line, event, self.fact(event.origin, event.producer, event.id))
        log = (event.origin, event.category)
        entries = snapshot.logs.get(log)
        if entries is None:
            entries = snapshot.logs[log] = []
            self.book.categories[event.origin].add(event.category)
        entries.append(entry)

    def gap(self, event: Gap) -> None:
        snapshot = self.opened(event.snapshot, event.origin, event.category)
        if event.last is not None and event.last < event.first:
            raise self.wrong(f"the gap ends at {event.last}, before it starts at {event.first}")
        copy = Copy(snapshot.zone, event.origin, event.category)
        self.book.gaps[copy].setdefault((event.epoch, event.first, event.last), self.line)

    def dead_letter(self, event: DeadLetter) -> None:
        snapshot = self.opened(event.snapshot, event.origin, event.category)
        snapshot.dead.append((self.line, event))
        copy = Copy(snapshot.zone, event.origin, event.category)
        self.book.dead[copy].setdefault((event.epoch, event.offset), self.line)

    def end(self, event: SnapshotEnd) -> None:
        snapshot = self.open.pop(event.snapshot, None)
        if snapshot is None:
            raise self.wrong(f"snapshot {event.snapshot} is not open")
        snapshot.end = self.line

    def fault(self, event: Fault) -> None:
        self.book.faults.append((self.line, event))
        self.disturbed()

    def quiet(self, event: Quiet) -> None:
        self.calm = Calm(self.line, event)
        self.book.calms.append(self.calm)

    def disaster(self, event: Disaster) -> None:
        self.book.disasters.append((self.line, event))
        self.disturbed()

    def retention(self, event: Retention) -> None:
        key = (event.zone, event.category)
        self.book.retentions[key] = self.book.retentions.get(key, False) or event.drop_unconfirmed

    def poison(self, event: Poison) -> None:
        place = Place(event.origin, event.category, event.epoch, event.offset)
        known = self.book.poisons.setdefault(place, [])
        if any(other.zone == event.zone for _, other in known):
            raise self.wrong(f"poison declared twice for {event.zone}")
        known.append((self.line, event))
        self.book.categories[event.origin].add(event.category)

    def disturbed(self) -> None:
        """Something happened: every quiet period so far is over."""
        if self.calm is not None:
            for calm in self.book.calms:
                if calm.end == NEVER:
                    calm.end = self.line
            self.calm = None


def read_events(events: Iterable[Event]) -> Book:
    """Index a history.

    :raises HistoryError: when the history contradicts itself.
    """
    book = Book()
    _Reader(book).run(events)
    return book
