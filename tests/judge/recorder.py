# SPDX-License-Identifier: Apache-2.0
"""Record a history while a test runs: one line per event, written whole, in the order things were seen."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.judge.codec import encode
from tests.judge.events import Append, Event, Info, Ok, Refused, SnapshotBegin, SnapshotEnd

Clock = Callable[[], float]
"""Seconds that never go back."""

E = TypeVar("E", bound=Event)


def content_digest(data: bytes) -> str:
    """The ``content`` of a fact: SHA-256 of the bytes the producer sent, in lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class Recorder:
    """Stamps events with a monotonic time and keeps them, in memory and (with a path) as JSON Lines.

    Safe for threads. Several processes use one recorder and one file each, with different names; the files are merged
    by time when they are judged (the default clock is one for all processes of a machine). Each line is one write to
    the file, so a process that is killed leaves whole lines.

    :param path: file to append to, or None to keep the events in memory only.
    :param name: starts every op and snapshot name; must differ between recorders of one history.
    :param clock: seconds; must not go back.
    """

    def __init__(self, path: Path | None = None, *, name: str = "r", clock: Clock = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._number = 0
        self._last = 0.0
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.events: list[Event] = []

    def record(self, event: E) -> E:
        """Stamp and keep one event; returns it as it was kept."""
        with self._lock:
            self._last = max(self._last, self._clock())
            stamped = dataclasses.replace(event, t=self._last)
            if self._file is not None:
                line = (encode(stamped) + "\n").encode()
                if os.write(self._file, line) != len(line):
                    raise OSError("the history could not be written whole")
            self.events.append(stamped)
        return stamped

    def new_name(self) -> str:
        """A name no other op or snapshot of this history has."""
        with self._lock:
            self._number += 1
            return f"{self._name}-{self._number}"

    def append(self, *, zone: str, producer: str, category: str, to: str, fact_id: str, content: str) -> str:
        """Record, before it is sent, that a producer sends a fact; returns the op for its answer."""
        op = self.new_name()
        self.record(Append(op=op, zone=zone, producer=producer, category=category, to=to, id=fact_id, content=content))
        return op

    def ok(self, op: str, *, offset: int, epoch: str | None = None, duplicate: bool = False) -> None:
        """Record that a call was acknowledged."""
        self.record(Ok(op=op, offset=offset, epoch=epoch, duplicate=duplicate))

    def refused(self, op: str, reason: str) -> None:
        """Record that a call was refused and stored nothing."""
        self.record(Refused(op=op, reason=reason))

    def info(self, op: str, reason: str) -> None:
        """Record that the outcome of a call is unknown."""
        self.record(Info(op=op, reason=reason))

    @contextmanager
    def snapshot(self, zone: str, *, origin: str | None = None, category: str | None = None) -> Iterator[str]:
        """Frame the reading of a zone; gives the name its events carry. A reading that raises stays without end."""
        name = self.new_name()
        self.record(SnapshotBegin(snapshot=name, zone=zone, origin=origin, category=category))
        yield name
        self.record(SnapshotEnd(snapshot=name))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
