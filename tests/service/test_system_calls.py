# SPDX-License-Identifier: Apache-2.0
"""Our programs do with the system calls that their sandbox leaves them (HRD-SBX-013), watched in their own tests."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.service.test_written_memory import PROGRAMS
from tools.image.hardening.data import Area, controls
from tools.image.hardening.sandbox import units_of

FindTool = Callable[[str], str]
# What runs beside our programs in their tests: pytest, and the software TPM, which shuts itself in. ``setfsuid`` is the
# debugger that pytest has ready: its line editor looks up the terminal (ncurses).
NOT_OURS = {"seccomp", "setfsuid", "setpriority", "sched_setaffinity", "unshare", "setns"}


@cache
def calls(name: str) -> frozenset[str]:
    """The system calls of a group, as systemd has them; of another name, that one."""
    if not name.startswith("@"):
        return frozenset({name})
    listing = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout
    words = (line.strip() for line in listing.splitlines()[1:])
    return frozenset[str]().union(*(calls(word) for word in words if word and not word.startswith("#")))


def allowed() -> frozenset[str]:
    """Those that every unit of ours may use."""
    left = calls("@default")
    for control in controls(Area.SANDBOX):
        for line in control.value.splitlines():
            name, _, value = line.partition("=")
            if name != "SystemCallFilter" or "bsfg-usb.service" not in units_of(control) or "@module" in value:
                continue
            found = frozenset[str]().union(*(calls(word) for word in value.removeprefix("~").split()))
            left = left - found if value.startswith("~") else left | found
    return left


def test_the_filter_is_one(find_tool: FindTool) -> None:
    """It leaves pipes and sockets, and takes what nobody needs."""
    find_tool("systemd-analyze")
    assert {"read", "pipe2", "socket", "execve", "futex"} <= allowed()
    assert allowed().isdisjoint(
        {"ptrace", "mount", "init_module", "bpf", "keyctl", "io_uring_setup", "chown", "shmget"}
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_our_programs_do_with_what_is_left(root: Path, tmp_path: Path, program: str, find_tool: FindTool) -> None:
    """Every call of a run is one that the sandbox allows; one that fails because it is not there counts too."""
    find_tool("systemd-analyze")
    table = tmp_path / "calls"
    command = [find_tool("strace"), "-f", "-qq", "-c", "-U", "name", "-o", str(table)]
    command += [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", program]
    outcome = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert not outcome.returncode, outcome.stdout[-3000:]
    used = set(re.findall(r"^([a-z]\w+)$", table.read_text("utf-8"), re.MULTILINE)) - {"syscall", "total"}
    assert "execve" in used
    assert used - allowed() - NOT_OURS == set()
