# SPDX-License-Identifier: Apache-2.0
"""An egress lease in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.watchdog.lease import LEASE_S


class FakeLease:
    """An :class:`~appliance.watchdog.lease.EgressLease` and a :class:`~appliance.watchdog.lease.Blackout`.

    :param clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = -float("inf")
        self.broken = False
        self.judged = True
        """Whether frames are judged on the device."""
        self.stuck: threading.Event | None = None
        """A call waits for it, as for a kernel that does not answer."""
        self.why: str | None = None
        """Why it is dark."""
        self.walled = False
        """It is dark although no firewall stands."""
        self.impenetrable = False
        """Not even that can be had."""
        self.renewals = 0
        self.closings = 0

    def renew(self) -> None:
        """As the port says."""
        if not self.judged:
            self.close()
            raise UnavailableError(Reason.FIREWALL_FAULT, "the test took the judge away")
        self._meet()
        self._until = self._clock() + LEASE_S
        self.renewals += 1

    def close(self) -> None:
        """As the port says."""
        self._meet()
        self._until = -float("inf")
        self.closings += 1

    def dark(self, why: str) -> None:
        """As the port says."""
        if self.stuck is not None:
            self.stuck.wait()
        if self.impenetrable:
            raise UnavailableError(Reason.FIREWALL_FAULT, "the test says so")
        self.walled = self.walled or self.broken
        self.why = why
        self._until = -float("inf")

    def darkened(self) -> str | None:
        """As the port says."""
        if not self.walled:
            self._meet()
        return self.why

    def light(self) -> None:
        """As the port says."""
        self._meet()
        self.why, self.walled, self._until = None, False, -float("inf")

    @property
    def is_dark(self) -> bool:
        """Whether nothing at all may leave now."""
        return self.why is not None

    @property
    def is_open(self) -> bool:
        """Whether packets may leave now."""
        return self._clock() < self._until and self.why is None

    def _meet(self) -> None:
        if self.stuck is not None:
            self.stuck.wait()
        if self.broken:
            raise UnavailableError(Reason.FIREWALL_FAULT, "the test says so")
