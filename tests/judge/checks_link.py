# SPDX-License-Identifier: Apache-2.0
"""Checks of the crossing: I5 confirmed is durable, I6 receipts, I8 poison, I10 convergence."""

from __future__ import annotations

from collections.abc import Iterator

from tests.judge.book import Calm, Copy, Fact, Place, Snapshot, Stand
from tests.judge.case import Case, View
from tests.judge.checks_log import Finding
from tests.judge.checks_sent import CONFLICT
from tests.judge.events import Confirm, DeadLetter
from tests.judge.excuses import Excuses


def confirmed_is_durable(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I5. What a receipt confirmed is readable at the receiver ever after, in a snapshot begun after the receipt."""
    receipts: dict[Copy, list[tuple[int, Confirm]]] = {}
    for line, confirm in case.book.confirms:
        receipts.setdefault(Copy(confirm.receiver, confirm.origin, confirm.category), []).append((line, confirm))
    for copy, confirms in receipts.items():
        yield from _confirmed(case, excuses, copy, confirms)


def _confirmed(case: Case, excuses: Excuses, copy: Copy, confirms: list[tuple[int, Confirm]]) -> Iterator[Finding]:
    """The receipts of one copy against its views, each entry of the origin's log once per generation."""
    book = case.book
    store = Copy(copy.origin, copy.origin, copy.category)
    source = case.sources.get((copy.origin, copy.category), {})
    upto: dict[str, tuple[int, int]] = {}
    done: dict[str, int] = {}
    index = generation = 0
    for view in case.views.get(copy, ()):
        if view.generation != generation:
            generation = view.generation
            upto.clear()
            done.clear()
        while index < len(confirms) and confirms[index][0] < view.snapshot.begin:
            line, confirm = confirms[index]
            index += 1
            known = upto.get(confirm.epoch, (-1, 0))
            if book.generation(copy, line) == generation and confirm.offset > known[0]:
                upto[confirm.epoch] = (confirm.offset, line)
        for epoch, (limit, line) in upto.items():
            standing = source.get(epoch, [])
            position = done.get(epoch, 0)
            while position < len(standing) and standing[position][0] <= limit:
                offset, fact, stand = standing[position]
                position += 1
                if fact in view.facts or not book.addressed(copy.origin, copy.category, stand.to, copy.zone):
                    continue
                if excuses.explicit(copy, epoch, offset) or book.hit_since(store, stand.invoked):
                    continue
                if stand.generation > book.generation(store, line):
                    continue  # stored after the origin's log was set back: the receipt spoke of what stood there before
                text = (
                    f"{copy.zone} confirmed {copy.origin} {copy.category} up to {limit}, but lacks {fact} at {offset}"
                )
                yield text + _fault(case, copy.zone, line, view), (line, view.snapshot.begin)
            done[epoch] = position


def _fault(case: Case, zone: str, line: int, view: View) -> str:
    """The last fault between a receipt and a reading, in words."""
    for number, fault in reversed(case.book.faults):
        if line < number < view.snapshot.begin and fault.zone in (None, zone):
            return f" (after fault {fault.name})"
    return ""


def receipts_rise(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I6. Per observer, the confirmed offset of a log never moves back, but after a disaster of the receiver."""
    last: dict[tuple[str, Copy, str], tuple[int, int, int]] = {}
    for line, confirm in case.book.confirms:
        copy = Copy(confirm.receiver, confirm.origin, confirm.category)
        key = (confirm.observer, copy, confirm.epoch)
        generation = case.book.generation(copy, line)
        offset, seen, before = last.get(key, (0, generation, 0))
        if seen == generation and confirm.offset < offset:
            where = f"{copy.zone}'s receipt for {copy.origin} {copy.category}"
            yield f"{where} moved back from {offset} to {confirm.offset}", (before, line)
        last[key] = (confirm.offset, generation, line)


def poison_diverted(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I8. A poisoned entry becomes exactly one dead letter and is not delivered; nothing else becomes one."""
    for snapshot in case.book.snapshots:
        yield from _dead_letters(case, snapshot)
    for snapshot, (origin, category), entries in case.entries():
        for entry in entries:
            if entry.poison and snapshot.zone != origin:
                place = Place(origin, category, entry.read.epoch, entry.read.offset)
                for line, poison in case.book.poisons[place]:
                    if poison.zone == snapshot.zone:
                        yield f"the poison at {_place(place)} was delivered in {snapshot.zone}", (line, entry.line)
    for place, declared in case.book.poisons.items():
        for line, poison in declared:
            yield from _diverted(case, excuses, place, poison.zone, line)


def _dead_letters(case: Case, snapshot: Snapshot) -> Iterator[Finding]:
    """Each dead letter of a snapshot was asked for, and stands there once."""
    seen: dict[Place, int] = {}
    for line, letter in snapshot.dead:
        place = Place(letter.origin, letter.category, letter.epoch, letter.offset)
        if place in seen:
            yield f"{_place(place)} stands twice among the dead letters of {snapshot.zone}", (seen[place], line)
        seen[place] = line
        poisons = case.book.poisons.get(place, ())
        if not any(poison.zone == snapshot.zone for _, poison in poisons) and not _contested(case, letter):
            text = f"{_place(place)} is a dead letter of {snapshot.zone} ({letter.reason})"
            yield f"{text}, but was not poisoned", (line,)


def _contested(case: Case, letter: DeadLetter) -> bool:
    """True for a conflict that the origin could not see: its log was hit by a disaster and took the id again."""
    if letter.reason != CONFLICT or not case.book.hits(Copy(letter.origin, letter.origin, letter.category)):
        return False
    for offset, fact, _ in case.sources.get((letter.origin, letter.category), {}).get(letter.epoch, ()):
        if offset == letter.offset and fact.contested:
            return True
    return False


def _diverted(case: Case, excuses: Excuses, place: Place, zone: str, declared: int) -> Iterator[Finding]:
    """The last view of the zone keeps the dead letter once it has gone beyond the place, and is not stuck before it."""
    copy = Copy(zone, place.origin, place.category)
    views = [view for view in case.views.get(copy, ()) if view.snapshot.begin > declared]
    if not views:
        return
    view = views[-1]
    beyond = [e for e in view.facts.values() if e.read.epoch == place.epoch and e.read.offset > place.offset]
    final = case.final.get(copy) is view
    kept = any((d.origin, d.category, d.epoch, d.offset) == place for _, d in view.snapshot.dead) or excuses.gap(
        copy, place.epoch, place.offset
    )
    if not kept and (final or beyond):
        yield f"the poison at {_place(place)} left no dead letter in {zone}", (declared, view.snapshot.begin)
    if final and not beyond:
        behind = [item for item in _behind(case, place, copy) if not excuses.explicit(copy, place.epoch, item[0])]
        if behind and not any(fact in case.present[zone] for _, fact, _ in behind):
            text = f"{len(behind)} facts behind the poison at {_place(place)} did not reach {zone}"
            yield text, (declared, behind[0][2].line, view.snapshot.begin)


def _behind(case: Case, place: Place, copy: Copy) -> list[tuple[int, Fact, Stand]]:
    """What stands behind a place in its origin's log and is addressed to the copy's zone."""
    source = case.sources.get((place.origin, place.category), {}).get(place.epoch, ())
    return [
        item
        for item in source
        if item[0] > place.offset and case.book.addressed(place.origin, place.category, item[2].to, copy.zone)
    ]


def _place(place: Place) -> str:
    """A place of a log in words."""
    return f"{place.origin} {place.category} {place.offset} (epoch {place.epoch})"


def converged(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I10. After every quiet event, within its deadline, a snapshot of each zone shows all that is addressed to it."""
    for calm in case.book.calms:
        for copy in case.targets():
            yield from _shown(case, excuses, calm, copy)


def _shown(case: Case, excuses: Excuses, calm: Calm, copy: Copy) -> Iterator[Finding]:
    """One copy after one quiet event."""
    wanted = [
        (fact, stand)
        for source in case.sources.get((copy.origin, copy.category), {}).values()
        for _, fact, stand in source
        if stand.invoked < calm.line and case.book.addressed(copy.origin, copy.category, stand.to, copy.zone)
    ]
    if not wanted:
        return
    limit = calm.event.t + calm.event.deadline_s
    views = [
        view
        for view in case.views.get(copy, ())
        if calm.line < view.snapshot.begin < calm.end and view.snapshot.event.t <= limit
    ]
    log = f"{copy.zone}'s log of {copy.origin} {copy.category}"
    if not views:
        yield f"no complete snapshot of {log} was begun within {calm.event.deadline_s} s of quiet", (calm.line,)
        return
    view = views[-1]
    missing = [
        (fact, stand)
        for fact, stand in wanted
        if fact not in view.facts and not excuses.explicit(copy, stand.epoch, stand.offset)
    ]
    if missing:
        fact, stand = missing[0]
        text = f"{log} lacked {len(missing)} facts within {calm.event.deadline_s} s of quiet"
        text = f"{text}, first {fact} at {stand.offset}"
        yield text, (calm.line, view.snapshot.begin, stand.line)
