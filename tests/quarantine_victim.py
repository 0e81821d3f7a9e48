# SPDX-License-Identifier: Apache-2.0
"""A watchdog's quarantine in a process of its own, which is killed at a step.

``python -m tests.quarantine_victim FOLDER KEEPER BOOT [CODE] [STEP DONE|WRITTEN]``: it begins as a watchdog does; with
a code it goes into quarantine if it is in none; it dies by SIGKILL after that step, before or after that is written
down; else it ends when all is done, and says how it began.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import trio

from appliance.boundary.names import ZoneId
from appliance.keys.keeper.client import KeeperClient
from appliance.watchdog.evidence.sources import Sources
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.evidence.taking import KeptEvidence
from appliance.watchdog.nft import NftLease
from appliance.watchdog.probing import Seen
from appliance.watchdog.quarantine.case import Moment
from appliance.watchdog.quarantine.folder import JOURNAL_FILE, CaseFolder
from appliance.watchdog.quarantine.keeping import KeeperLock
from appliance.watchdog.quarantine.resuming import Standing
from appliance.watchdog.quarantine.runner import Quarantine, World
from appliance.watchdog.quarantine.states import Darkness
from appliance.watchdog.quarantine.steps import Step
from appliance.watchdog.suspicions import Code

LIMIT_S = 60.0


def main(folder: str, keeper: str, boot: str, code: str = "", *dies: str) -> None:
    """See this module."""
    at = Path(folder)

    def step_done(step: Step, written: bool) -> None:
        if dies == (step, "WRITTEN" if written else "DONE"):
            os.kill(os.getpid(), signal.SIGKILL)

    async def tell() -> None:
        await trio.lowlevel.checkpoint()

    def moment() -> Moment:
        boottime_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        return Moment(ZoneId("plant-a"), boot, time.time_ns() // 1_000_000, boottime_ms, "1")

    client = KeeperClient(Path(keeper))
    taker = KeptEvidence(client, Sources(), EvidenceStore(at / "evidence"))
    world = World(NftLease(), KeeperLock(client), taker, CaseFolder(at), moment, tell, step_done=step_done)
    trio.run(_run, Quarantine(world), code, at / JOURNAL_FILE)


async def _run(quarantine: Quarantine, code: str, journal: Path) -> None:
    start = quarantine.resume()
    if code and start.standing is Standing.FREE:
        quarantine.enter(Seen(Code(code), "for the test"), ())
    with trio.move_on_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quarantine.run)
            while not done(quarantine, journal):  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    sys.stdout.write(f"{start.standing}\n")


def done(quarantine: Quarantine, journal: Path) -> bool:
    """Whether nothing is left to be done, and that is written down."""
    if quarantine.ladder is None:
        return quarantine.darkness is Darkness.NONE
    known = quarantine.ladder.journal
    return not known.missing() and journal.exists() and journal.read_bytes() == known.render()


if __name__ == "__main__":
    main(*sys.argv[1:])
