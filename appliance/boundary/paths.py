# SPDX-License-Identifier: Apache-2.0
"""Where a reader may stand: the positions its log can have by what it was served.

A reader's head is the chain over the facts and gaps it took. Which gaps it took is not always known: the same request
may have been answered twice, the second time with more already gone, and the reader has taken one of both. So every
gap that was told is a possible way, and a reader stands rightly when one way leads to its head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from appliance.boundary.pages import Gap, Position, link_fact, link_gap

MAX_WAYS: Final = 64
"""Ways that are followed at once; a reader that cannot be told by then starts anew."""


class Ways:
    """All ways from one position along the facts of a log and the gaps that were told to its reader. Pure."""

    def __init__(self, start: Position, gaps: Iterable[Gap]) -> None:
        self._gaps: dict[int, list[Gap]] = {}
        for gap in gaps:
            self._gaps.setdefault(gap.first - 1, []).append(gap)
        self._at = self._with_gaps([start])

    def take(self, offset: int, digest: bytes) -> None:
        """The log's next fact for the reader: every way that does not lead past it goes over it."""
        self._at = self._with_gaps(
            at if at.offset >= offset else Position(offset, link_fact(at.head, offset, digest)) for at in self._at
        )

    def lead_to(self, position: Position) -> bool:
        """Whether the reader may stand here, after the facts taken so far."""
        return position in self._at

    def _with_gaps(self, at: Iterable[Position]) -> list[Position]:
        found = dict.fromkeys(at)
        waiting = list(found)
        while waiting and len(found) < MAX_WAYS:
            here = waiting.pop()
            for gap in self._gaps.get(here.offset, ()):
                there = Position(gap.last, link_gap(here.head, gap))
                if there not in found:
                    found[there] = None
                    waiting.append(there)
        return list(found)
