# SPDX-License-Identifier: Apache-2.0
"""Lines from a file or a pipe, of any length of input and bounded memory, each with its number."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import IO, Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

CHUNK: Final = 256 * 1024
MAX_LINE: Final = 1024 * 1024
"""Bytes of a line; longer ones are given as :data:`TOO_LONG`. A fact is at most a quarter of this."""
TOO_LONG: Final = None
_CHUNKS_AHEAD: Final = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not empty; ``text`` is ``None`` when it was too long to keep."""

    number: int
    text: bytes | None


class LineSplitter:
    """Cuts chunks into lines. Feed it, then finish it."""

    def __init__(self) -> None:
        self._number = 0
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that a chunk completes."""
        *whole, rest = (self._rest + chunk).split(b"\n")
        self._rest = b""
        lines = [line for text in whole for line in self._line(text)]
        if len(rest) > MAX_LINE:
            self._skipping = True
        else:
            self._rest = rest
        return lines

    def finish(self) -> list[Line]:
        """The last line, when it has no end."""
        rest, self._rest = self._rest, b""
        return list(self._line(rest)) if rest or self._skipping else []

    def _line(self, text: bytes) -> Iterator[Line]:
        self._number += 1
        if self._number == 1:
            text = text.removeprefix(b"\xef\xbb\xbf")
        too_long, self._skipping = self._skipping or len(text) > MAX_LINE, False
        if too_long:
            yield Line(self._number, TOO_LONG)
        elif text := text.strip():
            yield Line(self._number, text)


async def read_lines(file: IO[bytes]) -> AsyncGenerator[list[Line], None]:
    """Lines as they come, several at a time.

    A thread of its own reads, because a pipe may keep it waiting for ever; nobody waits for the thread at the end.
    :raises RefusedError: ``bad_input``: it cannot be read to its end.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(_CHUNKS_AHEAD)
    ended = False

    def read() -> None:
        while not ended:
            room.acquire()
            item: bytes | OSError
            try:
                item = file.read1(CHUNK) if hasattr(file, "read1") else file.read(CHUNK)
            except OSError as error:
                item = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants it any more
                loop.call_soon_threadsafe(queue.put_nowait, item)
            if not item or isinstance(item, OSError):
                return

    threading.Thread(target=read, name="lines", daemon=True).start()
    splitter = LineSplitter()
    try:
        while True:
            item = await queue.get()
            room.release()
            if isinstance(item, OSError):
                raise RefusedError(Reason.BAD_INPUT, f"the input cannot be read: {item.strerror}")
            lines = splitter.feed(item) if item else splitter.finish()
            if lines:
                yield lines
            if not item:
                return
    finally:
        ended = True
        room.release()
