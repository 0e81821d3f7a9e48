# SPDX-License-Identifier: Apache-2.0
"""Checks of what is read against what was sent: I4 no phantom, I7 conflict, I9 bytes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.judge.book import Attempt, Copy, Entry, Fact
from tests.judge.case import Case
from tests.judge.checks_log import Finding
from tests.judge.events import Ok, Refused
from tests.judge.excuses import Excuses

CONFLICT = "conflicting_duplicate"
"""The reason a second content under a known id must be refused with."""

PASSING_REASONS = frozenset(
    {
        "buffer_full",
        "broker_unavailable",
        "link_down",
        "not_ready",
        "peer_timeout",
        "producer_suspended",
    }
)
"""Refusals that come before the id is looked up; they say nothing about a conflict."""


def no_phantom(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I4. Nothing is read that was not sent before, into that category and to that zone, by a call not refused."""
    for snapshot, (origin, category), entries in case.entries():
        elsewhere = snapshot.zone != origin
        reach: dict[str, bool] = {}
        for entry in entries:
            if entry.poison:
                continue
            live = [a for a in _sent(entry) if not a.refused]
            if not live:
                yield from _unsent(entry, snapshot.zone)
                continue
            for attempt in live:
                to = attempt.event.to
                if to not in reach:
                    reach[to] = not elsewhere or case.book.addressed(origin, category, to, snapshot.zone)
                if reach[to] and attempt.event.category == category:
                    break
            else:
                text = f"{entry.fact} was read in zone {snapshot.zone} under {category}, but was not sent there"
                yield text, (live[0].line, entry.line)


def _sent(entry: Entry) -> list[Attempt]:
    """The calls that had sent, when it was read, what was read."""
    return [a for a in entry.fact.attempts if a.event.content == entry.read.content and a.line < entry.line]


def _unsent(entry: Entry, zone: str) -> Iterator[Finding]:
    """Why nothing that could have stored it had sent what was read. Other content than sent is left to I9 and I7."""
    attempts, sent = entry.fact.attempts, _sent(entry)
    if not attempts or attempts[0].line > entry.line:
        yield f"{entry.fact} was read in zone {zone}, but nobody had sent it", (entry.line,)
    elif sent and all(a.refused for a in attempts):
        yield (
            f"{entry.fact} was read in zone {zone}, but every call that sent it was refused",
            (sent[0].line, entry.line),
        )
    elif not sent:
        later = [a.line for a in attempts if a.event.content == entry.read.content]
        if later:
            yield f"{entry.fact} was read in zone {zone} with a content that was sent later", (entry.line, later[0])


def bytes_as_sent(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I9. The content of every fact that is read is one its producer sent under that id."""
    for snapshot, _, entries in case.entries():
        for entry in entries:
            attempts = entry.fact.attempts
            if not attempts or entry.poison or attempts[0].event.content == entry.read.content:
                continue
            if all(a.event.content != entry.read.content for a in attempts):
                text = f"{entry.fact} was read in zone {snapshot.zone} with other content than was sent"
                yield text, (attempts[0].line, entry.line)


def conflicts_refused(case: Case, excuses: Excuses) -> Iterator[Finding]:
    """I7. An id keeps its first content: another one is refused as a conflict, the same one gets the first offset."""
    for fact in case.book.facts.values():
        attempts = fact.attempts
        if len(attempts) > 1:
            yield from _answers(case, fact)
            yield from _refusals(case, fact)
        elif attempts and _conflict(attempts[0]):
            yield f"{fact} was refused as a conflict, but was sent only once", (attempts[0].line, attempts[0].settled)
    yield from _replaced(case)


def _conflict(attempt: Attempt) -> bool:
    """True for a call that was refused as a conflicting duplicate."""
    return type(attempt.answer) is Refused and attempt.answer.reason == CONFLICT


def _firsts(case: Case, fact: Fact) -> dict[int, Attempt]:
    """Per generation of the origin's log: the call that stored the fact, as far as answers tell."""
    firsts: dict[int, Attempt] = {}
    for attempt in fact.attempts:
        answer = attempt.answer
        if type(answer) is not Ok:
            continue
        generation = _generation(case, attempt)
        if generation is not None:
            known = firsts.get(generation)
            if known is None or (type(known.answer) is Ok and known.answer.duplicate and not answer.duplicate):
                firsts[generation] = attempt
    return firsts


def _generation(case: Case, attempt: Attempt) -> int | None:
    """The generation of the origin's log during the call; None when a disaster fell into it."""
    store = Copy(attempt.event.zone, attempt.event.zone, attempt.event.category)
    generation = case.book.generation(store, attempt.line)
    return generation if generation == case.book.generation(store, attempt.settled) else None


def _answers(case: Case, fact: Fact) -> Iterator[Finding]:
    """Every ok after the first: the same content, told as duplicate, at the first offset."""
    firsts = _firsts(case, fact)
    for attempt in fact.attempts:
        answer = attempt.answer
        generation = _generation(case, attempt) if type(answer) is Ok else None
        if type(answer) is not Ok or generation is None:
            continue
        first = firsts[generation]
        original = first.answer
        if first is attempt or type(original) is not Ok:
            continue
        lines = (first.settled, attempt.settled)
        same_epoch = original.epoch == answer.epoch or None in (original.epoch, answer.epoch)
        if attempt.event.content != first.event.content:
            yield f"{fact}: another content was accepted under a known id", lines
        elif answer.duplicate and (answer.offset != original.offset or not same_epoch):
            yield f"{fact}: a duplicate was answered with offset {answer.offset}, the fact has {original.offset}", lines
        elif not answer.duplicate and answer.offset == original.offset:
            yield f"{fact}: two calls were told that they stored offset {answer.offset}", lines


def _refusals(case: Case, fact: Fact) -> Iterator[Finding]:
    """A second content is refused as a conflict, and only a second content is."""
    live: dict[tuple[str, str, str], int] = {}
    for attempt in fact.attempts:
        if not attempt.refused:
            live.setdefault(_variant(attempt), attempt.line)
    firsts = _firsts(case, fact)
    for attempt in fact.attempts:
        if type(attempt.answer) is not Refused:
            continue
        reason, lines = attempt.answer.reason, (attempt.line, attempt.settled)
        if reason == CONFLICT:
            if not any(v != _variant(attempt) and line < attempt.settled for v, line in live.items()):
                yield f"{fact} was refused as a conflict, but no other content was sent under this id", lines
        elif reason not in PASSING_REASONS:
            generation = _generation(case, attempt)
            first = firsts.get(generation) if generation is not None else None
            if first and first.settled < attempt.line and first.event.content != attempt.event.content:
                yield f"{fact}: another content was refused as {reason}, not as {CONFLICT}", (first.settled, *lines)


def _variant(attempt: Attempt) -> tuple[str, str, str]:
    """What makes two calls under one id the same fact."""
    return attempt.event.content, attempt.event.category, attempt.event.to


def _replaced(case: Case) -> Iterator[Finding]:
    """Where several contents were sent under one id, what is read is the one that was accepted, everywhere."""
    shown: dict[Fact, Entry] = {}
    acked: dict[Fact, dict[str, int]] = {}
    for _, (origin, category), entries in case.entries():
        for entry in entries:
            fact, content = entry.fact, entry.read.content
            if not fact.contested or entry.poison or all(a.event.content != content for a in fact.attempts):
                continue
            if fact not in acked:
                acked[fact] = {a.event.content: a.settled for a in fact.attempts if type(a.answer) is Ok}
            accepted = acked[fact]
            if accepted:
                if content not in accepted:
                    line = next(iter(accepted.values()))
                    yield f"{fact}: the accepted content was replaced by another one that was sent", (line, entry.line)
                continue
            first = shown.setdefault(fact, entry)
            refused = all(a.refused for a in fact.attempts if a.event.content == content)
            if refused and any(not a.refused for a in fact.attempts):
                yield f"{fact}: a content that was refused is read", (entry.line,)
            elif first.read.content != content and not case.book.hits(Copy(origin, origin, category)):
                yield f"{fact} is read with two contents", (first.line, entry.line)
