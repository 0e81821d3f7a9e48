# SPDX-License-Identifier: Apache-2.0
"""Proof that the simulation finds defects: each of :data:`tests.sim.defects.DEFECTS` is planted, and must be found.

A defect replaces functions of running classes while seeds are run and is undone afterwards; the product knows nothing
of it. It counts as found when a run breaks a promise: the judge says so, or what should cross does not in time. A run
that merely breaks down proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.sim.runner import simulate

Patch = tuple[Any, str, Any]
"""Where, which name, what instead."""

BROKE_DOWN: Final = "defect: "
"""How a problem begins that is an exception out of the simulated world."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One planted defect.

    :param plant: makes its patches, anew for each run.
    :param budget: within how many seeds it must be found. :param seed: one that finds it.
    :param disasters: whether logs and ledgers must be lost for it to show.
    """

    name: str
    plant: Callable[[], Sequence[Patch]]
    seed: int
    budget: int = 400
    disasters: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What found a defect: the seed, how many seeds it took, the first promise that was broken."""

    seed: int
    seeds: int
    problem: str
    seconds: float


@contextmanager
def planted(defect: Defect) -> Iterator[None]:
    """Have the defect for a while."""
    undo: list[Patch] = []
    try:
        for place, name, instead in defect.plant():
            undo.append((place, name, vars(place)[name]))
            setattr(place, name, instead)
        yield
    finally:
        for place, name, before in reversed(undo):
            setattr(place, name, before)


def finds(defect: Defect, seed: int) -> str | None:
    """The first promise that a run with the defect breaks, if any.

    :raises AssertionError: the run broke down, so nothing is known.
    """
    with planted(defect):
        problems = simulate(seed, disasters=defect.disasters).problems
    if any(problem.startswith(BROKE_DOWN) for problem in problems):
        raise AssertionError(f"{defect.name}, seed {seed}: {problems[0]}")
    return problems[0] if problems else None


def search(defect: Defect, first: int = 1) -> Found | None:
    """Run seeds until one finds the defect; ``None``: none within the budget did."""
    started = time.monotonic()
    for number in range(defect.budget):
        problem = finds(defect, first + number)
        if problem is not None:
            return Found(first + number, number + 1, problem, time.monotonic() - started)
    return None


def show(defects: Sequence[Defect], first: int = 1) -> int:
    """Search for every defect and print the table; how many were not found."""
    missed = 0
    print(f"{'planted defect':<52}{'seeds':>7}{'s':>7}  broken promise")
    for defect in defects:
        found = search(defect, first)
        if found is None:
            missed += 1
            print(f"{defect.name:<52}{'> ' + str(defect.budget):>7}{'':>7}  NOT FOUND", flush=True)
        else:
            promise = f"{found.problem.split(':')[0]} (seed {found.seed})"
            print(f"{defect.name:<52}{found.seeds:>7}{found.seconds:>7.1f}  {promise}", flush=True)
    print(f"{len(defects) - missed} of {len(defects)} planted defects were found")
    return missed
