# SPDX-License-Identifier: Apache-2.0
"""One trial: a healthy box speaks, something is done to it, and a tap outside sees when the last frame came.

The watchdog, its assessor, the quarantine, the cut, the sensor's runner and socket are the product's, the firewall is
the image's. **Simulated**: the lock and the evidence are fakes in memory, for they come after the cut; keeper, agent
and broker are said to be well.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.names import ZoneId
from appliance.factlog.notify import ServiceManager
from appliance.watchdog.assessing import Assessor
from appliance.watchdog.gate import Finding, Proof, Sight
from appliance.watchdog.nft import NftLease
from appliance.watchdog.probing import Probe
from appliance.watchdog.quarantine.case import Moment
from appliance.watchdog.quarantine.folder import CaseFolder
from appliance.watchdog.quarantine.runner import Quarantine, World
from appliance.watchdog.quarantine.states import Darkness
from appliance.watchdog.reporting import State
from appliance.watchdog.sensor.listening import ReadingSocket
from appliance.watchdog.sensor.runner import Runner
from appliance.watchdog.sensor.telling import Telling
from appliance.watchdog.suspicions import Code
from appliance.watchdog.watchdog import Watchdog
from tests.bench.quarantine.kinds import Act, Kind, Stage
from tests.egress import Tap
from tests.fakes.quarantine import FakeLock, FakeTaker

PATIENCE_S: Final = 60.0
QUIET_S: Final = 0.3
"""How long the tap is watched after the cut; of one trial in so many it is longer than a lease."""
LONG_QUIET_S: Final = 6.0
LONG_QUIET_SHARE: Final = 1 / 40
SETTLE_S: Final = 0.15
BUSY_S: Final = 0.04
BUSY_FRAMES: Final = 8
"""A frame each 5 ms at least, before anything is done to the box."""


ON_THE_WAY: Final = frozenset({(Code.EXECUTABLE_FOREIGN, Code.PROCESS_UNEXPECTED)})
"""Who starts a foreign program is a program that has no business there, and may be seen first."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one came to. Times in milliseconds; ``None``: the box was never cut.

    :param last_ms: from just before the tampering to the last frame on the uplink, if any came after it.
    :param cut_ms: from just before the tampering until the uplink was dark. :param took_ms: the tampering itself.
    :param code: what put the box into quarantine. :param before: frames of the healthy box.
    :param after: frames that came later than a millisecond after the cut had returned.
    """

    kind: str
    expected: str
    event: bool
    real: bool
    code: str
    last_ms: float | None
    cut_ms: float | None
    took_ms: float
    before: int
    after: int
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether it was found for what it is, and nothing came afterwards."""
        by_its_code = self.code == self.expected or (self.expected, self.code) in ON_THE_WAY
        return not self.problem and by_its_code and self.after == 0


class TimedLease(NftLease):
    """The real one, with the time at which the dark was there (Unix seconds)."""

    dark_at: float | None = None

    def dark(self, why: str) -> None:
        """As the port says."""
        super().dark(why)
        self.dark_at = self.dark_at or time.time()


class AllIsWell:
    """Says of keeper, agent and broker that they are well, so that the probe alone decides."""

    async def look(self) -> Sequence[Finding]:
        """As the protocol says."""
        await trio.lowlevel.checkpoint()
        return [Finding(proof, Sight.HOLDS) for proof in Proof]


async def trial(kind: Kind, stage: Stage, tap: Tap, lock: FakeLock, folder: Path, chance: random.Random) -> Trial:
    """Play it once; the box is healthy again afterwards."""
    with kind.act(stage) as act:
        try:
            return await _played(kind, act, tap, lock, folder, chance)
        finally:
            await trio.to_thread.run_sync(act.undo)
            end = NftLease()
            await trio.to_thread.run_sync(end.light)
            _give_back(end)


async def _played(kind: Kind, act: Act, tap: Tap, lock: FakeLock, folder: Path, chance: random.Random) -> Trial:
    lease = TimedLease()
    quarantine = Quarantine(World(lease, lock, FakeTaker(), CaseFolder(folder / "state"), moment, nothing))
    assessor = Assessor(frozenset({act.probe.name}))
    renewed, kept_dark = NftLease(), NftLease()
    watchdog = Watchdog(renewed, kept_dark, quarantine, (AllIsWell(),), folder, assessor, manager=ServiceManager())
    try:
        return await _in_its_processes(kind, act, tap, watchdog, lease, folder, chance)
    finally:  # its threads have ended
        for each in (lease, renewed, kept_dark):
            _give_back(each)


async def _in_its_processes(
    kind: Kind, act: Act, tap: Tap, watchdog: Watchdog, lease: TimedLease, folder: Path, chance: random.Random
) -> Trial:
    async with ReadingSocket(folder / "readings.sock", 0) as readings, trio.open_nursery() as nursery:
        nursery.start_soon(watchdog.run, readings)
        telling = Telling(folder / "readings.sock")
        nursery.start_soon(telling.run)
        nursery.start_soon(Runner((_Kept(act.probe),), telling.tell).run)
        try:
            return await _timed(kind, act, tap, watchdog, lease, chance)
        finally:
            nursery.cancel_scope.cancel()


async def _timed(kind: Kind, act: Act, tap: Tap, watchdog: Watchdog, lease: TimedLease, chance: random.Random) -> Trial:
    if not await until(lambda: watchdog.state is State.OPEN, watchdog):
        return _failed(kind, f"it does not speak: {watchdog.values()['problems']}")
    heard: list[int] = []
    if not await until(lambda: _is_busy(tap, heard)):
        return _failed(kind, "it has little to say")
    await trio.sleep(chance.random() * (SETTLE_S if kind.event else act.probe.period_s))
    before = heard[-1] + len(tap.frames())
    began = time.time()
    await trio.to_thread.run_sync(act.inject)
    took_ms = (time.time() - began) * 1000
    if not await until(lambda: watchdog.quarantine.darkness is Darkness.QUARANTINED):
        return _failed(kind, "it is not found", before)
    await trio.sleep(LONG_QUIET_S if chance.random() < LONG_QUIET_SHARE else QUIET_S)
    frames, missed = tap.frames(), tap.missed()
    dark_at = lease.dark_at or time.time()
    seen = [at for at, _ in frames if at >= began]
    return Trial(
        kind.what,
        kind.code,
        kind.event,
        kind.real,
        watchdog.quarantine.case.code if watchdog.quarantine.case else "",
        (max(seen) - began) * 1000 if seen else 0.0,
        (dark_at - began) * 1000,
        took_ms,
        before,
        sum(at > dark_at + 0.001 for at in seen),
        f"the tap missed {missed} frames" if missed else "" if before else "the healthy box was silent",
    )


def _is_busy(tap: Tap, heard: list[int]) -> bool:
    """Whether frames come so often that the last one tells the time. Blocking, for a moment. :param heard: how many."""
    tap.frames()
    time.sleep(BUSY_S)
    heard.append(len(tap.frames()))
    return heard[-1] >= BUSY_FRAMES


async def until(holds: Callable[[], bool], watchdog: Watchdog | None = None) -> bool:
    """Wait for it; where a watchdog is given, have it judge more often than it does by itself."""
    with trio.move_on_after(PATIENCE_S):
        while not holds():
            if watchdog is not None:
                watchdog.round()
                watchdog.renewal.look_now()
                await trio.sleep(0.2)  # not more often: each round changes the firewall, whose probe waits for a pause
            else:
                await trio.sleep(0.005)
        return True
    return False


class _Kept:
    """A probe that its act closes, and nobody else."""

    def __init__(self, probe: Probe) -> None:
        self.name, self.period_s = probe.name, probe.period_s
        self.look, self.descriptor = probe.look, probe.descriptor

    def close(self) -> None:
        """Not here."""


def _give_back(lease: NftLease) -> None:
    """Close what a lease holds: select takes no more than 1024 descriptors."""
    if lease._nftables is not None:
        lease._nftables.close()
        lease._nftables = None


def _failed(kind: Kind, problem: str, before: int = 0) -> Trial:
    return Trial(kind.what, kind.code, kind.event, kind.real, "", None, None, 0.0, before, 0, problem)


def moment() -> Moment:
    """Now, on a box of that name."""
    now_ms = time.time_ns() // 1_000_000
    return Moment(ZoneId("plant-a"), "bench", now_ms, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000, "bench")


async def nothing() -> None:
    """Nobody is told."""
    await trio.lowlevel.checkpoint()
