# SPDX-License-Identifier: Apache-2.0
"""A box's way from the flasher to a box that exchanges facts with its hub, in steps that can be shown and tested."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.vm import guest, pace
from tools.vm.application import Application
from tools.vm.box import Box
from tools.vm.faults import AwaitedError
from tools.vm.guest import Documents, state
from tools.vm.hardware import TapNetwork, UserNetwork
from tools.vm.hub import BenchHub
from tools.vm.machine import Machine
from tools.vm.segment import Segment

FACTS: Final = 20
ORDERS: Final = 5
TITLE: Final = r"BSFG appliance"
"""How the status page on the serial line begins."""
WORKING: Final = r"WORKING, HUB REACHABLE"
SECURE_BOOT: Final = r"Secure Boot on"
PAGE: Final = r"BSFG appliance +[-0-9]{10} [:0-9]{8} UTC\n={60,}\n(?:.*\n){15,20}-{60,}\n.*\n.*machine [0-9a-f]{32}"
"""A whole page, as it is sent at first and each half minute; between them, only lines that changed."""
Say = Callable[[str], None]


def site_accepted(found: Documents) -> bool:
    """Whether the box has its site configuration."""
    return state(found, "site") == "accepted"


def enrolled(found: Documents) -> bool:
    """Whether the hub has let the box in."""
    return state(found, "enrol") == "enrolled" or state(found, "keeper") == "ready"


def autonomous(found: Documents) -> bool:
    """Whether the box works and cannot reach its hub: everything has started that starts without one."""
    return site_accepted(found) and found.get("agent", {}).get("mode") == "autonomous"


def speaking(found: Documents) -> bool:
    """Whether the watchdog has opened the uplink and the agent exchanges facts with the hub."""
    return state(found, "watchdog") == "open" and found.get("agent", {}).get("mode") == "normal"


def quarantined(found: Documents) -> bool:
    """Whether the watchdog has gone through all steps of the quarantine."""
    steps = found.get("watchdog", {}).get("quarantine", {}).get("steps", [])
    return state(found, "watchdog") == "quarantined" and bool(steps) and all(step["done"] for step in steps)


@dataclass(slots=True)
class Journey:
    """One boot of a box beside its hub, and an application of the plant.

    :ivar seen: what was observed. :ivar times: seconds after power-on, by step.
    """

    machine: Machine
    hub: BenchHub
    application: Application
    say: Say = lambda _: None
    seen: dict[str, Any] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    documents: Documents = field(default_factory=dict)

    def to_ready(self) -> None:
        """Until the box exchanges facts (profile ``test``). :raises AwaitedError: with what is missing."""
        agent = self.machine.wait_agent()
        self._done("booted")
        for name, ready, what in (
            ("configured", site_accepted, "the site configuration is accepted"),
            ("enrolled", enrolled, "the hub lets the box in"),
            ("speaking", speaking, "the box exchanges facts with the hub"),
        ):
            self.documents = guest.wait_documents(agent, ready, what, 240)
            self._done(name)
        self.look()

    def watched_from_outside(self) -> None:
        """Until the box exchanges facts, by its serial line and what the hub knows: for any profile."""
        self.machine.wait(TITLE, what="the status page on the serial line")
        self._done("booted")
        self.machine.wait(SECURE_BOOT, what="the status page says that Secure Boot is on", seconds=60)
        self._done("secure boot")
        self.until(lambda: self.hub.enrolled, "the hub lets the box in", 240)
        self._done("enrolled")
        self.until(lambda: self.hub.attestation == "fresh", "the TPM proves what was started", 240)
        self._done("tpm")
        self.machine.wait(WORKING, what="the status page says that the hub is reached", seconds=240)
        self._done("speaking")

    def look(self) -> dict[str, Any]:
        """What the box is like now; it is kept in :attr:`seen`."""
        self.seen = guest.observe(self.machine.agent)
        return self.seen

    def cross(self, label: str) -> tuple[set[str], set[str]]:
        """Facts both ways: ids that the hub has from the box, and ids that the plant has from the hub.

        :param label: makes their ids new.
        """
        ids = self.application.stored(label, FACTS)
        self.hub.wait_received(ids, "facts from the plant")
        self._done("out")
        before = set(self.application.received())
        self.hub.append([{"order": f"{label}-{number}"} for number in range(ORDERS)])
        came: set[str] = set()

        def all_came() -> bool:
            came.update(set(self.application.received()) - before)
            return len(came) >= ORDERS

        self.until(all_came, "facts of the hub reach the plant", 120)
        self._done("in")
        return ids, came

    def page(self, since: int = 0) -> str:
        """The first whole status page on the serial line behind a position. :raises AwaitedError: there is none."""
        return self.machine.wait(PAGE, what="a whole status page on the serial line", seconds=60, since=since).text

    def until(self, holds: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until something holds. :raises AwaitedError: it does not, or the machine ended."""
        deadline = time.monotonic() + pace.limit(seconds)
        while not holds():
            if not self.machine.alive or time.monotonic() > deadline:
                raise AwaitedError(f"{what}: it did not; the serial line ended with:\n{self.machine.serial.tail()}")
            time.sleep(1)

    def _done(self, name: str) -> None:
        self.times[name] = round(self.machine.age, 1)
        self.say(name)


@contextmanager
def beside(
    box: Box, hub: BenchHub, name: str, *, capture: Path | None = None, say: Say = lambda _: None, **changes: object
) -> Iterator[Journey]:
    """Switch a box on beside its hub and the plant's network. The hub may be away: who wants it runs it.

    :param capture: every frame of the uplink goes there. :param changes: of the box's hardware.
    """
    with Segment(box.folder / f"{name}.plant") as plant:
        networks = (UserNetwork(capture=capture), TapNetwork(plant.descriptor))
        with box.running(name, networks=networks, **changes) as machine:
            yield Journey(machine, hub, Application(plant, hub.secrets), say)
