# SPDX-License-Identifier: Apache-2.0
"""The statistics of the benchmarks: medians with their range, ratios round by round, percentiles. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the range it was found in; with few rounds a range says more than a deviation."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str = ",.0f") -> str:
        """``median (lowest - highest)``, each in a format of :func:`format`."""
        return f"{self.median:{form}} ({self.lowest:{form}} - {self.highest:{form}})"


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Ours by theirs, round by round; a round in which one of them failed has none.

    Both of one round ran right after each other on the same machine, so what slows both falls out of their ratio.
    """
    return [mine / other for mine, other in zip(ours, theirs, strict=True) if mine is not None and other]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
