# SPDX-License-Identifier: Apache-2.0
"""One run from seed to verdict."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.boundary import sink, source, store
from tests.judge import Event, Verdict, check
from tests.sim import determinism
from tests.sim.plan import Plan, make_plan
from tests.sim.world import Trace, World


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. ``problems`` is empty when all is well; ``verdict`` is missing when the run broke down."""

    plan: Plan
    digest: str
    steps: int
    counts: Counter[str]
    facts: int
    problems: tuple[str, ...]
    verdict: Verdict | None
    lines: tuple[str, ...]
    events: tuple[Event, ...]

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.problems


@contextmanager
def _page_limit(limit: int) -> Iterator[None]:
    """Make pages small, so that a few facts need several of them."""
    modules = (store, source, sink)
    before = [vars(module)["MAX_PAGE_FACTS"] for module in modules]
    for module in modules:
        vars(module)["MAX_PAGE_FACTS"] = limit
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            vars(module)["MAX_PAGE_FACTS"] = value


def simulate(seed: int, *, disasters: bool = True, keep: bool = False) -> Outcome:
    """Run one seed; ``keep`` the readable trace and the history."""
    plan, trace, worlds = make_plan(seed, disasters=disasters), Trace(keep=keep), list[World]()

    async def main() -> None:
        worlds.append(World(plan, trace))
        await worlds[0].run()

    problems: list[str] = []
    logging.disable(logging.CRITICAL)
    try:
        with _page_limit(plan.page_limit):
            determinism.run(seed, main)
    except Exception:  # noqa: BLE001 - whatever the product raises is a finding, told with its seed
        problems.append("defect: " + traceback.format_exc())
    finally:
        logging.disable(logging.NOTSET)
    world = worlds[0]
    verdict = check(world.book.recorder.events) if not problems else None
    if verdict is not None:
        problems += [f"{v.invariant}: {v.text}" for v in verdict.violations]
        problems += [f"unproven: {text}" for text in verdict.unproven if "no fact was sent" not in text]
        problems += [f"false alarm: {text}" for text in world.book.false_alarms]
        if world.converged_s is None:
            problems.append("liveness: not everything was confirmed in time")
    return Outcome(
        plan,
        trace.digest,
        trace.steps,
        world.book.counts,
        verdict.counts.facts if verdict else 0,
        tuple(problems),
        verdict,
        tuple(trace.lines or ()),
        tuple(world.book.recorder.events) if keep else (),
    )
