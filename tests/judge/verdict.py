# SPDX-License-Identifier: Apache-2.0
"""What the judge says: violations with the events that prove them, and plain counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Invariant(StrEnum):
    """The invariants of the fact plane, each judged from the history alone."""

    I1 = "I1"
    I2 = "I2"
    I3 = "I3"
    I4 = "I4"
    I5 = "I5"
    I6 = "I6"
    I7 = "I7"
    I8 = "I8"
    I9 = "I9"
    I10 = "I10"

    @property
    def meaning(self) -> str:
        """The invariant in a few words."""
        return _MEANINGS[self]


_MEANINGS: dict[Invariant, str] = {
    Invariant.I1: "no loss",
    Invariant.I2: "no duplicate",
    Invariant.I3: "order kept, no silent hole",
    Invariant.I4: "no phantom",
    Invariant.I5: "confirmed is durable",
    Invariant.I6: "receipts never move back",
    Invariant.I7: "conflicts refused, first content kept",
    Invariant.I8: "poison: exactly one dead letter",
    Invariant.I9: "bytes as sent",
    Invariant.I10: "converged after the last fault",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant; ``lines`` are the 1-based numbers of the events that prove it."""

    invariant: Invariant
    text: str
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a history holds.

    ``acked`` counts calls answered ok (``duplicates`` of them as duplicate), ``info`` calls without a known outcome,
    ``facts`` distinct (zone, producer, id), ``read`` entries in the last complete snapshots of each zone. ``lost`` and
    ``doubled`` are the findings of I1 and I2; ``gaps`` and ``dead_letters`` count distinct records.
    """

    events: int
    appended: int
    acked: int
    duplicates: int
    refused: Mapping[str, int]
    info: int
    facts: int
    read: Mapping[str, int]
    lost: int
    doubled: int
    gaps: int
    dead_letters: int
    confirms: int
    snapshots: int
    faults: int
    disasters: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one history.

    ``violations`` keeps the first ones of each invariant, ``totals`` counts all. ``unproven`` says what the history
    could not show (for example a zone that nobody read at the end): a passing verdict without it is complete.
    """

    violations: tuple[Violation, ...]
    totals: Mapping[Invariant, int]
    counts: Counts
    unproven: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when no invariant was seen broken."""
        return not self.violations

    @property
    def flagged(self) -> frozenset[Invariant]:
        """The invariants that were seen broken."""
        return frozenset(violation.invariant for violation in self.violations)
