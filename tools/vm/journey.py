# SPDX-License-Identifier: Apache-2.0
"""A box's way from the flasher to a box that exchanges facts with its hub, in steps that can be shown and tested."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tools.vm import guest, pace
from tools.vm.application import Application, admit
from tools.vm.faults import AwaitedError
from tools.vm.guest import Documents, state
from tools.vm.hub import BenchHub
from tools.vm.machine import Machine

FACTS: Final = 20
ORDERS: Final = 5
Say = Callable[[str], None]


def site_accepted(found: Documents) -> bool:
    """Whether the box has its site configuration."""
    return state(found, "site") == "accepted"


def enrolled(found: Documents) -> bool:
    """Whether the hub has let the box in."""
    return state(found, "enrol") == "enrolled" or state(found, "keeper") == "ready"


def speaking(found: Documents) -> bool:
    """Whether the watchdog has opened the uplink and the agent exchanges facts with the hub."""
    return state(found, "watchdog") == "open" and found.get("agent", {}).get("mode") == "normal"


@dataclass(slots=True)
class Journey:
    """One boot of a box beside its hub. :ivar seen: what was observed. :ivar times: seconds after power-on, by step."""

    machine: Machine
    hub: BenchHub
    say: Say = lambda _: None
    seen: dict[str, Any] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    documents: Documents = field(default_factory=dict)

    def to_ready(self) -> None:
        """Until the box exchanges facts. :raises AwaitedError: with what is missing."""
        agent = self.machine.wait_agent()
        self._done("booted")
        for name, ready, what in (
            ("configured", site_accepted, "the site configuration is accepted"),
            ("enrolled", enrolled, "the hub lets the box in"),
            ("speaking", speaking, "the box exchanges facts with the hub"),
        ):
            self.documents = guest.wait_documents(agent, ready, what, 180)
            self._done(name)
        self.look()

    def look(self) -> dict[str, Any]:
        """What the box is like now; it is kept in :attr:`seen`."""
        self.seen = guest.observe(self.machine.agent)
        return self.seen

    def application(self) -> Application:
        """The test's application on the box."""
        return admit(self.machine.agent)

    def cross(self, label: str) -> tuple[set[str], set[str]]:
        """Facts both ways; ids that the hub has from the box, and the number of those that the box has from the hub.

        :param label: makes their ids new.
        """
        application = self.application()
        ids = application.stored(label, FACTS)
        self.hub.wait_received(ids, "facts from the box")
        self._done("out")
        before = set(application.received())
        self.hub.append([{"order": f"{label}-{number}"} for number in range(ORDERS)])
        came = self._wait_orders(application, before)
        self._done("in")
        return ids, came

    def _wait_orders(self, application: Application, before: set[str]) -> set[str]:
        deadline = time.monotonic() + pace.limit(60)
        while True:
            came = set(application.received()) - before
            if len(came) >= ORDERS:
                return came
            if time.monotonic() > deadline:
                raise AwaitedError(f"facts of the hub on the box: {len(came)} of {ORDERS} came")
            time.sleep(1)

    def _done(self, name: str) -> None:
        self.times[name] = round(self.machine.age, 1)
        self.say(name)
