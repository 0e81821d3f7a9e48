# SPDX-License-Identifier: Apache-2.0
"""Network namespaces for tests: a network of the test's own, with the kernel's real firewall, gone with the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.conftest import IN_CI
from tests.processes import running
from tests.side_by_side import leave_network

T = TypeVar("T")
_OWN: Final = Path("/proc/self/ns/net")


def needed() -> None:
    """Skip where there can be none; a failure in CI, which must run everything."""
    missing = [program for program in ("nft", "ip", "unshare", "nsenter") if shutil.which(program) is None]
    why = f"{', '.join(missing)} missing" if missing else "needs root" if os.geteuid() else ""
    if why and IN_CI:
        pytest.fail(f"network namespaces: {why}")
    if why:
        pytest.skip(f"network namespaces: {why}")


class Namespace:
    """A namespace that a process of its own holds. :param holder: its pid."""

    def __init__(self, holder: int) -> None:
        self._holder = holder

    def command(self, *words: str | Path) -> list[str]:
        """A command line that runs in it."""
        return ["nsenter", f"--net=/proc/{self._holder}/ns/net", "--", *map(str, words)]

    def run(self, *words: str | Path, given: str | None = None) -> str:
        """Run a program in it; what it says. :raises AssertionError: it fails."""
        done = subprocess.run(
            self.command(*words), input=given, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def nft(self, text: str) -> str:
        """Load rules, or list what there is."""
        return self.run("nft", "-f", "-", given=text)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A new one, with loopback up."""
    needed()
    with running(["unshare", "--net", sys.executable, "-c", "import time; time.sleep(600)"], limit_s=600) as holder:
        theirs = Path(f"/proc/{holder.pid}/ns/net")
        end = time.monotonic() + 10
        while theirs.readlink() == _OWN.readlink():
            assert time.monotonic() < end, "no namespace"
            time.sleep(0.01)
        made = Namespace(holder.pid)
        made.run("ip", "link", "set", "lo", "up")
        yield made


@contextmanager
def own_thread() -> Iterator[Callable[[Callable[[], T]], T]]:
    """Runs what it is given in one thread that has a network of its own."""
    needed()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(leave_network).result()
        yield lambda work: pool.submit(work).result()
