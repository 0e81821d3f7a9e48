# SPDX-License-Identifier: Apache-2.0
"""The events of a history: what producers, readers and the test driver saw, one frozen dataclass per kind.

A history is a sequence of these events in the order they happened. ``README.md`` beside this file says what each one
means and when to record it. Nothing here is taken from the appliance's own counters or status.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class DisasterKind(StrEnum):
    """A declared damage that a zone's logs cannot survive on their own."""

    LOG_WIPED = "log_wiped"
    LOG_RESTORED = "log_restored"


@dataclass(frozen=True, slots=True)
class Link:
    """Facts of ``origin`` cross to ``target``; no ``categories`` means every category."""

    origin: str
    target: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Root of all events. ``t`` is in seconds on one monotonic (or simulated) clock and never goes back."""

    EV: ClassVar[str] = ""
    t: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology(Event):
    """The first event of every history: which zone's facts cross to which zone."""

    EV: ClassVar[str] = "topology"
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Append(Event):
    """A producer is about to send one fact. ``op`` names this call; ``content`` is the SHA-256 of what it sends."""

    EV: ClassVar[str] = "append"
    op: str
    zone: str
    producer: str
    category: str
    to: str
    id: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ok(Event):
    """The call was acknowledged: the fact stands at ``offset`` of its origin log. ``epoch`` may be unknown."""

    EV: ClassVar[str] = "ok"
    op: str
    offset: int
    epoch: str | None
    duplicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """The call was refused: this call stored nothing."""

    EV: ClassVar[str] = "refused"
    op: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Info(Event):
    """The outcome of the call is unknown (timeout, killed): it may or may not have stored the fact."""

    EV: ClassVar[str] = "info"
    op: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotBegin(Event):
    """A reader in ``zone`` starts to read every log from its beginning, or only those of ``origin`` / ``category``."""

    EV: ClassVar[str] = "snapshot_begin"
    snapshot: str
    zone: str
    origin: str | None = None
    category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Event):
    """The reader read one fact: entry ``seq`` of ``stream``, which is entry ``offset`` of the origin's log."""

    EV: ClassVar[str] = "read"
    snapshot: str
    stream: str
    origin: str
    category: str
    epoch: str
    seq: int
    offset: int
    producer: str
    id: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(Event):
    """The reader found an explicit gap record: origin offsets ``first`` to ``last`` (None: the end of that epoch)."""

    EV: ClassVar[str] = "gap"
    snapshot: str
    origin: str
    category: str
    epoch: str
    first: int
    last: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Event):
    """The reader found a dead letter kept in its zone; ``id`` is None when it cannot be told."""

    EV: ClassVar[str] = "dead_letter"
    snapshot: str
    origin: str
    category: str
    epoch: str
    offset: int
    id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotEnd(Event):
    """The reader reached the end of all it set out to read; what it did not report was not there."""

    EV: ClassVar[str] = "snapshot_end"
    snapshot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm(Event):
    """``observer`` saw a receipt of ``receiver``: everything of this origin log up to ``offset`` is durable there."""

    EV: ClassVar[str] = "confirm"
    observer: str
    receiver: str
    origin: str
    category: str
    epoch: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(Event):
    """An injected fault the product must survive whole (kill, link cut, ledger deleted). Excuses nothing."""

    EV: ClassVar[str] = "fault"
    name: str
    zone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heal(Event):
    """The end of an injected fault."""

    EV: ClassVar[str] = "heal"
    name: str
    zone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet(Event):
    """Producers stopped, faults healed, no call can still take effect: within ``deadline_s`` all must have crossed."""

    EV: ClassVar[str] = "quiet"
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disaster(Event):
    """The logs kept in ``zone`` were wiped or replaced by an older copy; None stands for all origins or categories."""

    EV: ClassVar[str] = "disaster"
    zone: str
    kind: DisasterKind
    origin: str | None = None
    category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention(Event):
    """The site lets ``zone`` expire facts of ``category``; ``drop_unconfirmed``: also before they have crossed."""

    EV: ClassVar[str] = "retention"
    zone: str
    category: str
    drop_unconfirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison(Event):
    """The entry at this place of the origin's log was made unprocessable; ``zone`` must keep it as a dead letter."""

    EV: ClassVar[str] = "poison"
    zone: str
    origin: str
    category: str
    epoch: str
    offset: int
    id: str | None


EVENT_TYPES: tuple[type[Event], ...] = (
    Topology,
    Append,
    Ok,
    Refused,
    Info,
    SnapshotBegin,
    Read,
    Gap,
    DeadLetter,
    SnapshotEnd,
    Confirm,
    Fault,
    Heal,
    Quiet,
    Disaster,
    Retention,
    Poison,
)


class HistoryError(Exception):
    """The history itself is malformed, so nothing can be judged from it. Says the event number where it is known."""
