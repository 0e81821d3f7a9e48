# SPDX-License-Identifier: Apache-2.0
"""Checks of the logs themselves: I1 no loss, I2 no duplicate, I3 order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.judge.book import NEVER, Copy, Entry, Fact, Snapshot, Stand
from tests.judge.case import Case, View
from tests.judge.events import Ok
from tests.judge.excuses import Excuses

Finding = tuple[str, tuple[int, ...]]
"""What is wrong, and the lines of the events that prove it."""

_Must = tuple[int, str | None, int, int]
"""A fact that must stay readable: line that told of it, epoch, offset, line of the call that sent it."""


def no_loss(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I1. What was acknowledged or once read stays readable; in the end every fact is wherever it is addressed.

    Only an explicit gap record with a declared cause, or a dead letter, takes the place of a fact.
    """
    told: set[tuple[Fact, str]] = set()
    for copy, views in case.views.items():
        for fact, must, view in _vanished(case, copy, views):
            line, epoch, offset, invoked = must
            if copy.zone == copy.origin and excuses.dead(copy, epoch, offset):
                continue
            covered = excuses.gap(copy, epoch, offset)
            if not covered or not excuses.licensed(copy, fact, invoked):
                told.add((fact, copy.zone))
                why = "a gap record covers it, but no cause was declared" if covered else "no gap record covers it"
                text = f"{fact} was in {_name(copy)} (offset {offset}) and is gone: {why}"
                yield text, (line, view.snapshot.begin)
    if case.calm is not None:
        yield from _unaccounted(case, excuses, told)


def _vanished(case: Case, copy: Copy, views: list[View]) -> Iterator[tuple[Fact, _Must, View]]:
    """Facts a view should show and does not: known before it began, and no disaster since. Each is told once."""
    stands: list[tuple[int, Fact, Stand]] = []
    if copy.zone == copy.origin:
        epochs = case.sources.get((copy.origin, copy.category), {})
        stands = [(s.line, fact, s) for source in epochs.values() for _, fact, s in source if not s.loose]
        stands.sort(key=lambda item: item[0])
    must: dict[Fact, _Must] = {}
    generation = index = 0
    for view in views:
        begin = view.snapshot.begin
        if view.generation != generation:
            must.clear()
            generation = view.generation
        while index < len(stands) and stands[index][0] < begin:
            line, fact, stand = stands[index]
            index += 1
            if stand.generation == generation:
                must.setdefault(fact, (line, stand.epoch, stand.offset, stand.invoked))
        for fact in [f for f, (line, *_) in must.items() if f not in view.facts and line < begin]:
            yield fact, must.pop(fact), view
        for fact, entry in view.facts.items():
            if fact not in must and fact.attempts and not entry.poison:
                must[fact] = (entry.line, entry.read.epoch, entry.read.offset, fact.attempts[0].line)


def _unaccounted(case: Case, excuses: Excuses, told: set[tuple[Fact, str]]) -> Iterator[Finding]:
    """Facts that are, at the quiet end, not in their origin's log or not where they are addressed."""
    reach: dict[tuple[str, str, str], list[str]] = {}
    for fact in case.book.facts.values():
        for stand in fact.stands:
            origin, category = fact.origin, stand.category
            key = (origin, category, stand.to)
            zones = reach.get(key)
            if zones is None:
                zones = reach[key] = case.book.targets(*key)
            for zone in (origin, *zones):
                if fact in case.present[zone] or (fact, zone) in told:
                    continue
                copy = Copy(zone, origin, category)
                view = case.final.get(copy)
                if view is None:
                    continue
                if zone == origin and zones and case.book.hit_since(copy, stand.invoked):
                    continue  # lost by the disaster: every addressee must have it or a gap, which is asked there
                why = _account(excuses, copy, fact, stand)
                if why:
                    told.add((fact, zone))
                    text = f"{fact} (offset {stand.offset}) is missing in {_name(copy)} at the end: {why}"
                    yield text, (stand.line, view.snapshot.begin)


def _account(excuses: Excuses, copy: Copy, fact: Fact, stand: Stand) -> str:
    """Why a missing fact is not excused; empty when it is."""
    if excuses.dead(copy, stand.epoch, stand.offset):
        return ""
    if not excuses.gap(copy, stand.epoch, stand.offset):
        return "neither a gap record nor a dead letter"
    return "" if excuses.licensed(copy, fact, stand.invoked) else "a gap record covers it, but no cause was declared"


def no_duplicate(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I2. A zone holds a (zone, producer, id) once, over all categories and epochs, and never stores it again later."""
    places: dict[str, dict[Fact, tuple[str, int, int, int]]] = defaultdict(dict)
    for snapshot in case.book.snapshots:
        seen: dict[Fact, Entry] = {}
        known = places[snapshot.zone]
        for (origin, category), entries in snapshot.logs.items():
            generation = _steady(case, snapshot, Copy(snapshot.zone, origin, category))
            for entry in entries:
                fact, read = entry.fact, entry.read
                if entry.poison:
                    continue
                first = seen.get(fact)
                if first is not None:
                    text = f"{fact} stands twice in zone {snapshot.zone}: {_at(first)} and {_at(entry)}"
                    yield text, (first.line, entry.line)
                    continue
                seen[fact] = entry
                if generation is None:
                    continue
                before = known.get(fact)
                if before is None or before[2] != generation:
                    known[fact] = (read.stream, read.seq, generation, entry.line)
                elif before[1] != read.seq or before[0] != read.stream:
                    known[fact] = (read.stream, read.seq, generation, entry.line)
                    text = f"{fact} was stored again in zone {snapshot.zone}"
                    yield f"{text}: {before[0]} {before[1]}, later {_at(entry)}", (before[3], entry.line)
    yield from _stored_twice(case)


def _stored_twice(case: Case) -> Iterator[Finding]:
    """Two calls with the same content were both told that they stored the fact, at two places."""
    for fact in case.book.facts.values():
        if len(fact.attempts) < 2:
            continue
        first: dict[tuple[int, str], tuple[int, int]] = {}
        for attempt in fact.attempts:
            answer, event = attempt.answer, attempt.event
            if type(answer) is not Ok or answer.duplicate:
                continue
            store = Copy(event.zone, event.zone, event.category)
            generation = case.book.generation(store, attempt.line)
            if generation != case.book.generation(store, attempt.settled):
                continue
            offset, line = first.setdefault((generation, event.content), (answer.offset, attempt.settled))
            if offset != answer.offset:
                yield f"{fact} was stored twice, at offsets {offset} and {answer.offset}", (line, attempt.settled)


def order_kept(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I3. Every log rises, shows the origin's entries at the origin's offsets, and skips nothing silently."""
    for snapshot, _, entries in case.entries():
        yield from _rising(snapshot, entries)
    for fact, stand, entry in case.misplaced:
        told = f"{fact} was at offset {stand.offset} of {stand.category}"
        yield f"{told}, but its origin shows it at {_at(entry)}, offset {entry.read.offset}", (stand.line, entry.line)
    yield from _collisions(case)
    yield from _displaced(case)
    yield from _inserted(case)
    for copy in case.targets():
        yield from _holes(case, excuses, copy)


def _rising(snapshot: Snapshot, entries: list[Entry]) -> Iterator[Finding]:
    """Local sequences rise per stream, origin offsets rise per epoch."""
    sequences: dict[str, Entry] = {}
    offsets: dict[str, Entry] = {}
    for entry in entries:
        read = entry.read
        before = sequences.get(read.stream)
        if before is not None and before.read.seq >= read.seq:
            text = f"{snapshot.zone} {read.stream}: sequence {read.seq} after {before.read.seq}"
            yield text, (before.line, entry.line)
        sequences[read.stream] = entry
        before = offsets.get(read.epoch)
        if before is not None and before.read.offset >= read.offset:
            text = f"{snapshot.zone} {read.stream}: origin offset {read.offset} after {before.read.offset}"
            yield f"{text} of epoch {read.epoch}", (before.line, entry.line)
        offsets[read.epoch] = entry


def _collisions(case: Case) -> Iterator[Finding]:
    """Two facts at one place of an origin's log, with no disaster between them."""
    for (origin, category), epochs in case.sources.items():
        hits = case.book.hits(Copy(origin, origin, category))
        for epoch, source in epochs.items():
            for (offset, fact, stand), (other_offset, other, other_stand) in pairwise(source):
                if offset != other_offset or fact is other:
                    continue
                if hits and (stand.loose or other_stand.loose or stand.generation != other_stand.generation):
                    continue
                text = f"{fact} and {other} both stand at offset {offset} of {origin} {category} epoch {epoch}"
                yield text, (stand.line, other_stand.line)


def _displaced(case: Case) -> Iterator[Finding]:
    """A copy names another offset, or an epoch the origin never had, for a fact."""
    for snapshot, (origin, category), entries in case.entries():
        if snapshot.zone == origin:
            continue
        hits = case.book.hits(Copy(origin, origin, category))
        for entry in entries:
            read = entry.read
            wrong: Stand | None = None
            for stand in entry.fact.stands:
                if stand.category == category:
                    if stand.epoch == read.epoch and stand.offset == read.offset:
                        break
                    if stand.epoch in (None, read.epoch) or not hits:
                        wrong = stand
            else:
                if wrong is not None and not entry.poison:
                    there = f"offset {wrong.offset} of epoch {wrong.epoch}"
                    text = f"{entry.fact}: {snapshot.zone} {_at(entry)} is offset {read.offset} of epoch {read.epoch}"
                    yield f"{text}, its origin {there}", (wrong.line, entry.line)


def _inserted(case: Case) -> Iterator[Finding]:
    """An entry that is new in a later snapshot stands behind everything an earlier one showed of that stream."""
    for copy, views in case.views.items():
        heads: dict[str, int] = {}
        seen: set[Fact] = set()
        generation, ended = 0, 0
        for view in views:
            if view.generation != generation:
                heads.clear()
                seen.clear()
                generation = view.generation
            for fact, entry in view.facts.items():
                head = heads.get(entry.read.stream, -1)
                if view.snapshot.begin > ended and entry.read.seq <= head and fact not in seen:
                    text = f"{fact} appeared in {_name(copy)} at {_at(entry)}, below entry {head} read before"
                    yield text, (entry.line,)
            seen.update(view.facts)
            ended = max(ended, view.snapshot.end)
            for entry in view.facts.values():
                heads[entry.read.stream] = max(heads.get(entry.read.stream, -1), entry.read.seq)


def _holes(case: Case, excuses: Excuses, copy: Copy) -> Iterator[Finding]:
    """A copy that has gone beyond an offset has, or explains, everything addressed to it before that offset."""
    store = Copy(copy.origin, copy.origin, copy.category)
    views = case.views.get(copy, [])
    source = case.sources.get((copy.origin, copy.category), {})
    for index, view in enumerate(views):
        if index + 1 < len(views) and views[index + 1].generation == view.generation:
            continue  # the last view before a disaster, or of all, shows the holes of those before it
        frontier: dict[str, Entry] = {}
        for entry in view.facts.values():
            best = frontier.get(entry.read.epoch)
            if best is None or entry.read.offset > best.read.offset:
                frontier[entry.read.epoch] = entry
        for epoch, head in frontier.items():
            for offset, fact, stand in source.get(epoch, ()):
                if offset >= head.read.offset:
                    break
                if fact in view.facts or not case.book.addressed(copy.origin, copy.category, stand.to, copy.zone):
                    continue
                if excuses.explicit(copy, epoch, offset) or case.book.hit_since(store, stand.invoked):
                    continue
                text = f"{_name(copy)} shows offset {head.read.offset} but silently lacks {fact} at offset {offset}"
                yield text, (stand.line, head.line)


def _steady(case: Case, snapshot: Snapshot, copy: Copy) -> int | None:
    """The generation of the copy while it was read; None when a disaster fell into the reading."""
    generation = case.book.generation(copy, snapshot.begin)
    last = case.book.generation(copy, snapshot.end) if snapshot.end != NEVER else generation
    return generation if generation == last else None


def _name(copy: Copy) -> str:
    """A copy of a log in words."""
    return f"{copy.zone}'s log of {copy.origin} {copy.category}"


def _at(entry: Entry) -> str:
    """Where an entry was read."""
    return f"{entry.read.stream} {entry.read.seq}"
