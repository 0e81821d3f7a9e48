# SPDX-License-Identifier: Apache-2.0
"""The core under simulated time and faults: a part of the matrix, rotated by commit; ``make sim`` runs all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.__main__ import run_many, run_seeds
from tests.sim.runner import simulate

SLICE = int(os.environ.get("BSFG_SIMULATIONS", "400"))
"""Runs of the rotating slice."""
FIXED = (1, 2, 3, 7, 11, 500840, 500857)
"""Seeds that once found a defect, or show every kind of fault."""


def rotating_seed(root: Path) -> int:
    """A first seed that is another one for every commit, and the same for everybody who has this commit."""
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return int(answer.stdout[:7] or "1", 16)


@pytest.mark.parametrize(
    ("disasters", "runs_wanted"),
    [pytest.param(False, SLICE, id="faults"), pytest.param(True, SLICE // 8, id="faults and disasters")],
)
def test_no_promise_is_broken(root: Path, disasters: bool, runs_wanted: int) -> None:
    """Crashes, losses, doubles, reordering, floods and poison; then logs and ledgers lost and restored as well."""
    first = rotating_seed(root)
    failed: dict[int, tuple[str, ...]] = {}
    runs = 0
    for tally in run_many(first, runs_wanted, jobs=min(2, os.cpu_count() or 1), disasters=disasters):
        failed |= tally.failed
        runs += tally.runs
    assert runs == runs_wanted
    assert not failed, f"python -m tests.sim --replay {min(failed)}: {failed[min(failed)]}"


@pytest.mark.parametrize("seed", FIXED)
def test_seeds_that_once_found_something(seed: int) -> None:
    """They stay clean."""
    assert simulate(seed).problems == ()


def test_faults_really_happen() -> None:
    """A simulation without crashes and losses would prove nothing."""
    counts = run_seeds(range(1, 41), disasters=True).counts
    assert len([name for name, count in counts.items() if count > 0]) >= 8, counts


def test_the_same_seed_gives_the_same_trace(root: Path) -> None:
    """In this process and in others, whatever the order of their sets of strings."""
    code = "from tests.sim.runner import simulate; print(*(simulate(s).digest for s in range(5)))"
    digests = {" ".join(simulate(seed).digest for seed in range(5))}
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        answer = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(answer.stdout.strip())
    assert len(digests) == 1
    assert simulate(5).digest != simulate(6).digest
