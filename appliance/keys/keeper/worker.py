# SPDX-License-Identifier: Apache-2.0
"""One thread that owns the TPM: calls take turns, each has a deadline, and a TPM that does not answer hangs nobody.

A command cannot be taken back from a TPM. So when one does not come back in time, its thread is left behind and ends
by itself when the answer comes at last; a new thread connects again, after a growing pause. Only a few threads may be
left behind at once: behind a TPM that swallows every command, calls then fail at once.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.reasons import Reason

LEFT_BEHIND: Final = 3
"""Threads that may wait for a dead TPM."""
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
"""Between attempts to connect."""
CLOSING_S: Final = 2.0
"""How long the end of the process waits for a command that is under way."""

_log = logging.getLogger(__name__)


class Closable(Protocol):
    """What a worker opens."""

    def close(self) -> None:
        """Give it back; raises nothing."""
        ...


R = TypeVar("R", bound=Closable)
T = TypeVar("T")


class LeftBehindError(Exception):
    """Raised inside a thread that nobody waits for any more."""


def loses_connection(error: BaseException) -> bool:
    """Whether the connection is not to be used again after this: the TPM was reset, is gone, or answered nonsense."""
    if not isinstance(error, BsfgError):
        return True
    return error.reason in {Reason.TPM_ABSENT, Reason.TPM_FAULT, Reason.TPM_ALTERED}


@dataclass(slots=True)
class _Job:
    call: Callable[[Any], Any]
    token: trio.lowlevel.TrioToken
    done: trio.Event = field(default_factory=trio.Event)
    result: Any = None
    error: BaseException | None = None

    def finish(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self.done.set)


class _Thread(Generic[R]):
    """A thread with its connection; it ends when the connection is lost, or when it was left behind."""

    def __init__(self, opener: Callable[[Callable[[], None]], R]) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.opened = False
        self.usable = True
        self.left_behind = False
        self._opener = opener
        self._thread = threading.Thread(target=self._serve, name="tpm", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _still_wanted(self) -> None:
        if self.left_behind:
            raise LeftBehindError

    def _serve(self) -> None:
        resource: R | None = None
        while self.usable and (job := self.jobs.get()) is not None:
            try:
                if resource is None:
                    resource = self._opener(self._still_wanted)
                    self.opened = True
                job.result = job.call(resource)
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                job.error = error
                self.usable = resource is not None and not loses_connection(error)
            if self.left_behind:
                self.usable = False
            job.finish()
        if resource is not None:
            resource.close()


class Worker(Generic[R]):
    """Runs jobs on a connection that it opens when needed.

    :param opener: opens the connection, in the worker's thread. It is given a function to call now and then, which
        raises when nobody waits any more.
    :param deadline_s: the longest time a job waits for its turn, and again the longest it may take.
    """

    def __init__(self, opener: Callable[[Callable[[], None]], R], deadline_s: float) -> None:
        self._opener = opener
        self._deadline_s = deadline_s
        self._turn = trio.Lock()
        self._thread: _Thread[R] | None = None
        self._left: list[_Thread[R]] = []
        self._pause_s = 0.0
        self._next_try = -float("inf")
        self._problem: BsfgError = UnavailableError(Reason.TPM_ABSENT, "not connected yet")

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._thread is not None and self._thread.usable and self._thread.opened

    async def run(self, job: Callable[[R], T], *, deadline_s: float | None = None) -> T:
        """Run a job in its turn. One that finds its connection lost is tried once more on a new one.

        :param deadline_s: when it may take longer than usual. :raises UnavailableError: ``tpm_busy``: no turn in time;
            ``tpm_absent``: no answer in time, or no connection. :raises BsfgError: whatever the job raises.
        """
        try:
            with trio.fail_after(self._deadline_s):
                await self._turn.acquire()
        except trio.TooSlowError:
            raise UnavailableError(Reason.TPM_BUSY, f"others had it for {self._deadline_s:g} s") from None
        try:
            used = self.connected
            try:
                return await self._ask(job, deadline_s or self._deadline_s)
            except BaseException as error:
                if not used or not loses_connection(error) or self._thread is None:
                    raise
                _log.warning("the TPM's connection was lost and is opened again: %s", error)
            return await self._ask(job, deadline_s or self._deadline_s)
        finally:
            self._turn.release()

    async def close(self) -> None:
        """Close the connection, if the TPM lets it."""
        threads = [*self._left, *([self._thread] if self._thread is not None else [])]
        self._thread = None

        def join() -> None:
            last = time.monotonic() + CLOSING_S
            for thread in threads:
                thread.jobs.put(None)
                thread.join(max(0.0, last - time.monotonic()))

        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(join)

    async def _ask(self, call: Callable[[R], T], deadline_s: float) -> T:
        thread = self._current()
        job = _Job(call, trio.lowlevel.current_trio_token())
        thread.jobs.put(job)
        try:
            with trio.move_on_after(deadline_s):
                await job.done.wait()
        finally:
            if not job.done.is_set():  # also when the caller was cancelled: the command cannot be
                thread.left_behind = True
                self._left.append(thread)
                self._thread = None
        if not job.done.is_set():
            raise self._failed(UnavailableError(Reason.TPM_ABSENT, f"no answer within {deadline_s:g} s"))
        if thread.opened:
            self._pause_s = 0.0
        if job.error is None:
            return job.result  # type: ignore[no-any-return]
        if not thread.opened and isinstance(job.error, BsfgError):
            self._failed(job.error)
        raise job.error

    def _current(self) -> _Thread[R]:
        if self._thread is not None and self._thread.usable:
            return self._thread
        self._left = [thread for thread in self._left if thread.alive]
        if trio.current_time() < self._next_try:
            raise self._again()
        if len(self._left) >= LEFT_BEHIND:
            self._problem = UnavailableError(Reason.TPM_ABSENT, f"{len(self._left)} commands were never answered")
            raise self._again()
        self._thread = _Thread(self._opener)
        return self._thread

    def _failed(self, error: BsfgError) -> BsfgError:
        """Remember why there is no connection, and wait before the next attempt."""
        self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._next_try = trio.current_time() + self._pause_s
        self._problem = error
        return error

    def _again(self) -> BsfgError:
        """The same error anew: an exception that is raised twice would grow its traceback."""
        return type(self._problem)(self._problem.reason, self._problem.detail)
