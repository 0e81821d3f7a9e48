# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.quarantine.calm``: what happens on healthy boxes, by the thousand; none may be quarantined.

Every kind of :data:`tests.benign.BENIGN` is done again and again, each time the probe looks, and the assessor hears it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from appliance.watchdog.assessing import Assessor
from tests.benign import BENIGN, Benign
from tests.boxspace import BoxSpace, boxspace
from tests.tampering import Ground


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code: 1 if a healthy box was put into quarantine."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quarantine.calm", description=__doc__)
    parser.add_argument("--events", type=int, default=200, help="of each kind (200)")
    parser.add_argument("--seed", type=int, default=1, help="of what happens (1)")
    options = parser.parse_args(arguments)
    false, events = 0, 0
    print(f"{'what happens':45} {'done':9} {'events':>6} {'seconds':>8}  notes")
    with boxspace() as space:
        for kind in BENIGN:
            began = time.monotonic()
            notes, triggers = _happens(kind, space, options.events, random.Random(options.seed))
            false, events = false + triggers, events + options.events
            told = ", ".join(f"{code} {count}" for code, count in sorted(notes.items())) or "none"
            way = "really" if kind.real else "simulated"
            print(f"{kind.what:45} {way:9} {options.events:6} {time.monotonic() - began:8.1f}  {told}", flush=True)
    print(f"\n{events} benign events, {false} false quarantines")
    return 1 if false else 0


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
