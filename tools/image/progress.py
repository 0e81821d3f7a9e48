# SPDX-License-Identifier: Apache-2.0
"""What a build says while it works, and the table of times at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]
"""Told a line of text."""


class Progress:
    """Prints each line with the seconds since it was made, and remembers how long each step took."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._began = time.monotonic()
        self.took: list[tuple[str, float]] = []

    def __call__(self, text: str) -> None:
        """Say a line."""
        self._write(f"{time.monotonic() - self._began:6.1f} s  {text}")

    @property
    def total_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._began

    def table(self) -> list[str]:
        """A line for each step that took half a second or more, and one for all."""
        rows = [(name, seconds) for name, seconds in self.took if seconds >= 0.5]
        return [f"{seconds:7.1f} s  {name}" for name, seconds in [*rows, ("in all", self.total_s)]]


@contextmanager
def step(say: Say, name: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    began = time.monotonic()
    say(f"{name} ...")
    yield
    seconds = time.monotonic() - began
    say(f"{name}: {seconds:.0f} s")
    if isinstance(say, Progress):
        say.took.append((name.partition(":")[0], seconds))
