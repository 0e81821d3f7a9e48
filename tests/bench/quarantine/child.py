# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.quarantine.child``: plays trials inside the box's network, or holds the lease until killed.

Reads one JSON object from standard input; writes one JSON line for each trial, or ``"open"`` once it speaks.
"""

from __future__ import annotations

import ctypes
import json
import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import trio

from appliance.keys.tpm.policy import BoundaryPolicy
from appliance.watchdog.assessing import Assessor
from appliance.watchdog.nft import NftLease
from appliance.watchdog.quarantine.folder import CaseFolder
from appliance.watchdog.quarantine.runner import Quarantine, World
from appliance.watchdog.reporting import State
from appliance.watchdog.watchdog import Watchdog
from tests.bench.quarantine.kinds import SOCKETS, Kind, Stage, kinds
from tests.bench.quarantine.trials import AllIsWell, moment, nothing, trial, until
from tests.boxspace import boxspace
from tests.egress import Tap, tapped
from tests.fakes.quarantine import FakeLock, FakeTaker
from tests.firewalled import Space
from tests.releases import Case

HANGS_S: Final = 60.0


def main() -> int:
    """Run; the exit code."""
    order = json.load(sys.stdin)
    logging.basicConfig(level=logging.CRITICAL + 1)
    if order["hold"]:
        trio.run(_hold)
    else:
        trio.run(_play, order)
    return 0


async def _play(order: dict[str, Any]) -> None:
    """Every kind in turn, until there are enough of each; in another order each round."""
    chance = random.Random(order["seed"])
    chosen = [kind for kind in kinds() if not order["only"] or kind.code in order["only"]]
    chosen = [kind for kind in chosen if (kind.code in SOCKETS) == order["sockets"]]
    left = Counter({kind: order["events"] if kind.event else order["polled"] for kind in chosen})
    policy: BoundaryPolicy = Case.make().box.policy
    with tapped(Space(order["hub"])) as tap:
        while +left:
            await _round(order, chance, left, policy, tap)


async def _round(
    order: dict[str, Any], chance: random.Random, left: Counter[Kind], policy: BoundaryPolicy, tap: Tap
) -> None:
    """Each kind that is left once, in namespaces that are new."""
    with boxspace(limit_s=1800) as space:
        stage = Stage(space, Path(order["root"]), (Path(order["sets"]),), lambda: _load(order["ruleset"]))
        for kind in chance.sample(sorted(+left, key=lambda each: (each.code, each.what)), len(+left)):
            left[kind] -= 1
            with tempfile.TemporaryDirectory(prefix="bsfg-trial-") as folder:
                (Path(folder) / "state").mkdir()
                done = await trial(kind, stage, tap, FakeLock(policy), Path(folder), chance)
            print(json.dumps(asdict(done)), flush=True)


class HangingLease(NftLease):
    """The real one, until it is told to hang."""

    hangs = False

    def renew(self) -> None:
        """As the port says."""
        if self.hangs:
            time.sleep(HANGS_S)
        super().renew()


def _hang_on_signals(lease: HangingLease) -> None:
    """How a process may hang: its main loop, the thread of its lease, or everything (Python's own lock is held)."""

    def thread(*_: object) -> None:
        lease.hangs = True

    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(HANGS_S))
    signal.signal(signal.SIGUSR2, thread)
    signal.signal(signal.SIGHUP, lambda *_: ctypes.PyDLL(None).sleep(int(HANGS_S)))


async def _hold() -> None:
    """A watchdog that lets the box speak, until somebody stops this process."""
    with tempfile.TemporaryDirectory(prefix="bsfg-hold-") as folder:
        (Path(folder) / "state").mkdir()
        world = World(
            NftLease(), FakeLock(Case.make().box.policy), FakeTaker(), CaseFolder(Path(folder)), moment, nothing
        )
        lease = HangingLease()
        _hang_on_signals(lease)
        watchdog = Watchdog(lease, lease, Quarantine(world), (AllIsWell(),), Path(folder), Assessor(frozenset()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchdog.run)
            assert await until(lambda: watchdog.state is State.OPEN)
            print(json.dumps("open"), flush=True)


def _load(ruleset: str) -> None:
    subprocess.run(["nft", "-f", ruleset], check=True, capture_output=True, timeout=30)


if __name__ == "__main__":
    raise SystemExit(main())
