# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.quarantine.calm``: what happens on healthy boxes, by the thousand; none may be quarantined.

First a whole box lives through what may happen to it (:mod:`tests.bench.quarantine.living`), while a producer goes on;
at the end every fact that was acknowledged must be at the hub, once. Then every kind of :data:`tests.benign.BENIGN` is
done to one probe, which looks each time, and the assessor hears it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from appliance.watchdog.assessing import Assessor
from tests.bench.quarantine.living import Life, life
from tests.bench.quarantine.report import machine
from tests.benign import BENIGN, Benign
from tests.boxspace import BoxSpace, boxspace
from tests.tampering import Ground
from tests.tampering_tpm import Enrolled, seen_by, tpm_box


@dataclass(frozen=True, slots=True)
class Happening:
    """One kind of what happens to a whole box. :param times: how often in a whole run."""

    what: str
    way: str
    times: int
    act: Callable[[Life], object]


REALLY, CLOCK, LAID_OUT = "really", "simulated: clock", "simulated: files"
HAPPENINGS: Final = (
    Happening("power cut, of all processes and the TPM", REALLY, 24, Life.power_cut),
    Happening("a service is killed and started again", REALLY, 50, Life.crash),
    Happening("a session of the boundary key is renewed", REALLY, 200, Life.rotate),
    Happening("local credentials are handed out again", REALLY, 10, Life.credentials),
    Happening("the cable to the hub is out and in", REALLY, 60, Life.carrier),
    Happening("the hub ends and comes back", REALLY, 6, Life.hub_gone),
    Happening("the uplink's port is out and in", REALLY, 15, Life.port_out),
    Happening("the disk is full, and has room again", REALLY, 20, Life.disk_full),
    Happening("a producer floods: 400 facts, 200 of them twice", REALLY, 60, Life.flood),
    Happening("a producer conflicts, and is served again", REALLY, 100, Life.conflict),
    Happening("a new site configuration is taken", REALLY, 10, Life.site),
    Happening("the hub's name has another address", REALLY, 60, Life.names),
    Happening("a USB device comes or goes", LAID_OUT, 100, Life.usb),
)
"""In an order of chance; each once in a while, as in life."""
HEAD: Final = f"{'what happens':50} {'to':9} {'done':22} {'events':>6} {'seconds':>8} {'false':>6}  notes"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code: 1 if a healthy box was put into quarantine."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quarantine.calm", description=__doc__)
    parser.add_argument("--events", type=int, default=120, help="of each kind that is done to one probe (120)")
    parser.add_argument("--share", type=float, default=1.0, help="of what is done to the whole box (1.0: 715 events)")
    parser.add_argument("--seed", type=int, default=1, help="of what happens (1)")
    options = parser.parse_args(arguments)
    print(f"{machine()}\n{HEAD}")
    events, false = _whole(options.share, random.Random(options.seed)) if options.share > 0 else (0, 0)
    with tempfile.TemporaryDirectory(prefix="bsfg-calm-") as folder:
        began = time.monotonic()
        notes, triggers = trio.run(_clock_is_set, Path(folder), options.events, random.Random(options.seed))
        false, events = false + triggers, events + options.events
        took = time.monotonic() - began
        _line("the wall clock is set, by seconds or years", "3 probes", CLOCK, options.events, took, triggers, notes)
    with boxspace(limit_s=3600) as space:
        for kind in BENIGN:
            began = time.monotonic()
            notes, triggers = _happens(kind, space, options.events, random.Random(options.seed))
            false, events = false + triggers, events + options.events
            way = "really" if kind.real else "simulated: files"
            _line(kind.what, "one probe", way, options.events, time.monotonic() - began, triggers, notes)
    print(f"\n{events} benign events, {false} false quarantines; {machine()}")
    return 1 if false else 0


def _line(what: str, to: str, way: str, events: int, seconds: float, false: int, notes: Counter[str]) -> None:
    told = ", ".join(sorted(notes)) or "none"
    print(f"{what:50} {to:9} {way:22} {events:6} {seconds:8.1f} {false:6}  {told}", flush=True)


def _whole(share: float, chance: random.Random) -> tuple[int, int]:
    """How much happened to a whole box, and how often it was put into quarantine; the first time ends it."""
    left = [each for each in HAPPENINGS for _ in range(max(1, round(each.times * share)))]
    chance.shuffle(left)
    done: Counter[Happening] = Counter()
    seconds: Counter[Happening] = Counter()
    notes: dict[Happening, Counter[str]] = {each: Counter() for each in HAPPENINGS}
    false: Counter[Happening] = Counter()
    with tempfile.TemporaryDirectory(prefix="bsfg-calm-") as folder, life(Path(folder), chance) as box:
        for number, each in enumerate(left):
            began, box.notes = time.monotonic(), notes[each]
            each.act(box)
            done[each] += 1
            seconds[each] += time.monotonic() - began  # type: ignore[assignment]
            if why := box.quarantined():
                false[each] += 1
                print(f"FALSE QUARANTINE: {each.what}: {why}", file=sys.stderr)
                break
            if number % 50 == 49:
                print(f"{number + 1} of {len(left)} events", file=sys.stderr, flush=True)
        else:
            box.opens()
            box.nothing_lost()
        facts = len(box.producer.acknowledged)
    for each in HAPPENINGS:
        _line(each.what, "a box", each.way, done[each], seconds[each], false[each], notes[each])
    if not false:
        print(f"it spoke at the end; {facts} facts acknowledged to one producer were at the hub, each once")
    return sum(done.values()), sum(false.values())


async def _clock_is_set(folder: Path, events: int, chance: random.Random) -> tuple[Counter[str], int]:
    """The probes of quote, key and clock on a real (software) TPM and keeper; what the wall clock shows is made up."""
    notes: Counter[str] = Counter()
    triggers = 0
    async with tpm_box(folder, await trio.to_thread.run_sync(Enrolled.make, folder / "enrolled")) as box:
        probes = box.probes()
        assessor = Assessor(frozenset(probes))
        for _ in range(events):
            step = chance.choice((1.0, 60.0, 3600.0, 86_400.0, 31_536_000.0, 315_360_000.0)) * chance.uniform(-1, 1)
            box.wall = lambda step=step: time.time() + step  # type: ignore[misc]
            for probe in probes.values():
                _, reading = await seen_by(probe)
                notes.update(each.code for each in reading.seen)
                if assessor.take(reading, time.monotonic()) is not None:
                    triggers += 1
                    print(f"FALSE QUARANTINE: the wall clock is set: {reading}", file=sys.stderr)
                    assessor = Assessor(frozenset(probes))
    return notes, triggers


def _happens(kind: Benign, space: BoxSpace, events: int, chance: random.Random) -> tuple[Counter[str], int]:
    """How often each note was told, and how often the box was put into quarantine."""
    notes: Counter[str] = Counter()
    triggers = 0
    with tempfile.TemporaryDirectory(prefix="bsfg-calm-") as folder, kind.calm(Ground(Path(folder), space)) as calm:
        assessor = Assessor(frozenset({calm.probe.name}))
        for _ in range(events):
            calm.act(chance)
            reading = calm.probe.look()
            if reading.blind:
                print(f"{kind.what}: blind: {reading.blind}", file=sys.stderr)
            notes.update(each.code for each in reading.seen)
            if assessor.take(reading, time.monotonic()) is not None:
                triggers += 1
                print(f"FALSE QUARANTINE: {kind.what}: {reading}", file=sys.stderr)
                assessor = Assessor(frozenset({calm.probe.name}))
    return notes, triggers


if __name__ == "__main__":
    raise SystemExit(main())
