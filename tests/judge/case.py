# SPDX-License-Identifier: Apache-2.0
"""The case before the judge: the index of a history plus what every check needs to know of it.

It settles where each fact stands in its origin's log (told by answers, by reads there, at last by reads elsewhere) and
cuts the complete snapshots into views of one log each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.judge.book import NEVER, Attempt, Calm, Copy, Entry, Fact, Place, Snapshot, Stand
from tests.judge.events import Event, Ok
from tests.judge.reader import read_events


@dataclass(slots=True, eq=False)
class View:
    """What one complete snapshot shows of one log. ``generation`` counts the disasters that had hit this copy."""

    snapshot: Snapshot
    copy: Copy
    generation: int
    facts: dict[Fact, Entry]


Standing = tuple[int, Fact, Stand]
"""An entry of an origin's log: offset, fact, where it stands."""


class Case:
    """A history made ready for the checks. They read it and change nothing."""

    def __init__(self, events: Iterable[Event]) -> None:
        book = self.book = read_events(events)
        self.misplaced: list[tuple[Fact, Stand, Entry]] = []
        """Facts that were read in their origin's log elsewhere than where they were acknowledged or read before."""
        if book.poisons:
            self._mark_poison()
        self._settle_answers()
        self._settle_reads()
        self.sources = self._sources()
        self.views = self._views()
        self.calm: Calm | None = book.calms[-1] if book.calms and book.calms[-1].end == NEVER else None
        """The quiet period the history ends with, if it does."""
        self.final = self._final()
        self.present: dict[str, set[Fact]] = defaultdict(set)
        """Per zone: the facts its final views show, in whichever log."""
        for copy, view in self.final.items():
            self.present[copy.zone].update(view.facts)

    def entries(self) -> Iterator[tuple[Snapshot, tuple[str, str], list[Entry]]]:
        """Every log of every snapshot, complete or not: (snapshot, (origin, category), entries)."""
        for snapshot in self.book.snapshots:
            for log, entries in snapshot.logs.items():
                yield snapshot, log, entries

    def targets(self) -> Iterator[Copy]:
        """Every copy of a log outside of its origin that the topology asks for."""
        for (origin, target), only in self.book.links.items():
            for category in sorted(self.book.categories.get(origin, ())):
                if not only or category in only:
                    yield Copy(target, origin, category)

    def _mark_poison(self) -> None:
        poisons = self.book.poisons
        for _, (origin, category), entries in self.entries():
            for entry in entries:
                entry.poison = Place(origin, category, entry.read.epoch, entry.read.offset) in poisons

    def _settle_answers(self) -> None:
        """A fact stands where the call that stored it was told; a duplicate's answer counts when there is no other."""
        book = self.book
        for fact in book.facts.values():
            stored = [a for a in fact.attempts if type(a.answer) is Ok]
            if len(stored) > 1:
                stored.sort(key=_duplicate)
            for attempt in stored:
                answer, event = attempt.answer, attempt.event
                assert type(answer) is Ok
                store = Copy(event.zone, event.zone, event.category)
                generation = book.generation(store, attempt.line)
                loose = book.generation(store, attempt.settled) != generation
                if any(s.generation == generation and (loose or not s.loose) for s in fact.stands):
                    continue
                if answer.duplicate and any(a.event.category != event.category for a in fact.attempts):
                    continue  # which category holds the original cannot be told from this answer
                fact.stands.append(
                    _stand(attempt, event.category, answer.epoch, answer.offset, attempt.settled, generation, loose)
                )

    def _settle_reads(self) -> None:
        """Reads in the origin zone complete or add places; reads elsewhere only complete what is still unknown."""
        elsewhere: list[list[Entry]] = []
        for snapshot, (origin, category), entries in self.entries():
            if snapshot.zone != origin:
                elsewhere.append(entries)
                continue
            store = Copy(origin, origin, category)
            generation = self.book.generation(store, snapshot.begin)
            if generation == self.book.generation(store, snapshot.end):
                for entry in entries:
                    if entry.fact.attempts and not entry.poison:
                        self._read_at_origin(entry, generation)
        for entries in elsewhere:
            for entry in entries:
                if entry.fact.attempts and not entry.poison:
                    self._read_elsewhere(entry)

    def _read_at_origin(self, entry: Entry, generation: int) -> None:
        fact, read = entry.fact, entry.read
        known = False
        for stand in fact.stands:
            here = stand.generation == generation and not stand.loose
            if stand.offset == read.offset and stand.category == read.category:
                if stand.epoch == read.epoch or (here and stand.epoch is None):
                    stand.epoch = read.epoch
                    known = True
            elif here:
                self.misplaced.append((fact, stand, entry))
                return
        if not known:
            sent = _sender(fact, entry)
            fact.stands.append(_stand(sent, read.category, read.epoch, read.offset, entry.line, generation, False))

    def _read_elsewhere(self, entry: Entry) -> None:
        fact, read = entry.fact, entry.read
        for stand in fact.stands:
            if stand.epoch is None and stand.offset == read.offset and stand.category == read.category:
                stand.epoch = read.epoch
                return
        if not fact.stands:
            sent = _sender(fact, entry)
            store = Copy(fact.origin, fact.origin, read.category)
            generation = self.book.generation(store, sent.line)
            fact.stands.append(_stand(sent, read.category, read.epoch, read.offset, entry.line, generation, True))

    def _sources(self) -> dict[tuple[str, str], dict[str | None, list[Standing]]]:
        """Per origin and category, per epoch: what stands in the origin's log, by rising offset."""
        found: dict[tuple[str, str], dict[str | None, list[Standing]]] = {}
        for fact in self.book.facts.values():
            for stand in fact.stands:
                epochs = found.setdefault((fact.origin, stand.category), {})
                epochs.setdefault(stand.epoch, []).append((stand.offset, fact, stand))
        for epochs in found.values():
            for source in epochs.values():
                source.sort(key=_offset)
        return found

    def _views(self) -> dict[Copy, list[View]]:
        """Per copy: its complete snapshots in the order they began. A snapshot that spans a disaster is left out."""
        found: dict[Copy, list[View]] = {}
        by_zone: dict[str, list[Snapshot]] = defaultdict(list)
        for snapshot in self.book.snapshots:
            if snapshot.end != NEVER:
                by_zone[snapshot.zone].append(snapshot)
        stores = [Copy(zone, zone, c) for zone, names in self.book.categories.items() for c in sorted(names)]
        for copy in [*stores, *self.targets()]:
            log = (copy.origin, copy.category)
            views = found[copy] = []
            for snapshot in by_zone.get(copy.zone, ()):
                generation = self.book.generation(copy, snapshot.begin)
                if snapshot.covers(*log) and generation == self.book.generation(copy, snapshot.end):
                    facts = {entry.fact: entry for entry in snapshot.logs.get(log, ())}
                    views.append(View(snapshot, copy, generation, facts))
        return found

    def _final(self) -> dict[Copy, View]:
        """Per copy: its last view within the quiet period the history ends with."""
        if self.calm is None:
            return {}
        return {
            copy: views[-1] for copy, views in self.views.items() if views and views[-1].snapshot.begin > self.calm.line
        }


def _stand(
    sent: Attempt, category: str, epoch: str | None, offset: int, line: int, generation: int, loose: bool
) -> Stand:
    """A place of what ``sent`` sent; ``line`` told it."""
    return Stand(category, epoch, offset, sent.event.to, sent.line, line, generation, loose)


def _duplicate(attempt: Attempt) -> bool:
    """Answers that are not duplicates sort first."""
    return type(attempt.answer) is Ok and attempt.answer.duplicate


def _offset(source: Standing) -> int:
    return source[0]


def _sender(fact: Fact, entry: Entry) -> Attempt:
    """The call that sent what was read: the first with that content and category, else the first."""
    read = entry.read
    for attempt in fact.attempts:
        if attempt.event.content == read.content and attempt.event.category == read.category and not attempt.refused:
            return attempt
    return fact.attempts[0]
