# SPDX-License-Identifier: Apache-2.0
"""Suspensions in memory."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from appliance.boundary.names import ProducerId
from appliance.boundary.suspending import Suspension


class FakeSuspensions:
    """A :class:`appliance.boundary.suspending.SuspensionsPort`. The object itself is what survives a restart."""

    def __init__(self) -> None:
        self._found: dict[ProducerId, Suspension] = {}

    def of(self, producer: ProducerId) -> Suspension | None:
        """As the port says."""
        return self._found.get(producer)

    async def suspend(self, producer: ProducerId, detail: str) -> None:
        """As the port says."""
        self._found.setdefault(producer, Suspension(producer, 1, detail))
        await trio.lowlevel.checkpoint()

    def all(self) -> Sequence[Suspension]:
        """As the port says."""
        return tuple(self._found.values())

    def lift(self, producer: ProducerId) -> None:
        """An operator has looked."""
        self._found.pop(producer, None)
