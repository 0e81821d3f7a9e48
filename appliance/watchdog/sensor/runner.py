# SPDX-License-Identifier: Apache-2.0
"""Has probes look when the kernel has an event for them, and each period otherwise.

Each look runs in a thread. A probe that does not come back is *blind* until it does, and says so each period; the
others go on, whatever it hangs in. A probe that raises is blind too. No event is lost while a probe looks: its
descriptor stays readable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from appliance.watchdog.probing import Probe, Reading

PATIENCE_S: Final = 5.0
"""How long a look may take; the slowest disk is quicker."""
MOST_EVENTS_S: Final = 0.05
"""After a look that an event brought about, no other one for so long: a flood of events is one look in so many."""
SLACK_S: Final = 5.0

Send = Callable[[Reading], Awaitable[None]]


@dataclass(slots=True)
class _Standing:
    """How one probe's loop goes. :param busy: a look that did not come back yet."""

    round_at: float = 0.0
    looked: bool = False
    busy: threading.Event | None = None


@dataclass(slots=True)
class Runner:
    """Runs probes. :param send: takes each reading, at once; it may wait for a little. :param patience_s: for tests."""

    probes: Sequence[Probe]
    send: Send
    patience_s: float = PATIENCE_S
    _standings: dict[int, _Standing] = field(init=False)

    def __post_init__(self) -> None:
        now = time.monotonic()
        self._standings = {number: _Standing(now) for number, _ in enumerate(self.probes)}

    async def run(self) -> None:
        """Run until cancelled; then the probes are closed, but for those that hang."""
        try:
            async with trio.open_nursery() as nursery:
                for number, probe in enumerate(self.probes):
                    nursery.start_soon(self._run, probe, self._standings[number])
        finally:
            for number, probe in enumerate(self.probes):
                if self._standings[number].busy is None:
                    probe.close()

    def looked(self) -> bool:
        """Whether each probe has looked once, or is known to hang."""
        return all(standing.looked for standing in self._standings.values())

    def alive(self, now: float) -> bool:
        """Whether each probe's loop comes round. :param now: monotonic."""
        return all(
            now - self._standings[number].round_at <= probe.period_s + self.patience_s + SLACK_S
            for number, probe in enumerate(self.probes)
        )

    async def _run(self, probe: Probe, standing: _Standing) -> None:
        while True:
            reading = await self._look(probe, standing)
            standing.looked = True
            await self.send(reading)
            standing.round_at = time.monotonic()
            with trio.move_on_after(probe.period_s):
                await self._event(probe, standing)

    async def _event(self, probe: Probe, standing: _Standing) -> None:
        """Wait until the probe has something to look at, which may be never."""
        descriptor = None if standing.busy is not None else probe.descriptor()
        if descriptor is None:
            await trio.sleep_forever()
        await trio.sleep(MOST_EVENTS_S)
        await trio.lowlevel.wait_readable(descriptor)

    async def _look(self, probe: Probe, standing: _Standing) -> Reading:
        busy = standing.busy
        if busy is not None and not busy.is_set():
            return Reading(probe.name, blind="it does not come back from looking")
        standing.busy = done = threading.Event()

        def look() -> Reading:
            try:
                return probe.look()
            except Exception as error:  # noqa: BLE001 - a probe that is broken must not stop the others
                return Reading(probe.name, blind=f"{type(error).__name__}: {error}")
            finally:
                done.set()

        with trio.move_on_after(self.patience_s):
            reading = await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
            standing.busy = None
            return reading
        return Reading(probe.name, blind=f"it did not look within {self.patience_s:g} s")
