# SPDX-License-Identifier: Apache-2.0
"""The machine is killed while facts are stored and cross: nothing that was confirmed is lost, nothing is doubled.

A power cut as far as the guest can tell. Not as far as the disk can: what the guest has written the host keeps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tools.vm import guest, pace
from tools.vm.application import Application, confirmed
from tools.vm.faults import VmError
from tools.vm.hub import BenchHub
from tools.vm.journey import Journey, beside, speaking

ROUNDS = 2
SEED = 1
PREFIX = "load"
BATCH = 50


class Load:
    """Appends facts from the plant until told to end, in a thread; what is confirmed is noted outside of the box."""

    def __init__(self, application: Application, first: int) -> None:
        self.application = application
        self.next = first
        self.confirmed: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            first = self.next
            self.next += BATCH
            try:
                answers = self.application.append(PREFIX, BATCH, first=first, patience=5)
            except (VmError, OSError, ValueError):
                return
            self.confirmed |= confirmed(answers)

    def join(self) -> None:
        """End it when its last request is answered, or is not."""
        self._over.set()
        self._thread.join(pace.limit(120))
        assert not self._thread.is_alive()


def test_a_kill_loses_nothing_that_was_confirmed(bench: Bench, control: Callable[[], None]) -> None:
    """At a random moment, and again when the box is back; it comes back by itself, and both sides agree each time."""
    control()
    hub, box = bench.hub(), bench.box()
    random, confirmed_ever, first = Random(SEED), set[str](), 0
    with hub.running():
        for attempt in range(ROUNDS + 1):
            with beside(box, hub, f"boot-{attempt}") as journey:
                journey.to_ready()
                agree(journey, hub, confirmed_ever)
                if attempt == ROUNDS:
                    journey.machine.power_off()
                    break
                load = Load(journey.application, first)
                load.start()
                time.sleep(pace.limit(random.uniform(8, 25)))
                journey.machine.kill()
                load.join()
            assert load.confirmed, "nothing was stored before the kill"
            confirmed_ever |= load.confirmed
            first = load.next


def agree(journey: Journey, hub: BenchHub, confirmed_ever: set[str]) -> None:
    """The box has what it confirmed, once, and all that it has is at the hub, once."""
    stored = [name for name in journey.application.own() if name.startswith(PREFIX)]
    assert confirmed_ever <= set(stored), "confirmed facts are lost"
    assert len(stored) == len(set(stored)), "facts are doubled"
    hub.wait_received(set(stored), "everything that is stored on the box reaches the hub", 180)
    received = [fact["envelope"]["message_id"] for fact in hub.received()]
    assert len(received) == len(set(received))
    assert speaking(guest.documents(journey.machine.agent))
    stays_calm(journey.machine.agent)
