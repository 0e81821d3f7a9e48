# SPDX-License-Identifier: Apache-2.0
"""The power button: the box closes everything and switches itself off, with nobody logged in and no agent asked."""

from __future__ import annotations

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tools.vm import guest, pace
from tools.vm.faults import AwaitedError
from tools.vm.journey import autonomous

JOURNAL = ("/usr/bin/journalctl", "--no-pager", "-o", "cat", "--boot=-1")
PRESSED = "was pressed, this box is switched off"
HELD_OFF_S = 15


def test_the_power_button_switches_the_box_off(bench: Bench) -> None:
    """By the firmware's event; with the button's unit stopped the same press does nothing. The journal tells of it."""
    box = bench.box()
    with box.running("pressed") as machine:
        agent = machine.wait_agent()
        guest.wait_documents(agent, autonomous, "everything has started", 180)
        listed = agent.run("/usr/bin/systemctl", "list-units", "--plain", "--no-legend", "bsfg-power@*.socket").text
        (unit,) = (line.split()[0] for line in listed.splitlines())
        agent.check("/usr/bin/systemctl", "stop", unit)
        machine.monitor.command("system_powerdown")
        try:
            machine.wait_end("nothing: nobody waits for the button", HELD_OFF_S / pace.limit(1.0))
            raise AssertionError("it was switched off by something else")
        except AwaitedError:
            pass
        agent.check("/usr/bin/systemctl", "start", unit)
        machine.monitor.command("system_powerdown")
        assert machine.wait_end("power-off by the button", 90).data["reason"] == "guest-shutdown"
    with box.running("after") as machine:
        agent = machine.wait_agent()
        before = agent.run(*JOURNAL).text
        assert PRESSED in before
        assert "Stopped target bsfg.target" in before, before[-4000:]
        assert "recovering journal" not in agent.run("/usr/bin/journalctl", "--no-pager", "-o", "cat", "-k", "-b").text
        stays_calm(agent)
        machine.power_off()
