# SPDX-License-Identifier: Apache-2.0
"""The modes of a node as a table: what the boundary is like, seen from the zone.

Theory of operation: a node starts ``autonomous``, because nothing is proven. Local work goes on in every mode. The
machine is pure: it is told what happened and when, and says what mode that makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Mode(StrEnum):
    """How the zone stands to the boundary."""

    NORMAL = "normal"
    """Facts cross as they come."""
    AUTONOMOUS = "autonomous"
    """The boundary cannot be reached; local work goes on and facts are buffered."""
    RECONCILING = "reconciling"
    """The boundary is back and the backlog is being drained."""
    QUARANTINED = "quarantined"
    """The node's integrity is in doubt; nothing crosses."""


class Event(StrEnum):
    """What the transfer loops report."""

    UNREACHABLE = "unreachable"
    BEHIND = "behind"
    CAUGHT_UP = "caught_up"


TRANSITIONS: Final[dict[tuple[Mode, Event], Mode]] = {
    (Mode.NORMAL, Event.UNREACHABLE): Mode.AUTONOMOUS,
    (Mode.NORMAL, Event.BEHIND): Mode.NORMAL,  # a backlog while the link is up is load, not a mode
    (Mode.NORMAL, Event.CAUGHT_UP): Mode.NORMAL,
    (Mode.AUTONOMOUS, Event.UNREACHABLE): Mode.AUTONOMOUS,
    (Mode.AUTONOMOUS, Event.BEHIND): Mode.RECONCILING,
    (Mode.AUTONOMOUS, Event.CAUGHT_UP): Mode.NORMAL,
    (Mode.RECONCILING, Event.UNREACHABLE): Mode.AUTONOMOUS,
    (Mode.RECONCILING, Event.BEHIND): Mode.RECONCILING,
    (Mode.RECONCILING, Event.CAUGHT_UP): Mode.NORMAL,
}
"""Every transition there is. Quarantine is entered and left by the watchdog alone."""


@dataclass(slots=True)
class ModeMachine:
    """The mode of one node, made of the state of its transfer loops (one per category and direction)."""

    now: float
    mode: Mode = Mode.AUTONOMOUS
    since: float = field(init=False)
    changes: int = 0
    _behind: set[str] = field(default_factory=set)
    _reached: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.since = self.now

    def reached(self, loop: str, *, behind: bool, now: float) -> Mode:
        """A loop exchanged a page; ``behind`` says whether more is waiting."""
        self._reached.add(loop)
        (self._behind.add if behind else self._behind.discard)(loop)
        return self._apply(Event.BEHIND if self._behind else Event.CAUGHT_UP, now)

    def unreachable(self, loop: str, now: float) -> Mode:
        """A loop could not reach the peer; what it still has to drain is unknown until it speaks again."""
        self._reached.discard(loop)
        self._behind.add(loop)
        return self._apply(Event.UNREACHABLE, now)

    def _apply(self, event: Event, now: float) -> Mode:
        following = TRANSITIONS.get((self.mode, event), self.mode)
        if following is not self.mode:
            self.mode, self.since = following, now
            self.changes += 1
        return self.mode
