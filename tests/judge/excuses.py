# SPDX-License-Identifier: Apache-2.0
"""What may excuse that a fact is not where it should be: explicit gap records and dead letters, and nothing else.

A gap record is explicit, so it explains a hole; but it only excuses a loss when the history declares a cause for it
(retention of the site, or a disaster). Otherwise an appliance could drop everything and write gaps.
"""

from __future__ import annotations

from bisect import bisect_right

from tests.judge.book import NEVER, Copy, Fact, Place
from tests.judge.case import Case

_Ranges = tuple[list[int], list[int]]


class Excuses:
    """Answers the checks' questions about missing facts; ranges are merged once per copy."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._ranges: dict[Copy, dict[str | None, _Ranges]] = {}

    def gap(self, copy: Copy, epoch: str | None, offset: int) -> bool:
        """True when an explicit gap record of this copy covers the place (any epoch's when ``epoch`` is unknown)."""
        if copy not in self.case.book.gaps:
            return False
        ranges = self._ranges.get(copy)
        if ranges is None:
            ranges = self._ranges[copy] = self._merge(copy)
        found = ranges.get(epoch)
        if found is None:
            return False
        firsts, lasts = found
        index = bisect_right(firsts, offset) - 1
        return index >= 0 and offset <= lasts[index]

    def dead(self, copy: Copy, epoch: str | None, offset: int) -> bool:
        """True when this copy's zone keeps a dead letter of the place, or is its origin and the place is poisoned."""
        if copy.zone == copy.origin:
            return epoch is not None and Place(copy.origin, copy.category, epoch, offset) in self.case.book.poisons
        letters = self.case.book.dead.get(copy)
        return letters is not None and epoch is not None and (epoch, offset) in letters

    def explicit(self, copy: Copy, epoch: str | None, offset: int) -> bool:
        """True when the absence is explained by any record; whether it is excused is another question."""
        return self.gap(copy, epoch, offset) or self.dead(copy, epoch, offset)

    def licensed(self, copy: Copy, fact: Fact, invoked: int) -> bool:
        """True when the history declares a cause for a gap of this copy over a fact sent at line ``invoked``.

        Retention of the zone itself is one. So is a disaster that hit the origin's log after the fact was sent, or an
        origin that may drop what has not crossed, or a disaster of this copy when the origin had already trimmed: but
        never for a fact that the origin still has.
        """
        book = self.case.book
        if (copy.zone, copy.category) in book.retentions:
            return True
        store = Copy(copy.origin, copy.origin, copy.category)
        if copy == store:
            return book.hit_since(store, invoked)
        views = self.case.views.get(store)
        entry = views[-1].facts.get(fact) if views else None
        if entry is not None and not entry.poison:  # what is spoilt at its origin cannot be served by it
            return False
        trims = book.retentions.get((copy.origin, copy.category))
        return book.hit_since(store, invoked) or trims is True or (trims is not None and book.hit_since(copy, invoked))

    def _merge(self, copy: Copy) -> dict[str | None, _Ranges]:
        """The gap records of a copy as rising, disjoint ranges per epoch; None holds those of all epochs."""
        by_epoch: dict[str | None, list[tuple[int, int]]] = {None: []}
        for epoch, first, last in self.case.book.gaps[copy]:
            span = (first, NEVER if last is None else last)
            by_epoch.setdefault(epoch, []).append(span)
            by_epoch[None].append(span)
        merged: dict[str | None, _Ranges] = {}
        for key, spans in by_epoch.items():
            firsts: list[int] = []
            lasts: list[int] = []
            for first, end in sorted(spans):
                if lasts and first <= lasts[-1] + 1:
                    lasts[-1] = max(lasts[-1], end)
                else:
                    firsts.append(first)
                    lasts.append(end)
            merged[key] = (firsts, lasts)
        return merged
