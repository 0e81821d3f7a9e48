# SPDX-License-Identifier: Apache-2.0
"""The table of the watchdog's states: every line is brought about, and nothing else happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from appliance.watchdog.assessing import Assessor
from appliance.watchdog.gate import Gate
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.quarantine.folder import JOURNAL_FILE
from appliance.watchdog.quarantine.runner import Quarantine
from appliance.watchdog.reporting import State
from appliance.watchdog.suspicions import Code, ProbeName
from appliance.watchdog.transitions import LEAVES, TRANSITIONS, Transition
from appliance.watchdog.watchdog import Watchdog
from tests.unit.test_quarantine_ladder import FakeBox, release_of

BAD = Reading(ProbeName.KERNEL, (Seen(Code.KEXEC_LOADED, "1"),))
CLOSES = Reading(ProbeName.FIREWALL, (Seen(Code.FIREWALL_ABSENT, "uplink0"),))
GOOD = (Reading(ProbeName.KERNEL), Reading(ProbeName.FIREWALL))


@dataclass
class Scene:
    """A watchdog on a box of fakes, whose main loop is turned by hand; every state it is in."""

    box: FakeBox
    folder: Path
    states: list[State | None] = field(default_factory=list)

    def start(self) -> None:
        """A new watchdog process."""
        self.states.append(None)
        self.quarantine: Quarantine = self.box.process()
        probes = frozenset({ProbeName.KERNEL, ProbeName.FIREWALL})
        kernel = self.box.kernel
        self.watchdog = Watchdog(kernel, kernel, self.quarantine, (), self.folder, Assessor(probes, Gate({})))
        self.watchdog.begin()
        self.turn()

    def turn(self) -> None:
        """One round of the main loop and of the lease's thread."""
        self.watchdog.round()
        self.watchdog.renewal.round()
        self.watchdog.round()
        if self.states[-1] is not self.watchdog.state:
            self.states.append(self.watchdog.state)

    def take(self, *readings: Reading) -> None:
        """Probes have looked."""
        for each in readings:
            self.watchdog.take(each)
        self.turn()

    async def climb(self) -> None:
        """Let the quarantine's own task do what is due."""
        with trio.move_on_after(30):
            await self.quarantine.run()
        self.turn()


async def _opened(scene: Scene) -> None:
    scene.start()
    scene.take(*GOOD)


async def _closed(scene: Scene) -> None:
    await _opened(scene)
    scene.take(CLOSES)


async def _quarantined(scene: Scene) -> None:
    await _opened(scene)
    scene.take(BAD)
    await scene.climb()


async def _found_early(scene: Scene) -> None:
    scene.start()
    scene.take(BAD)


async def _found_closed(scene: Scene) -> None:
    await _closed(scene)
    scene.take(BAD)


async def _opened_again(scene: Scene) -> None:
    await _closed(scene)
    scene.take(*GOOD)


async def _started_again(scene: Scene) -> None:
    await _quarantined(scene)
    scene.box.power_cut()
    scene.start()


async def _released(scene: Scene) -> None:
    await _quarantined(scene)
    ladder = scene.quarantine.ladder
    assert ladder is not None
    assert ladder.journal.evidence is not None
    await scene.quarantine.release(release_of(scene.box.lock.counter, ladder.journal.evidence))
    scene.turn()


async def _released_and_crashed(scene: Scene) -> None:
    await _released(scene)
    scene.start()


async def _started(scene: Scene) -> None:
    scene.start()


async def _damaged(scene: Scene) -> None:
    (scene.box.folder / JOURNAL_FILE).write_bytes(b"damaged")
    scene.box.lock.absent = 1
    scene.start()


async def _damaged_and_locked(scene: Scene) -> None:
    scene.box.lock.locked = True
    await _damaged(scene)
    await scene.climb()


async def _damaged_and_free(scene: Scene) -> None:
    await _damaged(scene)
    await scene.climb()


ACTS: dict[tuple[State | None, State], Callable[[Scene], Awaitable[None]]] = {
    (None, State.CHECKING): _started,
    (None, State.QUARANTINED): _started_again,
    (None, State.IN_DOUBT): _damaged,
    (None, State.RELEASED): _released_and_crashed,
    (State.CHECKING, State.OPEN): _opened,
    (State.OPEN, State.CLOSED): _closed,
    (State.CLOSED, State.OPEN): _opened_again,
    (State.CHECKING, State.QUARANTINED): _found_early,
    (State.OPEN, State.QUARANTINED): _quarantined,
    (State.CLOSED, State.QUARANTINED): _found_closed,
    (State.IN_DOUBT, State.QUARANTINED): _damaged_and_locked,
    (State.IN_DOUBT, State.CHECKING): _damaged_and_free,
    (State.QUARANTINED, State.RELEASED): _released,
}
NAMED = {(each.begin, each.end) for each in TRANSITIONS}


def test_each_line_has_an_act() -> None:
    """And each state says what leaves the box."""
    assert set(ACTS) == NAMED
    assert len(NAMED) == len(TRANSITIONS)
    assert set(LEAVES) == set(State)


@pytest.mark.parametrize("line", TRANSITIONS, ids=lambda each: f"{each.begin or 'start'}-{each.end}")
async def test_the_state_becomes_what_the_table_says(
    line: Transition, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """And on the way there nothing happens that is not in the table."""
    scene = Scene(FakeBox.make(tmp_path / "watchdog"), tmp_path)
    await ACTS[line.begin, line.end](scene)
    steps = [(begin, end) for begin, end in pairwise(scene.states) if end is not None]  # None: the process ended
    assert steps[-1] == (line.begin, line.end)
    assert set(steps) <= NAMED
    if LEAVES[line.end].startswith("nothing"):
        assert scene.box.kernel.is_dark
    else:
        assert not scene.box.kernel.is_dark
        assert scene.box.kernel.is_open == (line.end is State.OPEN)
