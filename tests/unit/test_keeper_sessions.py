# SPDX-License-Identifier: Apache-2.0
"""When sessions are renewed, through simulated days; and how their file is written."""

from __future__ import annotations

import itertools
import os
import random
import stat
from pathlib import Path

import pytest

from appliance.keys.keeper.sessions import FIRST_PAUSE_S, LONGEST_PAUSE_S, RenewalSchedule, in_memory, write_session

VALIDITY_S = 600.0
DAY_S = 86400


def live(schedule: RenewalSchedule, seconds: int, start: float = 1e9, *, down: range = range(0)) -> list[float]:
    """Look once a second; issue when due, fail while the TPM is down. When certificates were issued."""
    issued = []
    for second in range(seconds):
        now = start + second
        if schedule.due(now):
            if second in down:
                schedule.failed(now)
            else:
                schedule.issued(now, now + VALIDITY_S)
                issued.append(now)
        assert down or schedule.ends_at - now >= 0.44 * VALIDITY_S
    return issued


def test_a_day_has_288_renewals() -> None:
    """At about half of each life; not all at the same moment."""
    even = live(RenewalSchedule(lambda: 0.5), DAY_S)
    assert len(even) == 288
    schedule = RenewalSchedule(random.Random(7).random)
    issued = live(schedule, DAY_S)
    assert abs(len(issued) - 288) <= 3
    pauses = [later - earlier for earlier, later in itertools.pairwise(issued)]
    assert 270 <= min(pauses) < 290
    assert 310 < max(pauses) <= 331


def test_a_tpm_that_is_away_is_asked_with_growing_pauses_and_then_at_once() -> None:
    """Four minutes of absence cost no certificate: it is renewed early enough."""
    schedule = RenewalSchedule(lambda: 0.5)
    attempts = 0
    failed = schedule.failed

    def counted(now: float) -> None:
        nonlocal attempts
        attempts += 1
        failed(now)

    schedule.failed = counted  # type: ignore[method-assign]
    issued = live(schedule, 1200, down=range(290, 540))
    assert attempts in range(8, 20)
    assert 540 <= issued[1] - 1e9 <= 540 + LONGEST_PAUSE_S
    schedule.failed = failed  # type: ignore[method-assign]
    schedule.failed(now := 2e9)
    assert not schedule.due(now)
    assert schedule.due(now + FIRST_PAUSE_S)
    schedule.retry()
    assert schedule.due(now)


def test_a_step_of_the_clock_makes_a_new_certificate() -> None:
    """Forward past the half of its life, and backward to before it; a small step back does not."""
    schedule = RenewalSchedule(lambda: 0.5)
    schedule.issued(1e9, 1e9 + VALIDITY_S)
    assert not schedule.due(1e9 + 299)
    assert schedule.due(1e9 + 3e8)
    assert not schedule.due(1e9 - 30)
    assert schedule.good(1e9 - 30)
    assert schedule.due(1e9 - 3e8)
    assert not schedule.good(1e9 - 3e8)
    assert not schedule.good(1e9 + VALIDITY_S)
    schedule.forget()
    assert schedule.due(1e9)
    assert not schedule.good(1e9)


def test_a_short_certificate_is_renewed_at_its_own_half() -> None:
    """As when the device CA is about to end."""
    schedule = RenewalSchedule(lambda: 0.5)
    schedule.issued(1e9, 1e9 + 60)
    assert not schedule.due(1e9 + 29)
    assert schedule.due(1e9 + 30)


def test_a_session_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    """A reader that has it open keeps the old one; nothing is left over, also not after a failure."""
    path = tmp_path / "agent.pem"
    write_session(path, b"old", None)
    with path.open("rb") as reader:
        write_session(path, b"new", None)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_session(path, b"for a group", os.getgid())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(OSError, match="gone"):
        write_session(tmp_path / "gone" / "agent.pem", b"", None)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write_session(path, b"", None)
    assert list(tmp_path.iterdir()) == [path]


def test_a_tmpfs_is_told_from_a_disk(tmp_path: Path) -> None:
    """By the mount that the folder is on."""
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    disk = f"36 35 {number} / / rw,noatime master:1 - ext4 /dev/root rw\n"
    memory = f"37 35 {number} / / rw shared:2 master:3 - tmpfs tmpfs rw,size=4k\n"
    other = "38 35 0:999999 / /run rw - tmpfs tmpfs rw\n"
    assert not in_memory(tmp_path, disk + other)
    assert in_memory(tmp_path, other + memory)
    assert not in_memory(tmp_path, "")
    assert in_memory(Path("/dev/shm"), Path("/proc/self/mountinfo").read_text("utf-8"))  # noqa: S108 - only looked at
