# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.sim --runs N``: many seeds, a table, and for every failing seed the command that replays it."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from tests.sim.defects import DEFECTS
from tests.sim.planted import show as show_planted
from tests.sim.runner import simulate

CHUNK = 25
"""Seeds per task of a worker process."""


@dataclass(slots=True)
class Tally:
    """The sum over many runs."""

    runs: int = 0
    steps: int = 0
    facts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failed: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Take another sum in."""
        self.runs += other.runs
        self.steps += other.steps
        self.facts += other.facts
        self.counts.update(other.counts)
        self.failed |= other.failed


def run_seeds(seeds: Iterable[int], *, disasters: bool) -> Tally:
    """Run seeds one after the other in this process."""
    tally = Tally()
    for seed in seeds:
        outcome = simulate(seed, disasters=disasters)
        tally.runs += 1
        tally.steps += outcome.steps
        tally.facts += outcome.facts
        tally.counts.update(outcome.counts)
        if not outcome.ok:
            tally.failed[seed] = outcome.problems
    return tally


def run_many(first: int, runs: int, *, jobs: int, disasters: bool) -> Iterator[Tally]:
    """Run many seeds in worker processes; yields the sum of each chunk as it comes."""
    chunks = [range(start, min(start + CHUNK, first + runs)) for start in range(first, first + runs, CHUNK)]
    work = partial(run_seeds, disasters=disasters)
    if jobs == 1:
        yield from map(work, chunks)
        return
    # Not a fork: among the threads of a whole test run it may inherit a lock that nobody will ever release.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, chunks)


def replay(seed: int, *, disasters: bool) -> int:
    """Run one seed again and print its trace, its plan and what is wrong; the exit code."""
    outcome = simulate(seed, disasters=disasters, keep=True)
    print(*outcome.lines, sep="\n")
    print(f"\nplan: {outcome.plan}\ntrace: {outcome.digest}, {outcome.steps} steps")
    print(*(outcome.problems or ("every promise was kept",)), sep="\n")
    return 0 if outcome.ok else 1


def main() -> int:
    """Parse the command line, run, print the table; exit code 1 on any violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=1, help="the first seed; the others follow it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")
    parser.add_argument(
        "--disasters", choices=("none", "all"), default="all", help="lost, wiped and restored logs and ledgers, too"
    )
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed again and print its trace")
    parser.add_argument("--planted", action="store_true", help="plant defects, and show how soon each is found")
    options = parser.parse_args()
    if options.planted:
        return 1 if show_planted(DEFECTS, options.first_seed) else 0
    disasters = options.disasters == "all"
    if options.replay is not None:
        return replay(options.replay, disasters=disasters)
    started, shown, total = time.monotonic(), time.monotonic(), Tally()
    for tally in run_many(options.first_seed, options.runs, jobs=options.jobs, disasters=disasters):
        total.add(tally)
        for seed in sorted(tally.failed):
            print(f"seed {seed}: {tally.failed[seed][0][:200]}", file=sys.stderr)
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{total.runs} of {options.runs} runs, {len(total.failed)} failed", file=sys.stderr)
    _show(total, time.monotonic() - started, disasters=disasters)
    return 1 if total.failed else 0


def _show(total: Tally, seconds: float, *, disasters: bool) -> None:
    print(f"{'runs':<28}{total.runs:>10}\n{'steps':<28}{total.steps:>10}\n{'facts':<28}{total.facts:>10}")
    for name, count in sorted(total.counts.items()):
        print(f"{name:<28}{count:>10}")
    print(f"{'runs with violations':<28}{len(total.failed):>10}\n{'seconds':<28}{seconds:>10.0f}")
    for seed, problems in sorted(total.failed.items())[:20]:
        print(f"\nseed {seed}: {problems[0][:400]}")
        print(f"  python -m tests.sim --replay {seed} --disasters {'all' if disasters else 'none'}")


if __name__ == "__main__":
    sys.exit(main())
