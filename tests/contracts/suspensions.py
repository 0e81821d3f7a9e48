# SPDX-License-Identifier: Apache-2.0
"""What everybody who keeps suspensions does: the contract suite of :class:`SuspensionsPort`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.boundary.names import ProducerId
from appliance.boundary.reasons import Reason
from appliance.boundary.suspending import SuspensionsPort

PRESS, PUMP = ProducerId("press-4"), ProducerId("pump-7")


@dataclass(frozen=True, slots=True)
class World:
    """:param open: after a restart of the process. :param lift: an operator lets a producer in again."""

    open: Callable[[], SuspensionsPort]
    lift: Callable[[SuspensionsPort, ProducerId], None]


class SuspensionsContract:
    """Subclass it with a fixture ``world``."""

    async def test_who_is_suspended_stays_so(self, world: World) -> None:
        """After a restart too, with the first reason; nobody else is."""
        port = world.open()
        assert (port.of(PRESS), list(port.all())) == (None, [])
        await port.suspend(PRESS, "first")
        await port.suspend(PRESS, "second")
        for each in (port, world.open()):
            found = each.of(PRESS)
            assert found is not None
            assert (found.detail, found.refusal().reason) == ("first", Reason.PRODUCER_SUSPENDED)
            assert each.of(PUMP) is None
            assert [one.producer for one in each.all()] == [PRESS]

    async def test_an_operator_lifts_it(self, world: World) -> None:
        """For one and not for the other, and for good."""
        port = world.open()
        await port.suspend(PRESS, "a")
        await port.suspend(PUMP, "b")
        world.lift(port, PRESS)
        for each in (port, world.open()):
            assert each.of(PRESS) is None
            assert each.of(PUMP) is not None
        world.lift(port, PRESS)  # again does nothing
