# SPDX-License-Identifier: Apache-2.0
"""A box with 512 MB of memory: it boots, enrols nothing anew, and exchanges facts; the kernel ends no process."""

from __future__ import annotations

from collections.abc import Callable

from tests.vm.conftest import Bench
from tools.vm.journey import FACTS, ORDERS, beside

LEAST_AVAILABLE_KIB = 48 * 1024


def test_512_mb_are_enough(bench: Bench, control: Callable[[], None]) -> None:
    """With 2000 facts stored at once, and some memory left."""
    control()
    hub, box = bench.hub(), bench.box()
    with hub.running(), beside(box, hub, "small", memory_mib=512) as journey:
        journey.to_ready()
        sent, came = journey.cross("small")
        journey.application.stored("many", 2000)
        agent, serial = journey.machine.agent, journey.machine.serial
        memory = agent.read("/proc/meminfo").decode().splitlines()
        available = next(int(line.split()[1]) for line in memory if line.startswith("MemAvailable"))
        killed = [line for line in agent.read("/proc/vmstat").decode().splitlines() if line.startswith("oom_kill ")]
        journey.machine.power_off()
    assert (len(sent), len(came)) == (FACTS, ORDERS)
    assert killed == ["oom_kill 0"]
    assert available > LEAST_AVAILABLE_KIB
    assert not serial.has("Out of memory")
