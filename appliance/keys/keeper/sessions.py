# SPDX-License-Identifier: Apache-2.0
"""When a session certificate is renewed, and how its file is written.

The schedule is sans-I/O: it is told what time it is. It renews at about half of a certificate's life, not at the same
moment as all other boxes; an attempt that failed is repeated after growing pauses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from appliance.keys.certificates import SESSION_VALIDITY
from appliance.keys.files import GROUP, PRIVATE, replace_file

JITTER: Final = 0.05
"""Of the validity, to both sides of its half."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
"""Between attempts that fail."""
CLOCK_STEP_S: Final = 60.0
"""Boundary time that goes back behind a certificate's issue by more than this makes a new one."""


class RenewalSchedule:
    """When one session is due. Times are boundary time, seconds.

    :param random: a number from 0 to 1.
    """

    def __init__(self, random: Callable[[], float], validity_s: float = SESSION_VALIDITY.total_seconds()) -> None:
        self._random = random
        self._validity_s = validity_s
        self._issued_at: float | None = None
        self._renew_at = -float("inf")
        self._pause_s = 0.0
        self._not_before = -float("inf")
        self.ends_at = -float("inf")
        """When the present certificate ends."""

    def due(self, now: float) -> bool:
        """Whether to issue one now."""
        if self._issued_at is not None and now < self._issued_at - CLOCK_STEP_S:
            return True
        return now >= max(self._renew_at, self._not_before)

    def good(self, now: float) -> bool:
        """Whether the present certificate is one to hand out still."""
        return self._issued_at is not None and self._issued_at - CLOCK_STEP_S <= now < self.ends_at

    def issued(self, now: float, ends_at: float) -> None:
        """A certificate was issued."""
        self._issued_at, self.ends_at = now, ends_at
        self._pause_s, self._not_before = 0.0, -float("inf")
        spread = (2 * self._random() - 1) * JITTER
        self._renew_at = now + (0.5 + spread) * min(self._validity_s, ends_at - now)

    def failed(self, now: float) -> None:
        """An attempt failed."""
        self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._not_before = now + self._pause_s

    def retry(self) -> None:
        """What made attempts fail is over: the next may come at once."""
        self._pause_s, self._not_before = 0.0, -float("inf")

    def forget(self) -> None:
        """The present certificate is gone."""
        self._issued_at, self._renew_at, self.ends_at = None, -float("inf"), -float("inf")


def in_memory(folder: Path, mounts: str) -> bool:
    """Whether a folder is in a tmpfs. :param mounts: the text of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5))."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = (line.split() for line in mounts.splitlines())
    return any(parts[2] == number and parts[parts.index("-") + 1] in {"tmpfs", "ramfs"} for parts in lines)


def write_session(path: Path, pem: bytes, group: int | None) -> None:
    """Replace a session's file whole; only its group may read it beside the keeper, and with no group nobody.

    It lies in a tmpfs: nothing is to survive a power cut, so nothing is forced to a disk. :raises OSError: as it says.
    """
    replace_file(path, pem, PRIVATE if group is None else GROUP, group)
