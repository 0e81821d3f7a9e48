# SPDX-License-Identifier: Apache-2.0
"""The system stands still: the hardware's watchdog starts it again, and that is no tampering.

The watchdog is QEMU's i6300esb; the guest's service manager feeds it. It is frozen here by its control group.
"""

from __future__ import annotations

import time
from typing import Final

from tests.vm.conftest import Bench
from tools.vm import guest, pace
from tools.vm.journey import beside, speaking

FED_S: Final = 45.0
"""Longer than the timer runs (HRD-SVC-021, 30 s): who is alive by then has fed it."""
EVENT: Final = "WATCHDOG"


def test_a_system_that_hangs_is_started_again(bench: Bench) -> None:
    """Fed, the timer says nothing; with the service manager frozen it resets the machine, which then speaks again."""
    hub, box = bench.hub(), bench.box()
    with hub.running():
        with box.running("hung") as machine:
            agent = machine.wait_agent()
            time.sleep(pace.limit(FED_S))
            assert EVENT not in {event.name for event in machine.monitor.events}
            agent.write("/sys/fs/cgroup/init.scope/cgroup.freeze", b"1")
            machine.monitor.wait_event(EVENT, pace.limit(90))
            assert machine.wait_end("the machine starts again", 60).data["reason"] == "guest-reset"
        with beside(box, hub, "again") as journey:
            journey.to_ready()
            assert speaking(guest.documents(journey.machine.agent)), "a hang is no reason for a quarantine"
            journey.machine.power_off()
