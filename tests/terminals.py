# SPDX-License-Identifier: Apache-2.0
"""A terminal for tests: what a person would see after so many bytes. It knows what the page uses; no more."""

from __future__ import annotations

import re
from typing import Final

_SEQUENCE: Final = re.compile(r"\x1b\[(\?25[hl]|[0-9;]*[HJKm])")
_BLOCKS: Final = frozenset("\u2580\u2584\u2588")
_COLOURS: Final = {"0;1;37;40": True, "0": False}
"""Which colours the page sets: bright white on black, and the terminal's own."""


class Terminal:
    """A screen of so many rows and columns, as a VT220 draws it."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        self.rows, self.columns = rows, columns
        self.cells = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.cursor = True
        self.coloured = False
        """Whether what is written now is bright white on black."""
        self.scrolled = 0
        """How often the screen had to scroll."""

    @property
    def lines(self) -> list[str]:
        """The screen, line by line, without blanks at the end."""
        return ["".join(row).rstrip() for row in self.cells]

    def feed(self, text: str) -> None:
        """Take what was written. :raises ValueError: at anything that the page must not send."""
        place = 0
        while place < len(text):
            if found := _SEQUENCE.match(text, place):
                self._obey(found[1])
                place = found.end()
                continue
            self._put(text[place])
            place += 1

    def picture(self, cell: int = 8) -> memoryview:
        """The screen as a camera sees it: light on black, a grey byte for each pixel. Words are a pattern of their own.

        :param cell: how wide a character is; it is twice as high.
        """
        upper = {"\u2588": 255, "\u2580": 255, "\u2584": 0, " ": 0}
        lower = {"\u2588": 255, "\u2580": 0, "\u2584": 255, " ": 0}
        rows = bytearray()
        for row in self.cells:
            for half in (upper, lower):
                line = b"".join(bytes([half.get(character, 90)]) * cell for character in row)
                rows += line * cell
        return memoryview(bytes(rows)).cast("B", (self.rows * 2 * cell, self.columns * cell))

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
            if self.row == self.rows:
                self.cells = [*self.cells[1:], [" "] * self.columns]
                self.row, self.scrolled = self.rows - 1, self.scrolled + 1
        elif character == "\x18":
            pass  # ends a sequence that was cut off
        elif " " <= character <= "~" or (character in _BLOCKS and self.coloured):
            if self.column >= self.columns:
                raise ValueError(f"beyond the last column: {character!r}")
            self.cells[self.row][self.column] = character
            self.column += 1
        else:
            raise ValueError(f"unexpected {character!r}")

    def _obey(self, sequence: str) -> None:
        if sequence.startswith("?25"):
            self.cursor = sequence.endswith("h")
            return
        numbers, action = sequence[:-1], sequence[-1]
        if action == "m":
            self.coloured = _COLOURS[numbers]
        elif action == "H":
            row, _, column = numbers.partition(";")
            self.row, self.column = int(row or 1) - 1, int(column or 1) - 1
        elif action == "K" and not numbers:
            self._clear(self.row, self.column)
        elif action == "J" and numbers in {"", "2"}:
            if numbers == "2":
                self._clear(0, 0, self.rows)
            else:
                self._clear(self.row, self.column, self.rows)
        else:
            raise ValueError(f"unexpected sequence {sequence!r}")

    def _clear(self, row: int, column: int, end: int | None = None) -> None:
        self.cells[row][column:] = [" "] * (self.columns - column)
        for below in range(row + 1, end if end is not None else row + 1):
            self.cells[below] = [" "] * self.columns
