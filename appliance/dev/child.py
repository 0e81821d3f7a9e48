# SPDX-License-Identifier: Apache-2.0
"""One supervised process: started, watched until it is ready, started again whenever it ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.dev import tether
from appliance.dev.pids import ProcessIdentity
from appliance.dev.restarts import RestartPolicy, Restarts

_log = logging.getLogger(__name__)

MAX_LOG_BYTES: Final = 16 * 1024**2
"""A log that is longer when its process starts is moved aside (one older log is kept)."""
STOP_GRACE: Final = 10.0
"""Seconds between asking a process to end and killing it."""
_PROBE_PAUSE: Final = 0.05
_FOLLOW_PAUSE: Final = 0.2
_Version = tuple[int, int] | None


class ChildState(StrEnum):
    """Where a process stands."""

    WAITING = "waiting"
    """Not started yet: what it needs is not ready, or a file is not there."""
    STARTING = "starting"
    """Running; not ready yet."""
    READY = "ready"
    """Running, and it does what it is for."""
    ENDED = "ended"
    """Not running; it is started again after a pause."""
    STOPPED = "stopped"
    """Not running, as asked."""
    DONE = "done"
    """Not running: it had one thing to do, and has done it."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how to see that it is ready.

    :param after: names of processes that must have been ready once before this one is first started.
    :param ready: asked while it starts; gets the pid.
    :param needs: files that must be there before it is started.
    :param follows: files it reads: it is started when all are there, and hears SIGHUP when one is another, as path
        units of systemd would have it.
    :param once: it has one thing to do, and is ready when it has ended well (systemd: ``Type=oneshot``).
    :param volatile: files that describe the running process; removed when it ends, as systemd removes a
        RuntimeDirectory.
    """

    name: str
    argv: Sequence[str]
    log: Path
    ready: Callable[[int], Awaitable[bool]]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    after: tuple[str, ...] = ()
    volatile: tuple[Path, ...] = ()
    needs: tuple[Path, ...] = ()
    follows: tuple[Path, ...] = ()
    once: bool = False


@dataclass(slots=True)
class Child:
    """A process by its spec. ``changed`` is called whenever something of its state changed."""

    spec: ChildSpec
    policy: RestartPolicy
    changed: Callable[[], None]
    state: ChildState = ChildState.WAITING
    identity: ProcessIdentity | None = None
    since: float = field(default_factory=time.time)
    last_end: str = ""
    was_ready: trio.Event = field(default_factory=trio.Event)
    starts_failed: int = 0
    """How often it ended before it was ready for the first time."""
    reloads: int = 0
    """How often it was told to read its files again."""
    restarts: Restarts = field(init=False)
    _looked: bool = False
    """Whether it has looked for its files, and some were missing."""
    _descriptor: int | None = None

    def __post_init__(self) -> None:
        self.restarts = Restarts(self.policy)

    @property
    def name(self) -> str:
        """The name it is addressed by."""
        return self.spec.name

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        return self.identity.pid if self.identity else None

    @property
    def lacks_files(self) -> bool:
        """Whether all it waits for are files."""
        return self.state is ChildState.WAITING and self._looked

    @property
    def good(self) -> bool:
        """Whether it does what it is for, or has done it."""
        return self.state in (ChildState.READY, ChildState.DONE)

    async def run(self) -> None:
        """Keep it running until cancelled, or until it has done its one thing; then end it in good order."""
        try:
            while True:
                await self._wait_for_files()
                began = time.monotonic()
                ended_well = await self._run_once() == 0
                if self.spec.once and ended_well:
                    self.was_ready.set()
                    self._become(ChildState.DONE)
                    return
                if not self.was_ready.is_set():
                    self.starts_failed += 1
                pause = self.restarts.pause_after(time.monotonic() - began)
                _log.info("%s %s; it is started again in %.1f s", self.name, self.last_end, pause)
                self._become(ChildState.ENDED)
                await trio.sleep(pause)
        finally:
            if self.state is not ChildState.DONE:
                self._become(ChildState.STOPPED)

    def kill(self) -> int:
        """SIGKILL it. Returns the pid it had. :raises UnavailableError: ``not_running``."""
        if self._descriptor is None or self.identity is None:
            raise UnavailableError(Reason.NOT_RUNNING, f"{self.name} does not run right now; it is started again soon")
        signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
        return self.identity.pid

    async def _wait_for_files(self) -> None:
        files = (*self.spec.needs, *self.spec.follows)
        if None in _versions(files):
            self._looked = True
            self._become(ChildState.WAITING)
            while None in _versions(files):  # noqa: ASYNC110 - a file tells nobody that it is there
                await trio.sleep(_PROBE_PAUSE)

    async def _run_once(self) -> int:
        """Start it and wait for its end; its exit code."""
        self._clear_volatile()
        read = _versions(self.spec.follows)
        process = self._spawn()
        descriptor = self._descriptor = os.pidfd_open(process.pid)
        self.identity = ProcessIdentity.of(process.pid)
        self._become(ChildState.STARTING)
        try:
            async with trio.open_nursery() as nursery:
                if not self.spec.once:
                    nursery.start_soon(self._attend, process.pid, descriptor, read)
                await trio.lowlevel.wait_readable(descriptor)
                nursery.cancel_scope.cancel()
        finally:
            if process.poll() is None:
                with trio.CancelScope(shield=True):
                    await self._stop(descriptor)
            self.last_end = describe_end(process.wait())  # it has ended: this only collects it
            os.close(descriptor)
            self.identity = self._descriptor = None
            self._clear_volatile()
        return process.returncode

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start it from this very thread: the kernel ties its life to the thread that made it."""
        log = self.spec.log
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_name(log.name + ".1"))
        with log.open("ab") as output:
            return subprocess.Popen(
                [*tethered(), *self.spec.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.spec.env,
                cwd=self.spec.cwd,
                process_group=0,  # a Ctrl-C at the terminal is the supervisor's to hear
            )

    async def _attend(self, pid: int, descriptor: int, read: list[_Version]) -> None:
        """See it become ready; then tell it whenever a file it follows is another than the one it has read."""
        await self._probe(pid)
        while self.spec.follows:
            there = _versions(self.spec.follows)
            if None not in there and there != read:
                signal.pidfd_send_signal(descriptor, signal.SIGHUP)
                read = there
                self.reloads += 1
                _log.info("%s reads its files again", self.name)
            await trio.sleep(_FOLLOW_PAUSE)

    async def _probe(self, pid: int) -> None:
        pause = _PROBE_PAUSE
        while not await self.spec.ready(pid):
            await trio.sleep(pause)
            pause = min(pause * 1.2, 0.5)
        self.was_ready.set()
        self._become(ChildState.READY)

    @staticmethod
    async def _stop(descriptor: int) -> None:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        with trio.move_on_after(STOP_GRACE):
            await trio.lowlevel.wait_readable(descriptor)
            return
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        await trio.lowlevel.wait_readable(descriptor)

    def _become(self, state: ChildState) -> None:
        self.state, self.since = state, time.time()
        self.changed()

    def _clear_volatile(self) -> None:
        for path in self.spec.volatile:
            path.unlink(missing_ok=True)


def _versions(paths: Sequence[Path]) -> list[_Version]:
    """What tells one version of a file from another, for each; ``None`` where there is none."""
    return [_version(path) for path in paths]


def _version(path: Path) -> _Version:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def tethered() -> list[str]:
    """What stands before a command, so that the kernel kills it when this process ends, however that ends.

    The kernel means the *thread* that made the child, so children must be made by a thread that lives as long as they.
    """
    return [sys.executable, "-I", "-S", tether.__file__, str(os.getpid())]


def describe_end(returncode: int) -> str:
    """How a process ended, for people."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
