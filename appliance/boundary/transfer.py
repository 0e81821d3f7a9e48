# SPDX-License-Identifier: Apache-2.0
"""The transfer of one category in one direction, as a table.

Theory of operation: a fact is *appended* at its origin, *fetched* in a page, *committed* at the receiver and
*confirmed* by a receipt. A transfer walks that path page by page. Everything that changes its step stands in
:data:`TRANSITIONS`; the table does not know whether pages are pulled or pushed. Whatever goes wrong leads back to
:attr:`Step.LOCATE`, where the receiver's log says where to go on: a transfer keeps no position of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Step(StrEnum):
    """What a transfer does next."""

    LOCATE = "locate"
    """Ask the receiver's log for epoch and frontier."""
    FETCH = "fetch"
    """Get the next page from the source."""
    COMMIT = "commit"
    """Hand the page to the receiver's log."""
    CONFIRM = "confirm"
    """Nothing is waiting: ask the receiver for its newest receipt."""
    PAUSE = "pause"
    """Wait: the boundary or a broker is away."""


class Event(StrEnum):
    """How a step ended."""

    LOCATED = "located"
    PAGE = "page"
    EMPTY = "empty"
    COMMITTED = "committed"
    CONFIRMED = "confirmed"
    MOVED = "moved"
    """The receiver stands elsewhere than believed, or the source's log has a new epoch."""
    FAILED = "failed"
    RESTED = "rested"


TRANSITIONS: Final[dict[tuple[Step, Event], Step]] = {
    (Step.LOCATE, Event.LOCATED): Step.FETCH,
    (Step.LOCATE, Event.MOVED): Step.LOCATE,
    (Step.LOCATE, Event.FAILED): Step.PAUSE,
    (Step.FETCH, Event.PAGE): Step.COMMIT,
    (Step.FETCH, Event.EMPTY): Step.CONFIRM,
    (Step.FETCH, Event.MOVED): Step.LOCATE,
    (Step.FETCH, Event.FAILED): Step.PAUSE,
    (Step.COMMIT, Event.COMMITTED): Step.FETCH,
    (Step.COMMIT, Event.MOVED): Step.LOCATE,
    (Step.COMMIT, Event.FAILED): Step.PAUSE,
    (Step.CONFIRM, Event.CONFIRMED): Step.FETCH,
    (Step.CONFIRM, Event.MOVED): Step.LOCATE,
    (Step.CONFIRM, Event.FAILED): Step.PAUSE,
    (Step.PAUSE, Event.RESTED): Step.LOCATE,
}
"""Every transition there is; an event that is not listed for a step is a defect."""

MAX_MOVES: Final = 4
"""How often a transfer is located anew without progress before it rests."""


@dataclass(slots=True)
class TransferMachine:
    """Where one transfer stands, and how long it rests after failures."""

    step: Step = Step.LOCATE
    failures: int = 0
    moves: int = 0

    def apply(self, event: Event) -> Step:
        """Take the transition. :raises KeyError: the event is not legal in this step."""
        if event is Event.MOVED:
            self.moves += 1
            if self.moves > MAX_MOVES:  # both sides keep disagreeing: that is a fault, and must not spin
                event = Event.FAILED
        self.step = TRANSITIONS[self.step, event]
        if event is Event.FAILED:
            self.failures += 1
        elif event in (Event.COMMITTED, Event.CONFIRMED):
            self.failures = self.moves = 0
        return self.step


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses in seconds: doubling from ``first`` to ``longest``, with full jitter so that a fleet does not march."""

    first: float = 0.2
    longest: float = 5.0
    dice: random.Random = field(default_factory=random.Random)

    def pause(self, failures: int) -> float:
        """How long to rest after so many failures in a row (at least one)."""
        limit = min(self.longest, self.first * 2 ** min(failures - 1, 16))
        return float(limit * self.dice.uniform(0.5, 1.0))
