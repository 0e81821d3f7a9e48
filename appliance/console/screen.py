# SPDX-License-Identifier: Apache-2.0
"""A terminal that shows the page: the screen of the machine, a serial line, or something that only takes text.

A terminal may take nothing (flow control, nobody there). That never stops the page: what cannot be written in time is
dropped, and the next page is drawn as a whole. Nothing is ever read from the terminal.
"""

from __future__ import annotations

import os
import select
import termios
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

from appliance.console.page import CLOCK_LINE
from appliance.console.turning import Room

WHOLE_EVERY_S: Final = 30.0
"""How often a serial line gets the whole page, for whoever has just plugged in."""
SILENT_AT_MOST_S: Final = 300.0
"""How long a terminal without cursor hears nothing while nothing changes."""
PATIENCE_S: Final = 1.5
HOME, CLEAR_LINE, CLEAR_BELOW, CLEAR_ALL = "\x1b[H", "\x1b[K", "\x1b[J", "\x1b[2J"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
ABORT: Final = "\x18"
"""Ends an escape sequence of which only a part was written."""


class Kind(StrEnum):
    """What a terminal can do."""

    SCREEN = "screen"
    """A virtual console: drawn anew each time, which also mends what the kernel wrote over it."""
    SERIAL = "serial"
    """A slow line with a terminal at its end: changed lines only, the whole page now and then."""
    PLAIN = "plain"
    """Text only: a page when it changed."""


def kind_of(handle: int, term: str) -> Kind:
    """What kind of terminal a file is. Its name is not looked at: a sandbox has no /dev to find it in."""
    if term in {"", "dumb"} or not os.isatty(handle):
        return Kind.PLAIN
    return Kind.SCREEN if term == "linux" else Kind.SERIAL  # what systemd says of virtual consoles; others scroll too


class Screen:
    """Shows pages on a terminal.

    :param handle: open for writing; where it is not blocking, a page that is not taken in time is dropped.
    :raises OSError: the terminal is gone.
    """

    def __init__(self, handle: int, kind: Kind, now: Callable[[], float] = time.monotonic) -> None:
        self._handle, self._kind, self._now = handle, kind, now
        self._shown: list[str] | None = None
        """What stands there; ``None``: that is not known."""
        self._whole_at = -float("inf")
        self._cut = False
        self._former: list[int | list[bytes | int]] | None = None

    def room(self) -> Room | None:
        """How large the terminal is now; ``None``: it only takes text. A serial line does not say: 24 lines of 80."""
        if self._kind is Kind.PLAIN:
            return None
        try:
            columns, rows = os.get_terminal_size(self._handle)
        except OSError:
            columns, rows = 0, 0
        return Room(rows, columns) if rows and columns else Room()

    def prepare(self) -> None:
        """Take over a terminal: no echo of what is typed, and nothing typed stops the output."""
        if self._kind is Kind.PLAIN or not os.isatty(self._handle):
            return
        self._former = termios.tcgetattr(self._handle)
        wanted = termios.tcgetattr(self._handle)
        iflag, _, cflag, lflag = (int(each) for each in wanted[:4] if isinstance(each, int))
        wanted[0] = iflag & ~(termios.IXON | termios.IXOFF | termios.IXANY)
        wanted[2] = (cflag | termios.CLOCAL) & ~termios.CRTSCTS
        wanted[3] = lflag & ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        termios.tcsetattr(self._handle, termios.TCSANOW, wanted)

    def show(self, lines: Sequence[str]) -> bool:
        """Show a page. Answers whether the terminal took it."""
        text = {Kind.SCREEN: self._drawn, Kind.SERIAL: self._changes, Kind.PLAIN: self._page}[self._kind](lines)
        if not text:
            return True
        self._cut = not self._write((ABORT if self._cut else "") + text)
        self._shown = None if self._cut else list(lines)
        return not self._cut

    def close(self) -> None:
        """Give the terminal back: below the page, with a cursor."""
        if self._kind is not Kind.PLAIN:
            rows = len(self._shown or ())
            self._write(f"\x1b[{rows};1H\r\n{SHOW_CURSOR}")
        if self._former is not None:
            termios.tcsetattr(self._handle, termios.TCSANOW, self._former)
            self._former = None

    def _drawn(self, lines: Sequence[str]) -> str:
        """The whole page. It is drawn over the former one, so that nothing flickers."""
        start = HOME if self._shown is not None else HIDE_CURSOR + CLEAR_ALL + HOME
        self._whole_at = self._now()
        return start + "\r\n".join(line + CLEAR_LINE for line in lines) + CLEAR_BELOW

    def _changes(self, lines: Sequence[str]) -> str:
        if self._shown is None or len(self._shown) != len(lines) or self._now() - self._whole_at >= WHOLE_EVERY_S:
            self._shown = None
            return self._drawn(lines)
        return "".join(
            f"\x1b[{row};1H{line}{CLEAR_LINE}"
            for row, (line, former) in enumerate(zip(lines, self._shown, strict=True), 1)
            if line != former
        )

    def _page(self, lines: Sequence[str]) -> str:
        """The page as text, if it changed in more than its clock, and not too often."""
        waited = self._now() - self._whole_at
        if self._shown is not None and waited < SILENT_AT_MOST_S:
            same = [a for i, a in enumerate(lines) if i != CLOCK_LINE] == [
                a for i, a in enumerate(self._shown) if i != CLOCK_LINE
            ]
            if same or waited < WHOLE_EVERY_S:
                return ""
        self._whole_at = self._now()
        return "".join(line + "\n" for line in (*lines, ""))

    def _write(self, text: str) -> bool:
        """Write all of it, unless the terminal does not take it in time."""
        left, end = text.encode("utf-8", errors="replace"), time.monotonic() + PATIENCE_S
        poll = select.poll()
        poll.register(self._handle, select.POLLOUT)
        while left:
            wait_s = end - time.monotonic()
            if wait_s <= 0:
                return False
            if poll.poll(wait_s * 1000):
                try:
                    left = left[os.write(self._handle, left) :]
                except BlockingIOError:
                    time.sleep(0.01)
        return True
