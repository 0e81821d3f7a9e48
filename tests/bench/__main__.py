# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench``: run the benchmarks and print what came out; see ``--help`` and ``README.md``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio

from appliance.boundary.errors import BsfgError
from appliance.brokers.binary import find_broker
from tests.bench.catchup import Size
from tests.bench.facts import SIZE
from tests.bench.intake import PRODUCERS
from tests.bench.latency import RATE
from tests.bench.run import Plan, Run, say

BENCHMARKS = ("catchup", "intake", "latency", "sessions", "keys")
DESCRIPTION = f"""\
Every benchmark runs the product beside its alternatives, interleaved round by round on the same machine, and prints
ratios with their spread. All brokers write to disk before they acknowledge (sync_interval: always); links are loopback
with mutual TLS 1.3; the processes are real ones, started and ended here.

catchup   A full log on one side, an empty one on the other, by push (plant to enterprise) and by pull (the other way).
          Pages, as the product does it, against the same processes with pages of one fact, and against native
          JetStream mirroring over a TLS leaf connection. Facts of {SIZE} bytes. The slow ways are given fewer facts
          and compared by rate. What arrived is read back and compared with what was sent: count, content and order.
intake    Durable facts a second of {", ".join(map(str, PRODUCERS))} stock nats-py producers: through the agent, and
          published directly to an equal stream of the same broker.
latency   From publishing in one zone to delivery to a consumer in the other, at {RATE} facts a second: push, pull,
          and native mirroring.
sessions  What keys in a TPM cost: sessions issued a second, the time of a renewal, latch and release; TLS handshakes
          with sessions of a TPM and of a software key. On a real software TPM, bare and with every command made slower
          by a relay (simulated).
keys      Catching up in pages with software keys, with keys in a TPM behind a keeper, and with that TPM made slower:
          what TPM keys cost the transfer.
"""
EPILOG = "exit code: 0 all figures are there, 1 a trial failed or the time was over, 2 wrong usage"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "benchmarks", nargs="*", metavar="benchmark", help=f"which to run, of {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, help="rounds of every benchmark (default 3, with --quick 1)")
    parser.add_argument(
        "--facts", type=int, help="facts that cross in pages (default 100000, with --quick 20000; at least 5000)"
    )
    parser.add_argument("--quick", action="store_true", help="one small round of everything: a look, no measurement")
    parser.add_argument("--limit", type=float, help="seconds after which the run ends (default 900, with --quick 240)")
    parser.add_argument("--output", choices=("table", "json"), default="table", help="json: also write all raw figures")
    parser.add_argument(
        "--file", type=Path, default=Path("build/bench.json"), help="where to (default build/bench.json)"
    )
    parser.add_argument(
        "--dir", type=Path, default=_default_folder(), help="a folder on the disk to measure (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.benchmarks) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {min(unknown)!r}")
    if options.facts is not None and options.facts < 5000:
        parser.error("--facts: at least 5000; fewer are there before the clock starts")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1")
    if not options.dir.is_dir():
        parser.error(f"--dir: {options.dir} is not a folder")
    return options


def _default_folder() -> Path:
    """Not ``/tmp``: on many systems that is memory, where durability costs nothing and figures mean nothing."""
    durable = Path("/var/tmp")  # noqa: S108 - a folder with a random name is made in it
    return durable if durable.is_dir() else Path(tempfile.gettempdir())


def plan_of(options: argparse.Namespace) -> Plan:
    """How much to do. Slow ways get as many facts as take them about as long as the pages take."""
    quick: bool = options.quick
    facts = options.facts or (20_000 if quick else 100_000)
    return Plan(
        benchmarks=options.benchmarks or BENCHMARKS,
        rounds=options.rounds or (1 if quick else 3),
        size=Size(facts, singles=max(500, facts // 50), native=max(3000, facts // 5), window_s=4 if quick else 10),
        intake_s=1.0 if quick else 3.0,
        latency_s=2.0 if quick else 5.0,
        sessions_s=0.5 if quick else 2.0,
        keyed_facts=max(5000, facts // 2),
        limit_s=options.limit or (240.0 if quick else 900.0),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    options = parse(arguments)
    plan = plan_of(options)
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    try:
        binary = find_broker()
    except BsfgError as error:
        print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bsfg-bench-", dir=options.dir) as folder:
        run = Run(plan, Path(folder), binary)
        say(run.results.machine.text())
        trio.run(run.all)
    if options.output == "json":
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(json.dumps(run.results.document(), indent=1) + "\n", encoding="utf-8")
        say(f"\nraw figures: {options.file}")
    return 1 if run.results.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
