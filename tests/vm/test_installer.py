# SPDX-License-Identifier: Apache-2.0
"""The installer on the image: started from a stick, it copies itself to a disk of the machine, and that disk is a box.

The stick is a second virtio disk, because the small kernel of the virtual machines has no USB.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from appliance.flash.gpt import VAR
from tools.vm.box import Box
from tools.vm.disk import GROWN, Disk, blank
from tools.vm.hardware import Drive
from tools.vm.hub import BenchHub
from tools.vm.images import Image
from tools.vm.journey import FACTS, ORDERS, beside
from tools.vm.machine import REFUSED, Machine

MENU = r"Install on a disk of this machine"
UP, ENTER = "k", "\r"
TARGET = "target-disk"
MISTYPED = "target-disc"


def test_a_stick_installs_itself_and_the_disk_is_a_box(image: Image, work: Path) -> None:
    """Nothing happens before the disk's serial number is typed; then the disk boots, enrols, and facts cross.

    The stick's site configuration and voucher are on the disk, and nothing else of the stick's: its /var is its own.
    """
    box = Box.new(work / "box", image, work / "vendor")
    hub = BenchHub.make(work / "hub", box.vendor_cas.read_bytes())
    hub.flash(box)
    stick = Disk(work / "stick.raw")
    box.disk.path.rename(stick.path)
    blank(box.disk.path, GROWN)
    drives = (Drive(stick.path, serial="stick", boot=1), Drive(box.disk.path, serial=TARGET))
    with box.running("install", drives=drives) as machine:
        install(machine)
    assert [part.label for part in box.disk.table.partitions if part.kind == VAR] == []
    assert box.disk.table.disk != stick.table.disk
    stick.path.unlink()
    with hub.running():
        hub.publish(image.uki, image.version)
        with beside(box, hub, "installed") as journey:
            journey.to_ready()
            sent, came = journey.cross("installed")
            journey.machine.power_off()
    assert (len(sent), len(came)) == (FACTS, ORDERS)
    built = json.loads((image.folder / "image.json").read_text("utf-8"))
    assert f"roothash={built['roothash']}" in journey.seen["cmdline"]


def install(machine: Machine) -> None:
    """What somebody does who stands in front of the machine with the stick."""
    seen = machine.wait(MENU, what="the boot menu names the installer")
    machine.type(UP + ENTER)
    seen = machine.wait(
        r"Number of the disk to install on: $", what="it asks for a disk", since=seen.end, never=[REFUSED]
    )
    told = machine.serial.text
    assert re.search(
        r"^ +- +/dev/vd[ab] .* serial stick .*cannot be used: .*this system runs from it", told, re.MULTILINE
    )
    assert re.search(rf"^ +1 +/dev/vd[ab] .* serial {TARGET} ", told, re.MULTILINE)
    assert "Site configuration and voucher go with the system" in told
    machine.type("1\n")
    seen = machine.wait(r"Type its serial number to go on: $", what="it wants the serial number", seconds=60)
    machine.type(f"{MISTYPED}\n")
    seen = machine.wait(r"look again", what="a wrong number is refused", seconds=60, since=seen.end)
    seen = machine.wait(r"to go on: $", what="it asks again", seconds=60, since=seen.end)
    machine.type(f"{TARGET}\n")
    machine.wait(
        r"^Done in \d+ s; everything was read back", what="it copies and compares", since=seen.end, seconds=300
    )
    assert machine.wait_end("it switches the machine off", 120).data["reason"] == "guest-shutdown"
