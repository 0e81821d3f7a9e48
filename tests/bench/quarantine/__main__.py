# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.quarantine``: tamper with a box again and again, and time the last frame that left it.

A box of network namespaces with the image's firewall speaks all the time: the agent's connection, address requests,
neighbours, and root's own frames. A tap at the far end of its uplink has the kernel's time of every frame.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench.quarantine.report import Stopped, report
from tests.bench.quarantine.trials import Trial
from tests.egress import EVERY_SENDER, THE_AGENT, Tap, talking, tapped
from tests.firewalled import HUB4, NATS_PORT, RPC_PORT, World, numbered
from tools.image import hardening
from tools.image.hardening.build import DEVICE_RULES, FIREWALL

SETS: Final = (
    f"flush set inet bsfg hub4\nadd element inet bsfg hub4 {{ {HUB4} . {RPC_PORT} }}\n"
    f'flush set inet bsfg plant_ingress\nadd element inet bsfg plant_ingress {{ "plant0" . {NATS_PORT} }}\n'
)
STOPS: Final = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP, "ended": signal.SIGTERM}
WATCHED_S: Final = 7.0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quarantine", description=__doc__)
    parser.add_argument("--events", type=int, default=40, help="trials of each kind that the kernel tells of (40)")
    parser.add_argument("--polled", type=int, default=5, help="trials of each kind that is asked for (5)")
    parser.add_argument("--stops", type=int, default=5, help="times the watchdog is killed, stopped, ended (5 each)")
    parser.add_argument("--only", action="append", default=[], metavar="CODE", help="only kinds with this code")
    parser.add_argument("--limit", type=float, default=7200, help="seconds after which no trial begins (7200)")
    parser.add_argument("--seed", type=int, default=1, help="of the order and the waits (1)")
    parser.add_argument("--file", type=Path, default=Path("build/quarantine.json"), help="raw figures (%(default)s)")
    parser.add_argument("--plot", type=Path, help="draw the distribution into this SVG file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code: 1 if a trial was not as it must be."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="bsfg-quarantine-") as folder, _box(Path(folder)) as (world, order):
        with talking(world.box, (THE_AGENT,)):  # a raw socket of a sender's would be found by the probe of sockets
            ends = time.monotonic() + options.limit
            trials = _trials(world, {**order, **_wishes(options), "sockets": True}, ends)
        with talking(world.box, EVERY_SENDER):
            trials += _trials(world, {**order, **_wishes(options), "sockets": False}, ends)
            stopped = [_stop(world, how) for how in STOPS for _ in range(options.stops)]
    options.file.parent.mkdir(parents=True, exist_ok=True)
    return report(trials, stopped, options.file, options.plot)


def _wishes(options: argparse.Namespace) -> dict[str, Any]:
    return {"events": options.events, "polled": options.polled, "only": options.only, "seed": options.seed}


@contextmanager
def _box(folder: Path) -> Iterator[tuple[World, dict[str, Any]]]:
    """The world, with the firewall as after boot and everybody talking."""
    hardening.render(folder)
    files = [folder / FIREWALL, *(folder / DEVICE_RULES / f"{name}.nft" for name in ("uplink0", "plant0"))]
    rules = ["flush ruleset\n", *(numbered(each.read_text("utf-8")) for each in files), SETS]
    ruleset, sets = folder / "ruleset.nft", folder / "sets.nft"
    ruleset.write_text("\n".join(rules), "utf-8")
    sets.write_text(SETS, "utf-8")
    world = World(f"q{os.getpid()}")
    try:
        world.build()
        world.box.nft(ruleset.read_text("utf-8"))
        with world.hub.doing("serve", [(HUB4, RPC_PORT)], []):
            order = {"hold": False, "hub": world.hub.name, "root": str(folder), "sets": str(sets)}
            yield world, {**order, "ruleset": str(ruleset)}
    finally:
        world.remove()


def _trials(world: World, order: dict[str, Any], ends: float) -> list[Trial]:
    found: list[Trial] = []
    with _child(world, order) as child:
        assert child.stdout is not None
        for line in child.stdout:
            found.append(Trial(**json.loads(line)))
            last = found[-1]
            if not last.good or len(found) % 50 == 0:
                state = "well" if last.good else f"{last.expected}, {last.kind}: {last.problem or last}"
                print(f"{len(found):5} trials; {state}", file=sys.stderr, flush=True)
            if time.monotonic() > ends:
                child.kill()
                break
    if child.returncode and time.monotonic() <= ends:
        raise SystemExit(f"the trials ended with {child.returncode} after {len(found)}")
    return found


def _stop(world: World, how: str) -> Stopped:
    """A watchdog that lets the box speak is stopped; when the last frame comes. Nothing else is told to close."""
    with tapped(world.hub) as tap, _child(world, {"hold": True}) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline()) == "open"
        time.sleep(0.5)
        before = len(tap.frames())
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
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps(order))
            child.stdin.close()
            yield child
        finally:
            if child.poll() is None and order["hold"]:
                child.kill()
            child.wait()


if __name__ == "__main__":
    raise SystemExit(main())
