# SPDX-License-Identifier: Apache-2.0
"""What happens on healthy boxes, and must put none into quarantine: one table, for tests and benches.

Each line is a probe on a healthy box and something that is done to it as often as one likes. **Simulated** in a
laid-out tree unless it says ``real`` (namespaces, files, processes).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from appliance.box.applying import Applying
from appliance.box.site import run as run_site
from appliance.watchdog.probes.disk import DiskProbe
from appliance.watchdog.probes.firmware import IMAGES, FirmwareProbe
from appliance.watchdog.probes.hardware import HardwareProbe
from appliance.watchdog.probes.kernel import KernelProbe
from appliance.watchdog.probes.mounts import MountsProbe, table_of
from appliance.watchdog.probes.verity import VerityProbe
from appliance.watchdog.probing import Probe, Reading
from appliance.watchdog.suspicions import SUSPICIONS, Code
from tests.laidout import MOUNTS, LaidOut, SaidByKernel
from tests.tampering import SLEEP, UNIT, Ground, as_agent, configured, idle_scrub, processes


@dataclass(slots=True)
class Calm:
    """A probe and something that is none of its business. :param act: does it once more; the argument is chance."""

    probe: Probe
    act: Callable[[random.Random], object]

    def look(self, chance: random.Random) -> Reading:
        """Do it, and look. :raises AssertionError: what is seen quarantines, or nothing can be seen."""
        self.act(chance)
        reading = self.probe.look()
        assert [each for each in reading.seen if SUSPICIONS[each.code].quarantines] == [], reading
        assert reading.blind == "", reading
        return reading


@dataclass(frozen=True, slots=True)
class Benign:
    """One kind. :param notes: codes that people are told, and no more."""

    what: str
    calm: Callable[[Ground], AbstractContextManager[Calm]]
    notes: frozenset[Code] = frozenset()
    real: bool = False


def _laid_out(
    probe: Callable[[LaidOut], Probe], act: Callable[[LaidOut, random.Random], object]
) -> Callable[[Ground], AbstractContextManager[Calm]]:
    @contextmanager
    def calm(ground: Ground) -> Iterator[Calm]:
        tree = ground.tree()
        made = probe(tree)
        try:
            yield Calm(made, lambda chance: act(tree, chance))
        finally:
            made.close()

    return calm


def _mounts(tree: LaidOut, chance: random.Random) -> None:
    """Sticks, credentials and the boot partition come and go."""
    lines = [line for line in MOUNTS.splitlines(keepends=True) if " vfat " not in line or chance.random() < 0.5]
    if chance.random() < 0.5:
        lines.append("70 35 8:17 / /run/bsfg/stick ro,nosuid,nodev,noexec,nosymfollow - vfat /dev/sdb1 ro\n")
    elif chance.random() < 0.5:
        lines.append("70 35 8:17 / /run/bsfg/carry rw,nosuid,nodev,noexec,nosymfollow - vfat /dev/sdb1 rw\n")
    for number in range(chance.randrange(4)):
        point = f"/run/credentials/unit-{chance.randrange(100)}.service"
        lines.append(f"{80 + number} 35 0:{90 + number} / {point} ro,nosuid,nodev,noexec - tmpfs tmpfs rw\n")
    tree.mounts("".join(lines))


def _modules(tree: LaidOut, chance: random.Random) -> None:
    """Modules of the image are loaded and taken away: a stick's driver, a port's."""
    names = ("usb_storage", "uas", "e1000e", "dm_verity", "nft_ct")
    for name in names:
        tree.put(f"usr/lib/modules/6.12.118+deb13-cloud-amd64/kernel/{name.replace('_', '-')}.ko.xz", b"module")
    tree.put("proc/modules", "".join(f"{name} 1 0 - Live 0x0\n" for name in names if chance.random() < 0.6))


def _warnings(tree: LaidOut, chance: random.Random) -> None:
    """Defects of drivers, of memory, of the processor: of the kernel's flags those that they set."""
    tree.put("proc/sys/kernel/tainted", sum(1 << chance.choice((2, 4, 5, 9, 11, 14, 17)) for _ in range(1)))


def _kernel(tree: LaidOut) -> Probe:
    for number in range(3):
        tree.put(f"usr/lib/modules/6.12.118+deb13-cloud-amd64/kernel/n{number}.ko", b"module")
    return KernelProbe(tree.places)


def _disk(tree: LaidOut, chance: random.Random) -> None:
    tree.put("sys/fs/ext4/dm-1/errors_count", chance.randrange(5))
    tree.put("sys/block/sda/device/ioerr_cnt", hex(chance.randrange(100)))


@contextmanager
def _events(ground: Ground) -> Iterator[Calm]:
    """Other devices speak, and udev has events repeated."""
    kernel = SaidByKernel()
    probe = VerityProbe(ground.tree().places, lambda: kernel, idle_scrub)

    def act(chance: random.Random) -> None:
        block = {"DM_VERITY_ERR_BLOCK_NR": f"0,{chance.randrange(1000)}"}
        kernel.say("change", "/devices/virtual/block/dm-0", {**block, "SYNTH_UUID": "0"})
        kernel.say(chance.choice(("change", "add", "remove")), "/devices/virtual/block/dm-1", {"DM_COOKIE": "1"})
        kernel.say("change", "/devices/pci0/sda", {"DISK_MEDIA_CHANGE": "1"})

    try:
        yield Calm(probe, act)
    finally:
        probe.close()


@contextmanager
def _sticks(ground: Ground) -> Iterator[Calm]:
    """Sticks and keyboards are put in and taken out."""
    kernel, tree = SaidByKernel(), ground.tree()
    probe = HardwareProbe(tree.places, lambda: kernel, clock=ground.clock)

    def act(chance: random.Random) -> None:
        name = f"1-{chance.randrange(8)}"
        there = tree.root / "sys/bus/usb/devices" / name
        kernel.say("remove" if there.exists() else "add", f"/devices/usb1/{name}", {"DEVTYPE": "usb_device"})
        if there.exists():
            shutil.rmtree(there)
        else:
            tree.put(f"sys/bus/usb/devices/{name}/product", "a stick")

    try:
        yield Calm(probe, act)
    finally:
        probe.close()


@contextmanager
def _applied_again(ground: Ground) -> Iterator[Calm]:
    """bsfg-site runs once more."""
    with configured(ground) as (at, probe):
        yield Calm(probe, lambda _: run_site(at, Applying(at)))


@contextmanager
def _reloaded(ground: Ground) -> Iterator[Calm]:
    """Systemd reads its units again: the generated ones go and come."""
    with configured(ground) as (at, probe):
        probe.look()
        folder = at.root / "run/systemd/generator"
        names = {path.name: path.read_bytes() for path in folder.iterdir()}

        def act(chance: random.Random) -> None:
            for name, data in names.items():
                (folder / name).unlink(missing_ok=True)
                if chance.random() < 0.7:
                    (folder / name).write_bytes(data)

        yield Calm(probe, act)


@contextmanager
def _services_start_again(ground: Ground) -> Iterator[Calm]:
    """The agent ends, by itself or by a signal, and is started again; others run beside it."""
    with processes(ground) as (probe, stack):

        def act(chance: random.Random) -> None:
            if chance.random() < 0.5:
                stack.close()
            stack.enter_context(ground.space.process(*as_agent(SLEEP, "600"), unit=UNIT, runs="sleep"))

        yield Calm(probe, act)


@contextmanager
def _other_tables(ground: Ground) -> Iterator[Calm]:
    """Services with mounts of their own start and end; in the box's own table nothing changes."""
    space = ground.space
    points = space.places.mountinfo.read_text("utf-8")
    if " /run/netns " in points:  # the same file system as / on machines that are no box
        space.run("umount", "--lazy", "/run/netns")
    space.run("mount", "-o", "remount,bind,ro", "/")
    probe = MountsProbe(space.places, table_of(space.places.mountinfo.read_text("utf-8")))
    script = f"mount -t tmpfs x /media && mount -t tmpfs y /var && exec {SLEEP} 600"
    words = ("unshare", "--mount", "--propagation=private", "sh", "-c", script)

    def act(_: random.Random) -> None:
        with space.process(*words, runs="sleep"):
            for _look in range(6):
                reading = probe.look()
                assert (reading.seen, reading.blind) == ((), "")

    try:
        yield Calm(probe, act)
    finally:
        probe.close()
        space.run("mount", "-o", "remount,bind,rw", "/")


def _sensor_again(tree: LaidOut, chance: random.Random) -> None:
    """Revocations come; who may start the machine stays."""
    tree.variable("dbx", chance.randbytes(16), IMAGES)
    FirmwareProbe(tree.places, tree.kept).look()


BENIGN: Final = (
    Benign("mounts that a box has come and go", _laid_out(lambda tree: MountsProbe(tree.places), _mounts)),
    Benign("modules of the image come and go", _laid_out(_kernel, _modules)),
    Benign("the kernel warns", _laid_out(_kernel, _warnings), frozenset({Code.KERNEL_WARNED})),
    Benign("a disk wears out", _laid_out(lambda tree: DiskProbe(tree.places), _disk), frozenset({Code.DISK_FAILING})),
    Benign("other devices have events", _events),
    Benign("sticks come and go", _sticks, frozenset({Code.USB_INSERTED})),
    Benign(
        "the sensor starts again, dbx grows",
        _laid_out(lambda tree: FirmwareProbe(tree.places, tree.kept), _sensor_again),
    ),
    Benign("the site configuration is applied again", _applied_again, real=True),
    Benign("systemd reads its units again", _reloaded, real=True),
    Benign("a service is started again", _services_start_again, real=True),
    Benign("services with mounts of their own", _other_tables, real=True),
)
"""All of them."""
