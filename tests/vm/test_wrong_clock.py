# SPDX-License-Identifier: Apache-2.0
"""The clock chip is years wrong when the box is switched on: it reaches its hub, and facts cross."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import pytest

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tools.vm.journey import FACTS, ORDERS, beside

CHIP: Final = "/sys/class/rtc/rtc0/since_epoch"
YEAR_S: Final = 365 * 86_400


@pytest.mark.parametrize("clock", ["2001-01-01T00:00:00", "2036-06-01T00:00:00"])
def test_a_wrong_clock_does_not_stop_the_box(clock: str, bench: Bench, control: Callable[[], None]) -> None:
    """Boundary time comes from the hub and the TPM; the clock on the wall decides nothing.

    Systemd puts a clock forward that is before the image was built, and no further; how wrong it is then depends on how
    old the image is. The clock chip stays as wrong as it was.
    """
    control()
    hub, box = bench.hub(), bench.box()
    with hub.running(), beside(box, hub, "clock", clock=clock) as journey:
        journey.to_ready()
        wrong_by = abs(journey.seen["unix_s"] - time.time())
        chip_wrong_by = abs(int(journey.machine.agent.read(CHIP)) - time.time())
        sent, came = journey.cross(f"clock-{clock[:4]}")
        stays_calm(journey.machine.agent, "clock_implausible")
        journey.machine.power_off()
    assert chip_wrong_by > YEAR_S, "the machine was not started with a wrong clock"
    assert wrong_by > 60, "the clock was put right before anything could go wrong"
    assert (len(sent), len(came)) == (FACTS, ORDERS)
