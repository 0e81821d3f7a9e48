# SPDX-License-Identifier: Apache-2.0
"""Boxes beside one another: most of a trial is waiting, so several are tampered with at once, each in its own world.

The first lane takes what must be alone: sockets (where a sender's raw socket would be found) and the watchdogs that are
stopped. The others share everything else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.quarantine.report import Stopped
from tests.bench.quarantine.trials import Trial
from tests.egress import EVERY_SENDER, THE_AGENT, Sender, Tap, talking, tapped
from tests.firewalled import HUB4, NATS_PORT, RPC_PORT, World, numbered
from tools.image import hardening
from tools.image.hardening.build import DEVICE_RULES, FIREWALL

SETS: Final = (
    f"flush set inet bsfg hub4\nadd element inet bsfg hub4 {{ {HUB4} . {RPC_PORT} }}\n"
    f'flush set inet bsfg plant_ingress\nadd element inet bsfg plant_ingress {{ "plant0" . {NATS_PORT} }}\n'
)
STOPS: Final = {
    "killed": signal.SIGKILL,
    "stopped": signal.SIGSTOP,
    "ended": signal.SIGTERM,
    "loop hangs": signal.SIGUSR1,
    "thread hangs": signal.SIGUSR2,
    "all hangs": signal.SIGHUP,
}
"""What is done to a watchdog that lets its box speak; the last three by :mod:`tests.bench.quarantine.child`."""
WATCHED_S: Final = 7.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is played. Counts are of each kind; ``lanes``: boxes at once, two at least.

    :param only: codes; empty: all. :param ends: monotonic time after which no trial begins.
    """

    events: int
    polled: int
    stops: int
    only: Sequence[str]
    seed: int
    lanes: int
    ends: float


def weighted(pid: int) -> None:
    """Put a session before the other jobs of this machine, as a box has none (ten times the usual share).

    The kernel's groups of sessions have the nice value whose weight comes nearest: -10 is 9.3 times that of 0.
    """
    with suppress(OSError):  # a kernel without such groups
        Path(f"/proc/{pid}/autogroup").write_text("-10", "ascii")


@dataclass(slots=True)
class Played:
    """What came out so far; every lane adds to it."""

    trials: list[Trial] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    _adding: threading.Lock = field(default_factory=threading.Lock)

    def add(self, one: Trial) -> None:
        """One more trial; tells of it where it is not as it must be, and now and then."""
        with self._adding:
            self.trials.append(one)
            count = len(self.trials)
        if not one.good or count % 50 == 0:
            state = "well" if one.good else f"{one.expected}, {one.kind}: {one.problem or one}"
            print(f"{count:5} trials; {state}", file=sys.stderr, flush=True)


def play(folder: Path, wishes: Wishes) -> Played:
    """Play everything, in folder's worlds; blocking. :raises SystemExit: a lane ended before its time."""
    hardening.render(folder)
    played = Played()
    with ExitStack() as stack:
        boxes = [stack.enter_context(_box(folder, f"{os.getpid()}{letter}")) for letter in "abcdefgh"[: wishes.lanes]]
        work: list[Callable[[], None]] = [lambda: _alone(boxes[0], wishes, played)]
        for number, box in enumerate(boxes[1:]):
            work.append(lambda box=box, number=number: _shared(box, number, wishes, played))  # type: ignore[misc]
        with ThreadPoolExecutor(len(work)) as pool:
            for each in [pool.submit(one) for one in work]:
                each.result()
    return played


def _alone(box: _Box, wishes: Wishes, played: Played) -> None:
    order = {**box.order, "only": wishes.only, "seed": wishes.seed, "polled": wishes.polled, "events": wishes.events}
    with talking(box.world.box, (THE_AGENT,)):  # a raw socket of a sender's would be found by the probe of sockets
        _trials(box, {**order, "sockets": True}, wishes, played)
    for how in [each for each in STOPS for _ in range(wishes.stops)]:
        if time.monotonic() < wishes.ends:
            played.stopped.append(_stop(box.world, how))


def _shared(box: _Box, number: int, wishes: Wishes, played: Played) -> None:
    def share(count: int) -> int:
        many = wishes.lanes - 1
        return count // many + (number < count % many)

    order = {**box.order, "only": wishes.only, "seed": wishes.seed + 1000 * (number + 1)}
    wanted = {"sockets": False, "events": share(wishes.events), "polled": share(wishes.polled)}
    with talking(box.world.box, EVERY_SENDER):
        _trials(box, {**order, **wanted}, wishes, played)


@dataclass(frozen=True, slots=True)
class _Box:
    """A world whose firewall is as after boot, and what a child must know of it."""

    world: World
    order: dict[str, Any]


@contextmanager
def _box(image: Path, mark: str) -> Iterator[_Box]:
    files = [image / FIREWALL, *(image / DEVICE_RULES / f"{name}.nft" for name in ("uplink0", "plant0"))]
    rules = ["flush ruleset\n", *(numbered(each.read_text("utf-8")) for each in files), SETS]
    ruleset, sets = image / "ruleset.nft", image / "sets.nft"
    ruleset.write_text("\n".join(rules), "utf-8")
    sets.write_text(SETS, "utf-8")
    world = World(f"q{mark}")
    try:
        world.build()
        world.box.nft(ruleset.read_text("utf-8"))
        with world.hub.doing("serve", [(HUB4, RPC_PORT)], []):
            order = {"hold": False, "hub": world.hub.name, "root": str(image), "sets": str(sets)}
            yield _Box(world, {**order, "ruleset": str(ruleset)})
    finally:
        world.remove()


def _trials(box: _Box, order: dict[str, Any], wishes: Wishes, played: Played) -> None:
    count = 0
    with _child(box.world, order) as child:
        assert child.stdout is not None
        for line in child.stdout:
            played.add(Trial(**json.loads(line)))
            count += 1
            if time.monotonic() > wishes.ends:
                child.kill()
                break
    if child.returncode and time.monotonic() <= wishes.ends:
        raise SystemExit(f"the trials of a lane ended with {child.returncode} after {count}")


def _stop(world: World, how: str) -> Stopped:
    """A watchdog that lets the box speak is stopped; when the last frame comes. Nothing else is told to close."""
    senders: tuple[Sender, ...] = EVERY_SENDER
    with talking(world.box, senders), tapped(world.hub) as tap, _child(world, {"hold": True}) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline()) == "open"
        time.sleep(0.5)
        before = sum(_is_leased(data) for _, data in tap.frames())
        at = time.time()
        child.send_signal(STOPS[how])
        try:
            return Stopped(how, before, _last(tap, at))
        finally:
            child.kill()


def _last(tap: Tap, since: float) -> float:
    """When the lease's last frame came, in milliseconds; early traffic goes on, as the design says."""
    found: list[float] = []
    end = time.monotonic() + WATCHED_S
    while time.monotonic() < end:
        time.sleep(0.2)
        found += [at for at, data in tap.frames() if at >= since and _is_leased(data)]
    return (max(found) - since) * 1000 if found else 0.0


def _is_leased(data: bytes) -> bool:
    """Whether it is the agent's: TCP in IPv4."""
    return data[12:14] == b"\x08\x00" and data[23] == 6


@contextmanager
def _child(world: World, order: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    # not ip-netns(8) exec: that hides the control groups
    command = ["nsenter", f"--net=/run/netns/{world.box.name}", sys.executable, "-m", "tests.bench.quarantine.child"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            weighted(child.pid)
            assert child.stdin is not None
            child.stdin.write(json.dumps(order))
            child.stdin.close()
            yield child
        finally:
            if child.poll() is None and order["hold"]:
                child.kill()
            child.wait()
