# SPDX-License-Identifier: Apache-2.0
"""What a machine wrote on its serial line, as text that can be waited for. Thread-safe; no I/O of its own."""

from __future__ import annotations

import codecs
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tools.vm.faults import AwaitedError, EndedError

_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles
    r"|[()*+][0-9A-Za-z]"  # character sets
    r"|[=>78cDEHMNOZ])"
)
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[()*+])?$")
_LONGEST_ESCAPE: Final = 256
TAIL_LINES: Final = 40


@dataclass(frozen=True, slots=True)
class Seen:
    """A pattern that appeared. :param end: the position behind it: where to go on waiting."""

    pattern: str
    text: str
    end: int


class Transcript:
    """Everything that was written, without escape sequences and carriage returns."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._text = ""
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ended: str | None = None

    def feed(self, data: bytes) -> None:
        """More bytes from the line."""
        with self._changed:
            text = self._rest + self._decoder.decode(data)
            unfinished = _UNFINISHED.search(text)
            self._rest = ""
            if unfinished and len(text) - unfinished.start() < _LONGEST_ESCAPE:
                text, self._rest = text[: unfinished.start()], text[unfinished.start() :]
            self._text += _ESCAPE.sub("", text).replace("\r", "").replace("\0", "")
            self._changed.notify_all()

    def end(self, why: str) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = why
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """All of it."""
        with self._changed:
            return self._text

    @property
    def position(self) -> int:
        """Where the text ends now."""
        with self._changed:
            return len(self._text)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines that are not empty."""
        return "\n".join([line for line in self.text.split("\n") if line.strip()][-lines:])

    def has(self, pattern: str, since: int = 0) -> bool:
        """Whether a regular expression (lines count as lines) is there."""
        return re.compile(pattern, re.MULTILINE).search(self.text, since) is not None

    def wait(
        self,
        *patterns: str,
        seconds: float,
        what: str,
        since: int = 0,
        never: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> Seen:
        """Wait until one of some regular expressions is there.

        :param what: what is awaited, in words, for the error. :param since: a position from which on it counts.
        :param never: regular expressions that must not come before.
        :raises EndedError: the line ended first. :raises AwaitedError: time was up, or one of ``never`` came.
        """
        wanted = [re.compile(pattern, re.MULTILINE) for pattern in patterns]
        feared = [re.compile(pattern, re.MULTILINE) for pattern in never]
        deadline = clock() + seconds
        with self._changed:
            while True:
                hits = [(hit.start(), hit) for pattern in wanted if (hit := pattern.search(self._text, since))]
                bad = [(hit.start(), hit) for pattern in feared if (hit := pattern.search(self._text, since))]
                if bad and (not hits or min(bad)[0] < min(hits)[0]):
                    raise AwaitedError(self._report(f"{what}: {min(bad)[1][0]!r} came instead"))
                if hits:
                    _, hit = min(hits, key=lambda pair: pair[0])
                    return Seen(hit.re.pattern, hit[0], hit.end())
                if self._ended is not None:
                    raise EndedError(self._report(f"{what}: the machine ended first ({self._ended})"))
                left = deadline - clock()
                if left <= 0:
                    awaited = " or ".join(repr(pattern) for pattern in patterns)
                    raise AwaitedError(self._report(f"{what}: {awaited} did not come within {seconds:.0f} s"))
                self._changed.wait(min(left, 1.0))

    def _report(self, what: str) -> str:
        lines = [line for line in self._text.split("\n") if line.strip()][-TAIL_LINES:]
        shown = "\n".join(f"  | {line}" for line in lines) or "  | (nothing)"
        return f"{what}; the serial line ended with:\n{shown}"
