# SPDX-License-Identifier: Apache-2.0
"""Processes of tests, none of which outlives its test or is waited for without end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

import appliance
from tests.conftest import IN_CI

SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
LIMIT_S: Final = 120.0
"""How long a process may take that was not given another limit."""
_COLLECT_S: Final = 10.0


@contextmanager
def running(
    command: Sequence[str | Path], *, limit_s: float = LIMIT_S, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """A process, killed with all that it started at the end of the block, however that ends, and after ``limit_s``.

    Then its pipes end, and so does whoever reads from them. ``with Popen(…)`` alone waits for ever for a process that
    nobody ended because an assertion failed.

    :raises AssertionError: it took too long.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        with process:
            try:
                yield process
            finally:
                _kill(process)
    finally:
        timer.cancel()
        timer.join()
        if late.is_set():
            raise AssertionError(f"{command[0]} … {command[-1]} was not done within {limit_s:g} s")


def run(
    command: Sequence[str | Path], *, limit_s: float = LIMIT_S, text_in: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. ``subprocess.run`` with a timeout waits on for whatever still holds the pipes.

    :raises AssertionError: it took too long; with what it said until then.
    """
    stdin = subprocess.DEVNULL if text_in is None else subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
    with process:
        try:
            out, err = process.communicate(text_in, limit_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_COLLECT_S)
            raise AssertionError(f"{command[0]} … {command[-1]} was not done within {limit_s:g} s") from None
        except BaseException:
            _kill(process)
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def _kill(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def interpreter() -> tuple[list[str], dict[str, str]]:
    """A Python that every user can run, and where it finds our packages; skipped where users cannot reach those."""
    own = Path(sys.executable).resolve()
    checkout = Path(appliance.__file__).resolve().parent.parent
    closed = [str(folder) for folder in (checkout, *checkout.parents) if not folder.stat().st_mode & 0o001]
    if closed:
        (pytest.fail if IN_CI else pytest.skip)(
            f"other users cannot reach the checkout: {closed[-1]} is closed to them"
        )
    reachable = all(parent.stat().st_mode & 0o001 for parent in own.parents)
    paths = os.pathsep.join(
        [str(Path(appliance.__file__).parent.parent), *(p for p in sys.path if "site-packages" in p)]
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths}
    if reachable:
        return [sys.executable], environment
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = subprocess.run([SYSTEM_PYTHON, "--version"], capture_output=True, text=True, check=False)
    if version not in found.stdout:
        pytest.skip(f"{own} is closed to other users, and {SYSTEM_PYTHON} is another version")
    return [str(SYSTEM_PYTHON)], environment
