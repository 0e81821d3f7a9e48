# SPDX-License-Identifier: Apache-2.0
"""What "refused" looks like from outside: what a box that opens nothing says, and what it must not do."""

from __future__ import annotations

from typing import Final

from tools.vm.machine import REFUSED, Machine

STARTED: Final = r"^ BSFG appliance|Reached target .*Multi-User|Welcome to .*bsfg"
"""Signs of a running system: none of them may come from a box that was tampered with."""
KERNEL: Final = r"^\[ +\d+\.\d+\]|Linux version|systemd\[1\]|THIS BOX DOES NOT START"
"""Signs that a kernel was started at all."""
FIRMWARE_REFUSES: Final = r"(?i)security violation|access denied|verification failed"
PROMPT: Final = r"(?i)(login:|password:|press enter for maintenance|^[#$] $|\(initramfs\)|passphrase)"
"""Signs of somebody being asked."""
FACTS: Final = "nothing of /var is opened, the box says so, asks nobody for anything, and starts again"


def opens_nothing(machine: Machine, *, to_the_end: bool = False) -> float:
    """The initrd refuses: it says so, and asks nobody. Seconds until it said so.

    :param to_the_end: wait until the machine starts again, as it does a quarter of a minute later: the same each time.
    """
    machine.wait(REFUSED, what="the initrd refuses", never=[STARTED, PROMPT])
    said = machine.age
    if to_the_end:
        assert machine.wait_end("it starts again", 60).data["reason"] == "guest-reset"
    assert not machine.serial.has(STARTED)
    assert not machine.serial.has(PROMPT)
    return said


def firmware_refuses(machine: Machine) -> float:
    """The firmware refuses: it says so, and no kernel is started. Seconds until it said so."""
    machine.wait(FIRMWARE_REFUSES, what="the firmware refuses", never=[KERNEL, STARTED])
    said = machine.age
    assert not machine.serial.has(KERNEL)
    return said
