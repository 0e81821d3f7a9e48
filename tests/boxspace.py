# SPDX-License-Identifier: Apache-2.0
"""A box of namespaces: mounts, processes and ``/proc`` of its own, in which tests tamper for real and unseen.

Control groups with the names of units are real too, in the kernel's one tree, below a folder of this process.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from appliance.watchdog.probes.places import Places
from tests.conftest import IN_CI
from tests.processes import running

_TREES: Final = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


class BoxSpace:
    """The namespaces of a process. :param holder: that process, seen from outside."""

    def __init__(self, holder: int) -> None:
        self.holder = holder
        self.root = Path(f"/proc/{holder}/root")
        self.places = Places(proc=self.root / "proc")

    def run(self, *words: str | Path) -> str:
        """Run a program in it; what it says. :raises AssertionError: it fails."""
        done = subprocess.run(self._enter(words), capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    @contextmanager
    def process(
        self, *words: str | Path, unit: str = "", runs: str = "", standard_input: int | None = None
    ) -> Iterator[int]:
        """A program that runs in it; its number outside.

        :param unit: the control group it is in. :param runs: the program that comes out at the end, if it is another.
        """
        with _group(unit) as group:
            script = "import os, sys\n"
            if group is not None:
                script += f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            script += "os.execvp(sys.argv[1], sys.argv[1:])\n"
            # nsenter forks for the new process namespace; what it starts joins its group first, from outside
            command = [sys.executable, "-c", script, *self._enter(words)]
            with running(command, limit_s=600, stdin=standard_input) as started:
                pid = _child_of(started.pid, runs or str(words[0]))
                try:
                    yield pid
                finally:  # it may have left the session that is ended below
                    _end(pid)

    def _enter(self, words: tuple[str | Path, ...]) -> list[str]:
        return ["nsenter", f"--target={self.holder}", "--mount", "--pid", "--", *map(str, words)]


@contextmanager
def boxspace(limit_s: float = 600) -> Iterator[BoxSpace]:
    """A new one."""
    missing = [program for program in ("unshare", "nsenter", "mount", "setpriv") if shutil.which(program) is None]
    why = f"{', '.join(missing)} missing" if missing else "needs root" if os.geteuid() else ""
    if why and IN_CI:
        pytest.fail(f"namespaces: {why}")
    if why:
        pytest.skip(f"namespaces: {why}")
    command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with running([*command, "sleep", str(limit_s)], limit_s=limit_s) as outer:
        yield BoxSpace(_child_of(outer.pid, "sleep"))


@contextmanager
def loop_device(backing: Path) -> Iterator[Path]:
    """A real block device on a file."""
    made = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)


@contextmanager
def _group(unit: str) -> Iterator[Path | None]:
    if not unit:
        yield None
        return
    tree = next((each for each in _TREES if (each / "cgroup.controllers").exists()), None)
    if tree is None:
        pytest.skip("no tree of control groups (cgroup2)")
    above = tree / f"bsfg-test-{os.getpid()}"
    group = above / unit
    group.mkdir(parents=True, exist_ok=True)
    try:
        yield group
    finally:
        for each in (group, above):
            _remove(each)


def _remove(group: Path) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            group.rmdir()
        except OSError:
            if not group.is_dir() or any(each.is_dir() for each in group.iterdir()) or _others(group):
                return  # somebody else's still
            time.sleep(0.01)
        else:
            return


def _end(pid: int) -> None:
    """Kill a process that may not be a child of this one, and wait until it is gone."""
    with suppress(ProcessLookupError):
        waiting = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([waiting], [], [], 10)[0], f"{pid} does not end"
        finally:
            os.close(waiting)


def _others(group: Path) -> bool:
    """Whether processes are in a group that are not about to end."""
    for pid in (group / "cgroup.procs").read_text("ascii").split():
        with suppress(OSError):
            if "State:\tZ" not in Path(f"/proc/{pid}/status").read_text("ascii"):
                return True
    return False


def _child_of(parent: int, program: str) -> int:
    """The process that runs in the new namespace, once it runs that program."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        pid = parent
        for _ in range(4):
            try:
                if _runs(pid, program):
                    return pid
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
            except OSError:
                break
            if not children:
                break
            pid = int(children[0])
        time.sleep(0.005)
    raise AssertionError(f"{program} does not run")


def _runs(pid: int, program: str) -> bool:
    word = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    inside = os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    return inside and Path(os.fsdecode(word)).name == Path(program).name
