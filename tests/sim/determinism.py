# SPDX-License-Identifier: Apache-2.0
"""Make trio answer the same every time: virtual time, and a scheduler whose dice are seeded.

trio shuffles runnable tasks with a private random generator, so that nobody relies on their order. It has a switch for
Hypothesis that sorts the tasks by age before it shuffles; with the generator seeded the order is then a function of the
seed alone (the way ``hypothesis-trio`` and ``pytest-trio`` do it). Both names are private to trio: a version that
renames them fails here at once, and in the tests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
import trio.testing
from trio._core import _run as trio_run

T = TypeVar("T")


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """The order in which runnable tasks run depends on the seed alone."""
    scheduler: Any = trio_run
    before, state = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before
        scheduler._r.setstate(state)


def run(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main`` in virtual time, which jumps to the next deadline whenever everybody waits."""
    with seeded_scheduler(seed):
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
