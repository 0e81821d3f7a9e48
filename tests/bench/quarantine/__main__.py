# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.quarantine``: tamper with boxes again and again, and time the last frame that left them.

Boxes of network namespaces with the image's firewall speak all the time: the agent's connection, address requests,
neighbours, and root's own frames. A tap at the far end of each uplink has the kernel's time of every frame.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.quarantine.lanes import Wishes, play
from tests.bench.quarantine.report import report


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quarantine", description=__doc__)
    parser.add_argument("--events", type=int, default=32, help="trials of each kind that the kernel tells of (32)")
    parser.add_argument("--polled", type=int, default=3, help="trials of each kind that is asked for (3)")
    parser.add_argument("--stops", type=int, default=6, help="times the watchdog is killed, stopped, hangs, … (6 each)")
    parser.add_argument("--lanes", type=int, default=4, help="boxes at once, 2 to 8 (4)")
    parser.add_argument("--only", action="append", default=[], metavar="CODE", help="only kinds with this code")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which no trial begins (3600)")
    parser.add_argument("--seed", type=int, default=1, help="of the order and the waits (1)")
    parser.add_argument("--file", type=Path, default=Path("build/quarantine.json"), help="raw figures (%(default)s)")
    parser.add_argument("--plot", type=Path, help="draw the distribution into this SVG file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code: 1 if a trial was not as it must be."""
    options = parse(arguments)
    began = time.monotonic()
    lanes = min(8, max(2, options.lanes))
    wishes = Wishes(
        options.events, options.polled, options.stops, options.only, options.seed, lanes, began + options.limit
    )
    with tempfile.TemporaryDirectory(prefix="bsfg-quarantine-") as folder:
        played = play(Path(folder), wishes)
    options.file.parent.mkdir(parents=True, exist_ok=True)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, {lanes} boxes at once")
    return report(played.trials, played.stopped, options.file, options.plot)


if __name__ == "__main__":
    raise SystemExit(main())
