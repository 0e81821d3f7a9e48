# SPDX-License-Identifier: Apache-2.0
"""Reading the whole system image, slowly, so that the kernel checks each block of it.

dm-verity checks a block when it is read from the disk, not while it lies in memory; what nothing reads stays unchecked.
So a thread reads the verified device from end to end, past the page cache (O_DIRECT): a block that is not the signed
one is told by the kernel as an event and cannot be read. The thread takes a pause after each piece, so that the disk is
there for the facts.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BLOCK: Final = 4096
PIECE: Final = 1024 * 1024
RATE: Final = 8 * 1024 * 1024
"""Bytes a second, at most: an image of 170 MB in 21 s."""
FIRST_AFTER_S: Final = 240.0
EVERY_S: Final = 5 * 3600.0 + 1800.0
MOST_KNOWN: Final = 64
"""More blocks than these are counted only."""


@dataclass(slots=True)
class Progress:
    """How far the scrub is. Written by its thread alone, read by any.

    :param rounds: how often the whole device was read. :param at: bytes of the round that is going on.
    :param unreadable: blocks (4 KiB) that could not be read in the last round or this one. :param problem: why the
        device could not be opened or has no size, if so.
    """

    rounds: int = 0
    at: int = 0
    size: int = 0
    took_s: float = 0.0
    unreadable: tuple[int, ...] = ()
    failed: int = 0
    problem: str = ""

    def text(self) -> str:
        """For people."""
        if self.problem:
            return self.problem
        if self.at:
            return f"{100 * self.at // max(1, self.size)} % of round {self.rounds + 1}"
        return f"{self.rounds} rounds; the last one took {self.took_s:.0f} s" if self.rounds else "not yet"


@dataclass(slots=True)
class Scrub:
    """The thread. :param device: what is read. :param first_s: seconds before the first round; then :param every_s:."""

    device: Path
    first_s: float = FIRST_AFTER_S
    every_s: float = EVERY_S
    rate: int = RATE
    progress: Progress = field(default_factory=Progress)
    _stop: threading.Event = field(default_factory=threading.Event)
    _now: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """See whether the device can be opened at all: not only when the first round is due."""
        try:
            os.close(os.open(self.device, os.O_RDONLY | os.O_CLOEXEC))
            self.progress.problem = ""
        except OSError as error:
            self.progress.problem = f"{self.device.name}: {error.strerror}"

    def soon(self) -> None:
        """Do not wait for the next round's time."""
        self._now.set()

    def stop(self) -> None:
        """End it; it does not wait for a disk that hangs."""
        self._stop.set()
        self._now.set()

    def _run(self) -> None:
        wait_s = self.first_s
        while True:
            self._now.wait(wait_s)
            self._now.clear()
            if self._stop.is_set():
                return
            try:
                self.round()
            except OSError as error:  # neither a block nor the device: the thread goes on
                self.progress.problem = f"{self.device.name}: {error.strerror}"
            wait_s = self.every_s

    def round(self) -> None:
        """Read everything once."""
        made, began, lost = self.progress, time.monotonic(), list[int]()
        try:
            file = os.open(self.device, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            made.problem = f"{self.device.name}: {error.strerror}"
            return
        try:
            size = made.size = os.lseek(file, 0, os.SEEK_END)
            made.problem = "" if size else f"{self.device.name}: it has no size"
            with mmap.mmap(-1, PIECE) as piece:
                for at in range(0, size, PIECE):
                    lost += self._piece(file, piece, at, min(PIECE, size - at))
                    made.unreadable = tuple(sorted({*made.unreadable, *lost}))[:MOST_KNOWN]
                    made.at = at + PIECE
                    if self._stop.wait(PIECE / self.rate):
                        return
        finally:
            os.close(file)
        made.unreadable, made.failed = tuple(lost[:MOST_KNOWN]), len(lost)
        made.rounds, made.at, made.took_s = made.rounds + 1, 0, time.monotonic() - began

    @staticmethod
    def _piece(file: int, piece: mmap.mmap, at: int, length: int) -> list[int]:
        """The blocks of a piece that cannot be read."""
        if _reads(file, piece, at, length):
            return []
        blocks = range(at, at + length, BLOCK)
        return [each // BLOCK for each in blocks if not _reads(file, piece, each, min(BLOCK, at + length - each))]


def _reads(file: int, piece: mmap.mmap, at: int, length: int) -> bool:
    whole = -(-length // 512) * 512
    with memoryview(piece)[:whole] as room:
        try:
            return os.preadv(file, [room], at) >= length
        except OSError as error:
            if error.errno in {errno.EIO, errno.EILSEQ, errno.ENODATA, errno.EBADMSG, errno.EREMOTEIO}:
                return False
            raise
