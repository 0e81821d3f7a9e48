# SPDX-License-Identifier: Apache-2.0
"""Which process a pid stands for: a pid alone is reused, a pid with its start time is not.

Signals go through a pidfd that is checked against the start time after it was opened, so that they reach the process
that is meant or nobody.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME_FIELD: Final = 22 - 3
"""Of ``/proc/PID/stat``, counted behind the command name, which may hold anything."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one boot: ``started`` in clock ticks since boot, as in ``/proc/PID/stat``."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has this pid now; ``None`` when none has, or when it has ended and awaits its parent."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        fields = stat.rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return cls(pid, int(fields[_START_TIME_FIELD]), _BOOT_ID.read_text("ascii").strip())

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        return ProcessIdentity.of(self.pid) == self

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; ``False`` when the process is gone."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def end(self, grace: float) -> bool:
        """Ask it to end, kill it after ``grace`` seconds, wait until it is gone; ``False`` when it was gone before."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # a stopped process hears SIGTERM only when it goes on
            if not _ended(descriptor, grace):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _ended(descriptor, grace=10)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)
        return True

    def _open(self) -> int | None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if not self.alive:  # asked after opening: the descriptor cannot change hands any more
            os.close(descriptor)
            return None
        return descriptor


def _ended(descriptor: int, grace: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(grace, 0) * 1000))


def wait_until_gone(identity: ProcessIdentity, timeout: float) -> bool:
    """Wait for a process that is not our child; ``False`` when it still runs after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while identity.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
