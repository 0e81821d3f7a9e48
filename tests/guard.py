# SPDX-License-Identifier: Apache-2.0
"""A test that hangs fails, with the stacks of all threads, and the run goes on.

When setup, call or teardown of a test takes longer than its limit, the main thread gets what Ctrl-C would give it, for
that is what everybody who waits knows how to end: a system call, ``subprocess.run``, trio (which cancels the test's
tasks) and asyncio (which cancels the main task). What does not end then gets a plain exception every few seconds.
Another limit than :data:`LIMIT_S` is set by ``@pytest.mark.time_limit(seconds)``.
"""

from __future__ import annotations

import faulthandler
import signal
import tempfile
import threading
from collections.abc import Generator
from types import FrameType
from typing import Final, Self

import pytest

LIMIT_S: Final = 240.0
"""For each of setup, call and teardown of a test."""
AGAIN_S: Final = 20.0
"""How long a test may take to end after it was told to."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"time_limit(seconds): ends a test that takes longer (otherwise {LIMIT_S:g})")


class Guard:
    """The time one phase of a test may take. ``stacks``: where all threads stood when it was over."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.stacks = ""

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGALRM, self._over)
        signal.setitimer(signal.ITIMER_REAL, self.limit_s, AGAIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _over(self, number: int, frame: FrameType | None) -> None:
        if self.stacks:  # the polite way did not help
            raise TimeoutError(f"still not ended; it stood here:\n{self.stacks}")
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            self.stacks = file.read()
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)


def _limit_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("time_limit")
    return LIMIT_S if marker is None else float(marker.args[0])


def _guarded(item: pytest.Item, phase: str) -> Generator[None, object, object]:
    if threading.current_thread() is not threading.main_thread():
        return (yield)
    guard = Guard(_limit_s(item))
    outcome: object = None
    try:
        with guard:
            outcome = yield
    except BaseException as error:
        if not guard.stacks:
            raise
        raise pytest.fail.Exception(_text(guard, phase), pytrace=False) from error
    if guard.stacks:
        raise pytest.fail.Exception(_text(guard, phase), pytrace=False)
    return outcome


def _text(guard: Guard, phase: str) -> str:
    return f"{phase} was not done within {guard.limit_s:g} s; it stood here:\n{guard.stacks}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Limit the fixtures."""
    return (yield from _guarded(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Limit the test."""
    return (yield from _guarded(item, "the test"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Limit what ends the fixtures."""
    return (yield from _guarded(item, "teardown"))
