# SPDX-License-Identifier: Apache-2.0
"""A process is known by pid and start time, so that a pid that is used again is never mistaken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from appliance.dev.pids import ProcessIdentity


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def identity_of(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    """The identity of a process that runs."""
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None
    return identity


def test_a_process_is_alive_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    """A zombie that awaits its parent counts as ended."""
    identity = identity_of(sleeper)
    assert identity.alive
    assert identity.signal(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert ProcessIdentity.of(sleeper.pid) is None
    assert not identity.signal(signal.SIGTERM)
    assert not identity.end(grace=1)


def test_another_process_with_the_same_pid_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    """What was written down before a pid was used again, or before a reboot, reaches nobody."""
    identity = identity_of(sleeper)
    for stale in (replace(identity, started=identity.started - 1), replace(identity, boot="another boot")):
        assert not stale.alive
        assert not stale.signal(signal.SIGKILL)
        assert not stale.end(grace=0)
    assert identity.alive


def test_ending_is_asked_for_first(sleeper: subprocess.Popen[bytes]) -> None:
    """SIGTERM is enough for most, even when they are stopped."""
    identity = identity_of(sleeper)
    os.kill(sleeper.pid, signal.SIGSTOP)
    assert identity.end(grace=10)
    assert sleeper.wait(10) == -signal.SIGTERM


def test_ending_is_forced_in_the_end() -> None:
    """Who ignores SIGTERM is killed after the grace."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert identity_of(process).end(grace=0.2)
        assert process.wait(10) == -signal.SIGKILL
