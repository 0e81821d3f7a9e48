# SPDX-License-Identifier: Apache-2.0
"""The watchdog: looks, judges, and lets the box speak or not; and puts it into quarantine.

Each round of the main loop judges the age of what was seen and gives the lease's thread its permit for three seconds.
systemd is told that it lives only while both the loop and that thread come round. A reading that quarantines does not
wait for a round: the uplink is cut in the task that has heard of it, before anything else is done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.factlog.notify import ServiceManager
from appliance.keys.tpm.public import Digest
from appliance.node.documents import write_status
from appliance.watchdog.assessing import Assessor
from appliance.watchdog.gate import Verdict
from appliance.watchdog.lease import Blackout, EgressLease, Renewal
from appliance.watchdog.looking import Look
from appliance.watchdog.probing import DETAIL_LENGTH, AsyncProbe, Reading, Seen, asked
from appliance.watchdog.quarantine.resuming import DOUBT
from appliance.watchdog.quarantine.runner import Quarantine
from appliance.watchdog.quarantine.states import Darkness
from appliance.watchdog.reporting import DARK_STATES, State, note_values, problems_of, quarantine_values
from appliance.watchdog.suspicions import Code, ProbeName

NAME: Final = "watchdog"
ROUND_S: Final = 1.0
LOOK_EVERY_S: Final = 1.0

_log = logging.getLogger(__name__)


class Watchdog:
    """The one process that opens the uplink, and darkens it.

    :param lease, blackout: for the lease's thread alone; quarantine has its own.
    :param looks: who looks at what the gate wants proven. :param probes: those of this process.
    :param request: by the evidence's digest, the request for release as a text; empty: there is none yet.
    """

    def __init__(
        self,
        lease: EgressLease,
        blackout: Blackout,
        quarantine: Quarantine,
        looks: Sequence[Look],
        status_dir: Path,
        assessor: Assessor | None = None,
        probes: Sequence[AsyncProbe] = (),
        manager: ServiceManager | None = None,
        request: Callable[[Digest | None], str] = lambda _: "",
    ) -> None:
        self.assessor = assessor or Assessor()
        self.quarantine = quarantine
        self.renewal = Renewal(lease, blackout)
        self.state = State.CHECKING
        self._since_unix_ms = _wall_ms()
        self._looks, self._probes, self._request = looks, probes, request
        self._status_dir = status_dir
        self._manager = manager or ServiceManager()
        self._verdict = Verdict(False)

    def begin(self) -> None:
        """Before anything else: dark, if this box is in quarantine. Blocking."""
        self.quarantine.resume()
        self._darken()

    async def run(self, sensor: AsyncIterable[Reading] | None = None) -> None:
        """Run until cancelled; then the uplink is closed, or stays dark. :param sensor: what it says."""
        self.renewal.start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.quarantine.run)
                if sensor is not None:
                    nursery.start_soon(self._hear, sensor)
                for look in self._looks:
                    nursery.start_soon(self._look, look)
                for probe in self._probes:
                    nursery.start_soon(self._ask, probe)
                while True:
                    self.round()
                    await self.report()
                    await trio.sleep(ROUND_S)
        finally:
            self.renewal.permit.take_back()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.renewal.stop)
            self._manager.stopping()

    # -- what is seen --------------------------------------------------------------------------------------------------

    async def _look(self, look: Look) -> None:
        while True:
            for finding in await look.look():
                self.assessor.gate.saw(finding, time.monotonic())
            await trio.sleep(LOOK_EVERY_S)

    async def _ask(self, probe: AsyncProbe) -> None:
        while True:
            self.take(await asked(probe))
            await trio.sleep(probe.period_s)

    async def _hear(self, sensor: AsyncIterable[Reading]) -> None:
        async for reading in sensor:
            if reading.probe is ProbeName.OPERATOR:
                _log.warning("the sensor speaks as an operator; not heard")
                continue
            self.assessor.heard(time.monotonic())
            self.take(reading)

    def take(self, reading: Reading) -> None:
        """A probe has seen something. If it quarantines, the uplink is dark when this returns."""
        trigger = self.assessor.take(reading, time.monotonic())
        if trigger is not None:
            self._enter(trigger.seen)

    async def took(self, reading: Reading) -> None:
        """As :meth:`take`, for who sends readings."""
        self.take(reading)
        await trio.lowlevel.checkpoint()

    def enter(self, reason: str) -> None:
        """Somebody with rights asks for quarantine. :raises RefusedError: ``bad_input``: no reason; it is in one."""
        reason = " ".join(reason.split())
        if not reason or not reason.isprintable() or len(reason) > DETAIL_LENGTH:
            raise RefusedError(Reason.BAD_INPUT, f"a reason in 1 to {DETAIL_LENGTH} printable characters")
        if self.quarantine.known:
            raise RefusedError(Reason.BAD_INPUT, f"it is {self.quarantine.darkness} already")
        seen = Seen(Code.OPERATOR_REQUEST, reason)
        self.take(Reading(ProbeName.OPERATOR, (seen,)))
        if not self.quarantine.known:  # an earlier finding was the trigger, and is over
            self._enter(seen)

    def _enter(self, seen: Seen) -> None:
        self.renewal.permit.forbid(seen.code)
        self.quarantine.enter(seen, self.assessor.readings())
        self.renewal.look_now()
        self._note(self._next())

    # -- what follows --------------------------------------------------------------------------------------------------

    def round(self) -> None:
        """Judge, and hand on what follows."""
        now = time.monotonic()
        self._darken()
        self._verdict = self.assessor.judge(now)
        if self._verdict.open and self.quarantine.darkness is Darkness.NONE:
            self.renewal.permit.give(now)
        else:
            self.renewal.permit.take_back()
            self.renewal.look_now()
        self._note(self._next())
        if self.renewal.alive(now):
            self._manager.alive(ready=True, text=self._text())

    def _darken(self) -> None:
        """The thread keeps it dark as long as it must be; quarantine itself knows when."""
        ladder = self.quarantine.ladder
        if self.quarantine.darkness is Darkness.NONE:
            if self.renewal.permit.forbidden is not None:
                self.renewal.permit.forbid(None)
        elif self.quarantine.darkness is Darkness.IN_DOUBT or ladder is None:
            self.renewal.permit.forbid(DOUBT)
        else:
            self.renewal.permit.forbid(ladder.journal.code)

    def _next(self) -> State:
        if self.quarantine.darkness is not Darkness.NONE:
            return DARK_STATES[self.quarantine.darkness]
        if self._verdict.open and self.renewal.is_open:
            return State.OPEN
        return State.CLOSED if self.state in {State.OPEN, State.CLOSED} else State.CHECKING

    def _note(self, state: State) -> None:
        if state is self.state:
            return
        self.state, self._since_unix_ms = state, _wall_ms()
        level = logging.INFO if state is State.OPEN else logging.WARNING
        _log.log(level, "the uplink is %s", self._text())

    def _text(self) -> str:
        missing = ", ".join(f"{each.proof}: {each.detail or each.reason}" for each in self._verdict.missing)
        return f"{self.state}; {missing}" if missing else str(self.state)

    def values(self) -> dict[str, Any]:
        """What the status document says, but for who writes it and when."""
        now, wall_ms = time.monotonic(), _wall_ms()
        notes = self.assessor.notes(now)
        quarantine = quarantine_values(self.quarantine)
        if (evidence := self.quarantine.awaits_release()) is not None:
            quarantine["request"] = self._request(evidence)
        return {
            "state": self.state,
            "since_unix_ms": quarantine.get("since_unix_ms") or self._since_unix_ms,
            "quarantine": quarantine,
            "notes": [note_values(note, now - note.since, wall_ms) for note in notes],
            "problems": problems_of(self.quarantine, self._verdict, notes, self.renewal.problem),
        }

    async def report(self) -> None:
        """Write the status document."""
        await trio.to_thread.run_sync(write_status, self._status_dir, NAME, self.values())


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
