# SPDX-License-Identifier: Apache-2.0
"""The watchdog: looks, judges, and lets the box speak or not.

Each round of the main loop judges the age of what was seen and gives the lease's thread its permit for three seconds.
systemd is told that it lives only while both the loop and that thread come round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import trio

from appliance.factlog.notify import ServiceManager
from appliance.node.documents import problem, write_status
from appliance.watchdog.gate import Gate, Verdict
from appliance.watchdog.lease import EgressLease, Renewal
from appliance.watchdog.looking import Look

NAME: Final = "watchdog"
ROUND_S: Final = 1.0
LOOK_EVERY_S: Final = 1.0

_log = logging.getLogger(__name__)


class State(StrEnum):
    """What the watchdog does, for people."""

    CHECKING = "checking"
    """The box has not spoken since this watchdog began; something is not proven yet."""
    OPEN = "open"
    CLOSED = "closed"
    """It has spoken before, and may not now."""


class Watchdog:
    """The one process that opens the uplink. :param looks: who looks at what."""

    def __init__(
        self,
        lease: EgressLease,
        looks: Sequence[Look],
        status_dir: Path,
        gate: Gate | None = None,
        manager: ServiceManager | None = None,
    ) -> None:
        self.gate = gate or Gate()
        self.renewal = Renewal(lease)
        self.state = State.CHECKING
        self._since_unix_ms = _wall_ms()
        self._looks = looks
        self._status_dir = status_dir
        self._manager = manager or ServiceManager()
        self._verdict = Verdict(False)

    async def run(self) -> None:
        """Run until cancelled; then the uplink is closed."""
        self.renewal.start()
        try:
            async with trio.open_nursery() as nursery:
                for look in self._looks:
                    nursery.start_soon(self._look, look)
                while True:
                    self.round()
                    await trio.to_thread.run_sync(self._report)
                    await trio.sleep(ROUND_S)
        finally:
            self.renewal.permit.take_back()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.renewal.stop)
            self._manager.stopping()

    async def _look(self, look: Look) -> None:
        while True:
            for finding in await look.look():
                self.gate.saw(finding, time.monotonic())
            await trio.sleep(LOOK_EVERY_S)

    def round(self) -> None:
        """Judge, and hand on what follows."""
        now = time.monotonic()
        self._verdict = self.gate.judge(now)
        if self._verdict.open:
            self.renewal.permit.give(now)
        else:
            self.renewal.permit.take_back()
            self.renewal.look_now()
        self._note(self._next())
        if self.renewal.alive(now):
            self._manager.alive(ready=True, text=self._text())

    def _next(self) -> State:
        if self._verdict.open and self.renewal.is_open:
            return State.OPEN
        return State.CHECKING if self.state is State.CHECKING else State.CLOSED

    def _note(self, state: State) -> None:
        if state is self.state:
            return
        self.state, self._since_unix_ms = state, _wall_ms()
        level = logging.INFO if state is State.OPEN else logging.WARNING
        _log.log(level, "the uplink is %s", self._text())

    def _text(self) -> str:
        missing = ", ".join(f"{each.proof}: {each.detail or each.reason}" for each in self._verdict.missing)
        return f"{self.state}; {missing}" if missing else str(self.state)

    def _report(self) -> None:
        problems = [problem(each.reason, each.detail, each.proof) for each in self._verdict.missing]
        if self.renewal.problem:
            reason, _, detail = self.renewal.problem.partition(": ")
            problems.append(problem(reason, detail, "lease"))
        values = {"state": self.state, "since_unix_ms": self._since_unix_ms, "problems": problems}
        write_status(self._status_dir, NAME, values)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
