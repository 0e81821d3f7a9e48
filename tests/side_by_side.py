# SPDX-License-Identifier: Apache-2.0
"""Files of tests side by side (``pytest --numprocesses``): a network for each worker, and a report for people.

Tests take ports that are free and listen on them a moment later; brokers are ended and start on the same port again.
Two workers in one network would now and then take a port from each other, so each has a loopback of its own. That needs
root; anybody else's workers share the network of the machine.

A test that failed is named at once. When a file is done, one line says how many tests it has and how long they took.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pytest

CLONE_NEWNET: Final = 0x40000000
_FIRST: Final = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
"""Of the network that the run was started in: this module is read before a worker leaves it."""


def leave_network() -> None:
    """Give the calling thread, and what it starts from now on, a new network. :raises OSError: not allowed."""
    _ask("unshare", CLONE_NEWNET)


@contextmanager
def first_network() -> Iterator[None]:
    """Put the calling thread into the network that the run was started in: some things the kernel tells only there."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.sameopenfile(here, _FIRST):
            yield
            return
        _enter(_FIRST)
        try:
            yield
        finally:
            _enter(here)
    finally:
        os.close(here)


def _enter(network: int) -> None:
    _ask("setns", network, CLONE_NEWNET)


def _ask(call: str, *values: int) -> None:
    import ctypes  # late: few need it, and this module is read in every run

    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, call)(*values):
        raise OSError(ctypes.get_errno(), call)


class FilesDone:
    """Tells of each file when its last test is over, instead of a dot for each test."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._left: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """All workers have found the same tests."""
        if not self._tests:
            self._tests = Counter(_file(each) for each in ids)
            self._left = Counter(self._tests)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, tuple[str, str, object], tuple[str, str, object]]:
        """As pytest says it, without the letter."""
        category, _, word = yield
        return category, "", word

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell at once of a test that failed, and of a file that is done."""
        file = _file(report.nodeid)
        self._seconds[file] += report.duration
        if report.failed:
            self._tell(f"failed in its {report.when}: {report.nodeid}", red=True)
        if report.when in ("setup", "call"):  # else it is over, or its worker crashed in it
            return
        self._left[file] -= 1
        if not self._left[file]:
            percent = 100 - 100 * sum(self._left.values()) // max(1, sum(self._tests.values()))
            self._tell(f"[{percent:3}%] {self._seconds[file]:6.1f} s {self._tests[file]:4} tests  {file}")

    def _tell(self, line: str, **markup: bool) -> None:
        self._terminal.ensure_newline()
        self._terminal.write_line(line, **markup)
        self._terminal.flush()


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """A worker leaves the network; who hands out the files tells of them."""
    if hasattr(config, "workerinput"):
        if os.geteuid() == 0:
            leave_network()
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
    if getattr(config.option, "numprocesses", None) and terminal is not None and config.option.verbose == 0:
        config.pluginmanager.register(FilesDone(terminal), "files-done")
