# SPDX-License-Identifier: Apache-2.0
"""QR codes drawn with half blocks, two modules in the height of one character. The codes themselves are segno's.

Light modules are drawn, dark ones are the background, and both colours are set: so a code is dark on light whatever
colours a terminal has, and on one that knows no colours, as long as its background is dark.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

QUIET: Final = 4
"""Light modules around a code (ISO/IEC 18004, 9.1)."""
ON: Final = "\x1b[0;1;37;40m"
"""Bright white on black."""
OFF: Final = "\x1b[0m"
_CELLS: Final = {(False, False): "\u2588", (False, True): "\u2580", (True, False): "\u2584", (True, True): " "}
"""By whether the upper and the lower module is dark: all light, the upper half, the lower half, nothing."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A code. :param lines: each in its colours. :param width: in characters."""

    lines: tuple[str, ...]
    width: int

    @property
    def height(self) -> int:
        """In lines."""
        return len(self.lines)


@lru_cache(maxsize=8)
def drawn(text: str) -> Drawn:
    """The smallest QR code of a text, with as much error correction as it has room for.

    :param text: in the alphabet of the alphanumeric mode; others make larger codes.
    """
    import segno

    modules = [[bool(module) for module in row] for row in segno.make_qr(text, error="l").matrix]
    width = len(modules) + 2 * QUIET
    beside = [False] * QUIET
    rows = [[False] * width for _ in range(QUIET)]
    rows += [[*beside, *row, *beside] for row in modules]
    rows += [[False] * width for _ in range(QUIET + 1)]  # one more: a code has an odd number of rows
    lines = (
        ON + "".join(_CELLS[upper, lower] for upper, lower in zip(*pair, strict=True)) + OFF
        for pair in zip(rows[::2], rows[1::2], strict=True)
    )
    return Drawn(tuple(lines), width)
