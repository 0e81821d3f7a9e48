# SPDX-License-Identifier: Apache-2.0
"""One run from seed to verdict."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from appliance.boundary import forward, retention, source, store
from tests.judge import Event, Verdict, check
from tests.sim import determinism
from tests.sim.plan import Plan, make_plan
from tests.sim.world import SPINS, Trace, World


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


LOOK_EVERY_S = 0.7
"""How often retention looks after the logs, whose lives are short here."""


@contextmanager
def _scaled_down(page_limit: int) -> Iterator[None]:
    """Make pages small and retention eager, so that a few facts in a few seconds need several of both."""
    changes: list[tuple[dict[str, Any], str, float]] = [
        (vars(module), "MAX_PAGE_FACTS", page_limit) for module in (store, source, forward)
    ]
    changes.append((vars(retention), "LOOK_EVERY_S", LOOK_EVERY_S))
    before = [names[name] for names, name, _ in changes]
    for names, name, value in changes:
        names[name] = value
    try:
        yield
    finally:
        for (names, name, _), old in zip(changes, before, strict=True):
            names[name] = old


def simulate(seed: int, *, disasters: bool = True, keep: bool = False) -> Outcome:
    """Run one seed; ``keep`` the readable trace and the history."""
    plan, trace, worlds = make_plan(seed, disasters=disasters), Trace(keep=keep), list[World]()

    async def main() -> None:
        worlds.append(World(plan, trace))
        await worlds[0].run()

    problems: list[str] = []
    logging.disable(logging.CRITICAL)
    try:
        with _scaled_down(plan.page_limit):
            determinism.run(seed, main)
    except Exception:  # noqa: BLE001 - whatever the product raises is a finding, told with its seed
        text = traceback.format_exc()
        problems.append(f"liveness: {SPINS}" if SPINS in text else "defect: " + text)
    finally:
        logging.disable(logging.NOTSET)
    world = worlds[0]
    verdict = check(world.book.recorder.events) if not problems else None
    if verdict is not None:
        problems += [f"{v.invariant}: {v.text}" for v in verdict.violations]
        problems += [f"unproven: {text}" for text in verdict.unproven if "no fact was sent" not in text]
        problems += [f"false receipt: {text}" for text in world.book.false_receipts]
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
