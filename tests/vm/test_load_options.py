# SPDX-License-Identifier: Apache-2.0
"""Load options: a command line that boot loader or firmware hands to the signed kernel image. It is not taken.

A kernel image without a command line of its own would take it, signed as it is. Ours has one, and with Secure Boot on
its stub looks at no other. Taken or not, what the boot loader hands over is measured into PCR 12, which our keys want
zero; what the firmware hands over is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tests.vm.refusing import opens_nothing
from tools.vm import firmware
from tools.vm.journey import beside

EXTRA: Final = "init=/usr/bin/echo systemd.unit=emergency.target rd.systemd.debug_shell=1"
STARTED_BY: Final = """
import pathlib
variables = pathlib.Path("/sys/firmware/efi/efivars")
def read(name):
    return (variables / f"{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c").read_bytes()[4:]
entry = read("Boot%04X" % int.from_bytes(read("BootCurrent"), "little"))
print(list(variables.glob("LoaderInfo-*")), entry)
"""
"""What systemd-boot leaves behind, and the firmware's entry that this boot came by, its options at the end."""


def test_options_of_a_boot_menus_entry_open_nothing(bench: Bench, control: Callable[[], None]) -> None:
    """An entry of the attacker's own in the boot loader's menu, started without asking: it starts the signed image."""
    control()
    box = bench.box()
    esp = box.disk.esp
    esp.write("loader/entries/attack.conf", f"title attack\nefi /{esp.uki()}\noptions {EXTRA}\n".encode())
    esp.write("loader/loader.conf", b"default attack.conf\ntimeout 0\n")
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_options_of_the_firmwares_entry_are_not_taken(bench: Bench, control: Callable[[], None]) -> None:
    """The firmware starts the signed image itself, without the boot loader: the box works as ever, with its own."""
    control()
    hub, box = bench.hub(), bench.box()
    esp = box.disk.partition("esp")
    number = box.disk.table.partitions.index(esp) + 1
    firmware.start_first(box.variables, number, esp, box.disk.esp.uki(), EXTRA)
    with hub.running(), beside(box, hub, "attack") as journey:
        journey.to_ready()
        usual = bench.golden.report["seen"]
        started_by = journey.machine.agent.python(STARTED_BY)
        assert started_by.startswith("[]"), "the boot loader was started: the attack did not arrive"
        assert repr(EXTRA.encode("utf-16-le"))[2:-1] in started_by, "nothing was handed over: the attack did not arrive"
        assert journey.seen["cmdline"] == usual["cmdline"]
        assert journey.seen["pcrs"]["12"] == usual["pcrs"]["12"]
        journey.cross("attack")
        stays_calm(journey.machine.agent)
        journey.machine.power_off()
