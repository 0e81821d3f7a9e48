# SPDX-License-Identifier: Apache-2.0
"""All that a technician does with USB sticks, on the image for boxes: its driver, its mount, a FAT file system.

The image is that of profile ``metal``, as it is shipped: there is no agent in it, so everything is seen from outside,
on the serial line, on the sticks and at the hub. QEMU's USB controller and sticks stand for those of a machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from appliance.flash.gpt import ROOT_X86_64
from tests.vm.releasing import signed_by_both
from tools.vm import roots
from tools.vm.box import Box
from tools.vm.disk import Esp
from tools.vm.faults import NotBuiltError
from tools.vm.frames import Frames
from tools.vm.hardware import UPLINK_MAC
from tools.vm.hub import SITE_ON_ESP, VOUCHER_ON_ESP, ZONE, BenchHub, fingerprint
from tools.vm.images import Image
from tools.vm.journey import FACTS, beside
from tools.vm.machine import Machine
from tools.vm.stick import Stick

NOT_CONFIGURED: Final = r"NOT CONFIGURED"
QUARANTINED: Final = r"QUARANTINED"
FIRST_BOOT_S: Final = 300.0
"""The disk is made, and its recovery key shown for a minute, before there is a page."""
SCRUBBED_S: Final = 420.0
"""The first scrub begins four minutes after the watchdog (:mod:`appliance.watchdog.probes.scrub`)."""


@pytest.fixture(scope="module")
def metal() -> Image:
    """The image of profile ``metal``."""
    try:
        return Image.find("metal")
    except NotBuiltError as error:
        pytest.fail(str(error), pytrace=False)


def test_sticks_configure_a_box_and_bring_it_out_of_quarantine(metal: Image, work: Path) -> None:
    """A box with no configuration gets one; later a block of its image is damaged: dark, evidence, release, facts.

    The damage is on the disk and nobody reads that block: the watchdog's scrub finds it, and the kernel tells.
    """
    box = Box.new(work / "box", metal, work / "vendor")
    hub = BenchHub.make(work / "hub", box.vendor_cas.read_bytes())
    with hub.running():
        hub.publish(metal.uki, metal.version)
        configure(box, hub, work)
        with beside(box, hub, "speaking", usb=True) as journey:
            journey.watched_from_outside()
            before, _ = journey.cross("before")
            journey.machine.power_off()
        damage = roots.damage_seldom_read_file(box.disk, work / "root.raw")
        stored = quarantined_and_released(box, hub, work)
        box.disk.flip(box.disk.of_kind(ROOT_X86_64), damage.offset)  # which puts it right
        with beside(box, hub, "released", usb=True) as journey:
            journey.watched_from_outside()
            received = hub.wait_received(before | stored, "what was stored in quarantine crosses after it", 180)
            journey.machine.power_off()
    ids = [fact["envelope"]["message_id"] for fact in received]
    assert len(ids) == len(set(ids)), "facts are doubled"
    assert len(before) == len(stored) == FACTS


def configure(box: Box, hub: BenchHub, folder: Path) -> None:
    """The box waits for a stick; it takes what is on it, and starts again by itself."""
    voucher = hub.alone.voucher(ZONE, fingerprint(box))
    stick = Stick(folder / "site.stick", [(SITE_ON_ESP, hub.site()), (VOUCHER_ON_ESP, voucher)])
    with beside(box, hub, "configured", usb=True) as journey:
        machine = journey.machine
        machine.wait(NOT_CONFIGURED, what="the page says that there is no site configuration", seconds=FIRST_BOOT_S)
        stick.put_in(machine)
        machine.wait(r"stick_reading", what="the page says that the stick is read", seconds=120)
        ended = machine.wait_end("the configuration is taken, and the box starts again", 180)
        assert ended.data["reason"] == "guest-reset"


def quarantined_and_released(box: Box, hub: BenchHub, folder: Path) -> set[str]:
    """The scrub finds the damage; the evidence goes out by one stick, the release comes in by another.

    What the plant stored meanwhile.
    """
    capture = folder / "dark.pcap"
    with beside(box, hub, "dark", usb=True, capture=capture) as journey, Frames(capture, UPLINK_MAC) as frames:
        machine = journey.machine
        machine.wait(QUARANTINED, what="the scrub finds the damage", seconds=SCRUBBED_S)
        machine.wait(r"verity_corrupt", what="the page says what is wrong", seconds=60)
        stored, dark = journey.application.stored("dark", FACTS), len(frames.frames)
        evidence, request = fetched(machine, folder)
        release = signed_by_both(hub, request, evidence, folder)
        stick = Stick(folder / "release.stick", [("bsfg/release.json", release.read_bytes())])
        stick.put_in(machine)
        ended = machine.wait_end("the release is taken, and the box starts again", 180)
        assert ended.data["reason"] == "guest-reset"
        assert len(frames.frames) == dark, "frames left a box in quarantine"
    return stored


def fetched(machine: Machine, folder: Path) -> tuple[Path, Path]:
    """Have the box write its evidence onto a stick that asks for it: bundle, with its seal beside it, and request."""
    stick = Stick(folder / "evidence.stick", [("bsfg/take-evidence", b"")])
    since = machine.serial.position
    stick.put_in(machine)
    machine.wait(r"stick_written", what="the page says that the evidence is on the stick", since=since, seconds=180)
    stick.take_out(machine)
    place = folder / "evidence"
    place.mkdir()
    for name in brought(stick.files):
        (place / name.rpartition("/")[2]).write_bytes(stick.files.read(name))
    (bundle,), (request,) = place.glob("*.evidence.json"), place.glob("*.request.json")
    return bundle, request


def brought(files: Esp) -> list[str]:
    """What the box wrote: three files in one folder, and nothing else is new."""
    names = [name for name in files.names() if name != "bsfg/take-evidence"]
    assert len(names) == 3
    assert len({name.rpartition("/")[0] for name in names}) == 1
    return names
