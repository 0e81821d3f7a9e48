# SPDX-License-Identifier: Apache-2.0
"""A hanging test fails and shows where, whatever it waits in; the tests behind it still run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HANGING = """
import asyncio, socket, subprocess, sys, threading, time
import pytest, trio

pytestmark = pytest.mark.time_limit(0.4)

@pytest.fixture
def stuck():
    time.sleep(60)

@pytest.fixture
def never_ends():
    yield
    threading.Event().wait()

def test_python():
    while True:
        pass

def test_system_call():
    one, other = socket.socketpair()
    with one, other:
        one.recv(1)

def test_process():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=False)

def test_thread():
    event = threading.Event()
    thread = threading.Thread(target=event.wait, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        event.set()

async def test_trio():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)

def test_trio_in_a_thread():
    trio.run(trio.to_thread.run_sync, lambda: time.sleep(2))

def test_asyncio():
    asyncio.run(asyncio.sleep(60))

def test_fixture(stuck):
    pass

def test_end_of_a_fixture(never_ends):
    pass

def test_catches_it():
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass

def test_quick():
    time.sleep(0.01)

@pytest.mark.time_limit(5)
def test_patient():
    time.sleep(0.6)

async def test_quick_trio():
    await trio.sleep(0.01)

def test_fails_by_itself():
    assert 1 == 2
"""
STUCK = ["python", "system_call", "process", "thread", "trio", "trio_in_a_thread", "asyncio", "catches_it"]


@pytest.fixture(scope="module")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of a file of hanging tests."""
    folder = tmp_path_factory.mktemp("hanging")
    (folder / "test_hanging.py").write_text(HANGING, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.guard", "-p", "no:cacheprovider", "-rA", str(folder)]
    outcome = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return outcome.stdout + outcome.stderr


@pytest.mark.parametrize("name", STUCK)
def test_whatever_it_waits_in(report: str, name: str) -> None:
    """It fails within its limit."""
    assert f"FAILED test_hanging.py::test_{name} - Failed: the test was not done within 0.4 s" in report


def test_fixtures_too(report: str) -> None:
    """Their beginning and their end."""
    assert "ERROR test_hanging.py::test_fixture - Failed: setup was not done within 0.4 s" in report
    assert "ERROR test_hanging.py::test_end_of_a_fixture - Failed: teardown was not done within 0.4 s" in report


def test_others_are_left_alone(report: str) -> None:
    """Those that are quick enough, or have a limit of their own, or fail by themselves."""
    for name in ("quick", "patient", "quick_trio", "end_of_a_fixture"):
        assert f"PASSED test_hanging.py::test_{name}\n" in report
    assert "FAILED test_hanging.py::test_fails_by_itself - assert 1 == 2" in report
    assert f"{len(STUCK) + 1} failed, 4 passed, 2 errors" in report


def test_it_shows_where(report: str) -> None:
    """The stack of the main thread with the line that waits, and of the others."""
    assert "in test_python" in report
    assert "Thread 0x" in report
