# SPDX-License-Identifier: Apache-2.0
"""The hub is away when the box is switched on: local work goes on, and when the hub is back all of it crosses."""

from __future__ import annotations

from collections.abc import Callable

from tests.vm.conftest import Bench
from tools.vm import guest
from tools.vm.journey import autonomous, beside, speaking


def test_local_work_does_not_wait_for_the_hub(bench: Bench, control: Callable[[], None]) -> None:
    """Facts are stored, durable and answered; nothing needs mending when the hub comes back."""
    control()
    hub, box = bench.hub(), bench.box()
    with beside(box, hub, "alone") as journey:
        agent = journey.machine.wait_agent()
        guest.wait_documents(agent, autonomous, "the box works on its own", 180)
        ids = journey.application.stored("alone", 500)
        assert ids <= set(journey.application.own())
        assert guest.observe(agent)["failed_units"] == ""
        with hub.running():
            guest.wait_documents(agent, speaking, "the box speaks to its hub", 240)
            hub.wait_received(ids, "what was stored while the hub was away", 120)
            received = [fact["envelope"]["message_id"] for fact in hub.received()]
            assert len(received) == len(set(received))
            journey.machine.power_off()
