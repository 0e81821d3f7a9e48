# SPDX-License-Identifier: Apache-2.0
"""The judge: one table of checks, run over one history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from tests.judge.case import Case
from tests.judge.checks_link import confirmed_is_durable, converged, poison_diverted, receipts_rise
from tests.judge.checks_log import Finding, no_duplicate, no_loss, order_kept
from tests.judge.checks_sent import bytes_as_sent, conflicts_refused, no_phantom
from tests.judge.events import Event, Ok, Refused
from tests.judge.excuses import Excuses
from tests.judge.verdict import Counts, Invariant, Verdict, Violation

CHECKS: dict[Invariant, Callable[[Case, Excuses], Iterator[Finding]]] = {
    Invariant.I1: no_loss,
    Invariant.I2: no_duplicate,
    Invariant.I3: order_kept,
    Invariant.I4: no_phantom,
    Invariant.I5: confirmed_is_durable,
    Invariant.I6: receipts_rise,
    Invariant.I7: conflicts_refused,
    Invariant.I8: poison_diverted,
    Invariant.I9: bytes_as_sent,
    Invariant.I10: converged,
}


def check(events: Iterable[Event], *, without: Collection[Invariant] = (), keep: int = 100) -> Verdict:
    """Judge a history.

    :param events: the history in order; the first event is its topology.
    :param without: invariants that are not checked (to prove that each check is needed).
    :param keep: how many violations of each invariant are kept; all are counted.
    :raises HistoryError: when the history contradicts itself, so that nothing can be judged.
    """
    case = Case(events)
    excuses = Excuses(case)
    violations: list[Violation] = []
    totals: dict[Invariant, int] = {}
    for invariant, find in CHECKS.items():
        if invariant in without:
            continue
        number = 0
        for number, (text, lines) in enumerate(find(case, excuses), 1):
            if number <= keep:
                violations.append(Violation(invariant, text, tuple(sorted(set(lines)))))
        if number:
            totals[invariant] = number
    return Verdict(tuple(violations), totals, _count(case, totals), tuple(_unproven(case)))


def _count(case: Case, totals: dict[Invariant, int]) -> Counts:
    """The plain numbers of a history."""
    book = case.book
    refused: Counter[str] = Counter()
    acked = duplicates = info = 0
    for attempt in book.calls.values():
        answer = attempt.answer
        if type(answer) is Ok:
            acked += 1
            duplicates += answer.duplicate
        elif type(answer) is Refused:
            refused[answer.reason] += 1
        else:
            info += 1
    read: Counter[str] = Counter()
    for copy, views in case.views.items():
        read[copy.zone] += len(views[-1].facts) if views else 0
    return Counts(
        events=book.events,
        appended=len(book.calls),
        acked=acked,
        duplicates=duplicates,
        refused=dict(sorted(refused.items())),
        info=info,
        facts=len(book.facts),
        read=dict(sorted(read.items())),
        lost=totals.get(Invariant.I1, 0),
        doubled=totals.get(Invariant.I2, 0),
        gaps=sum(len(gaps) for gaps in book.gaps.values()),
        dead_letters=sum(len(letters) for letters in book.dead.values()),
        confirms=len(book.confirms),
        snapshots=len(book.snapshots),
        faults=len(book.faults),
        disasters=len(book.disasters),
    )


def _unproven(case: Case) -> Iterator[str]:
    """What the history does not show, so that a pass says nothing about it."""
    if not case.book.facts:
        yield "no fact was sent"
    if case.calm is None:
        yield "the history does not end quiet: what had not arrived is not judged"
        return
    for copy in case.views:
        if copy not in case.final:
            yield f"{copy.zone}'s log of {copy.origin} {copy.category} was not read after the last quiet event"
