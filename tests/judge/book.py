# SPDX-License-Identifier: Apache-2.0
"""The index of a history: calls, facts, snapshots, receipts and declarations, gathered in one pass.

Nothing is judged here. A line number is the 1-based number of an event.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.judge.events import (
    Append,
    Confirm,
    DeadLetter,
    Disaster,
    Fault,
    Info,
    Ok,
    Poison,
    Quiet,
    Read,
    Refused,
    SnapshotBegin,
)

NEVER = 1 << 62
"""A line number after every event."""

ALL = "all"
"""The addressee that stands for every zone."""


class Copy(NamedTuple):
    """A zone's copy of an origin's log of one category: its store buffer when ``zone`` is the origin."""

    zone: str
    origin: str
    category: str


class Place(NamedTuple):
    """One entry of an origin's log."""

    origin: str
    category: str
    epoch: str
    offset: int


@dataclass(slots=True, eq=False)
class Attempt:
    """One call of a producer. ``settled`` is the line of its answer."""

    line: int
    event: Append
    fact: Fact
    answer: Ok | Refused | Info | None = None
    settled: int = NEVER

    @property
    def refused(self) -> bool:
        """True when this call certainly stored nothing."""
        return type(self.answer) is Refused


@dataclass(slots=True, eq=False)
class Stand:
    """Where a fact stands (or stood) in its origin's log, and to whom it is addressed.

    ``invoked`` is the line of the call that sent it, ``line`` the answer or read that told its place. ``generation``
    counts the disasters of the origin's log before it was stored; ``loose`` means a disaster fell into the call.
    """

    category: str
    epoch: str | None
    offset: int
    to: str
    invoked: int
    line: int
    generation: int
    loose: bool


@dataclass(slots=True, eq=False)
class Fact:
    """All that is known about one (zone, producer, id)."""

    origin: str
    producer: str
    id: str
    attempts: list[Attempt] = field(default_factory=list)
    stands: list[Stand] = field(default_factory=list)
    contested: bool = False

    def __str__(self) -> str:
        return f"{self.origin}/{self.producer}/{self.id}"


@dataclass(slots=True, eq=False)
class Entry:
    """One fact as it was read. ``poison``: its place was declared poisoned."""

    line: int
    read: Read
    fact: Fact
    poison: bool = False


@dataclass(slots=True, eq=False)
class Snapshot:
    """One reading of a zone's logs; ``end`` stays NEVER when the reader did not finish."""

    zone: str
    event: SnapshotBegin
    begin: int
    end: int = NEVER
    logs: dict[tuple[str, str], list[Entry]] = field(default_factory=dict)
    dead: list[tuple[int, DeadLetter]] = field(default_factory=list)

    def covers(self, origin: str, category: str) -> bool:
        """True when the reader set out to read this log."""
        return self.event.origin in (None, origin) and self.event.category in (None, category)


@dataclass(slots=True, eq=False)
class Calm:
    """A quiet period: from its event at ``line`` to ``end``, the next call, fault or disaster."""

    line: int
    event: Quiet
    end: int = NEVER


class Book:
    """Everything a history says, indexed. Built by ``reader.read_events``; not changed by the checks."""

    def __init__(self) -> None:
        self.events = 0
        self.links: dict[tuple[str, str], tuple[str, ...]] = {}
        self.facts: dict[tuple[str, str, str], Fact] = {}
        self.calls: dict[str, Attempt] = {}
        self.snapshots: list[Snapshot] = []
        self.gaps: dict[Copy, dict[tuple[str, int, int | None], int]] = defaultdict(dict)
        self.dead: dict[Copy, dict[tuple[str, int], int]] = defaultdict(dict)
        self.confirms: list[tuple[int, Confirm]] = []
        self.faults: list[tuple[int, Fault]] = []
        self.disasters: list[tuple[int, Disaster]] = []
        self.retentions: dict[tuple[str, str], bool] = {}
        self.poisons: dict[Place, list[tuple[int, Poison]]] = {}
        self.calms: list[Calm] = []
        self.categories: dict[str, set[str]] = defaultdict(set)
        self._hits: dict[Copy, list[int]] = {}

    @property
    def zones(self) -> list[str]:
        """Every zone of the topology, sorted."""
        return sorted({zone for link in self.links for zone in link})

    def hits(self, copy: Copy) -> list[int]:
        """The lines of the disasters that hit this copy, rising."""
        found = self._hits.get(copy)
        if found is None:
            found = self._hits[copy] = [
                line
                for line, event in self.disasters
                if event.zone == copy.zone
                and event.origin in (None, copy.origin)
                and event.category in (None, copy.category)
            ]
        return found

    def generation(self, copy: Copy, line: int) -> int:
        """How many disasters had hit this copy before ``line``."""
        return bisect_left(self.hits(copy), line) if self.disasters else 0

    def hit_since(self, copy: Copy, line: int) -> bool:
        """True when a disaster hit this copy after ``line``."""
        return bool(self.disasters) and self.generation(copy, NEVER) > self.generation(copy, line)

    def addressed(self, origin: str, category: str, to: str, zone: str) -> bool:
        """True when a fact of this origin, category and addressee belongs into this other zone."""
        if to not in (ALL, zone):
            return False
        only = self.links.get((origin, zone))
        return only is not None and (not only or category in only)

    def targets(self, origin: str, category: str, to: str) -> list[str]:
        """The zones such a fact must reach."""
        return [zone for source, zone in self.links if source == origin and self.addressed(origin, category, to, zone)]
