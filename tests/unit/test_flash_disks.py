# SPDX-License-Identifier: Apache-2.0
"""Disks: the contract, what sysfs says, and every guard. Device files are simulated by regular files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.disks import DiskFacts
from appliance.flash.guards import GUARDS, check_confirmation, check_disk, refusals
from appliance.flash.sysfs import SysfsDisks
from tests.contracts.disks import SIZE, DisksContract, World
from tests.fakes.disks import FakeDisks
from tests.sysfs_tree import SysfsTree

USB = "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0"
STICK = DiskFacts("sdb", Path("/dev/sdb"), "SanDisk Ultra", "STICK1", "usb", SIZE, removable=True)
SYSTEM = DiskFacts("sda", Path("/dev/sda"), "SAMSUNG SSD", "S1", "sata", SIZE, system=("/",))


@pytest.fixture
def tree(tmp_path: Path) -> SysfsTree:
    """A system disk and a stick."""
    tree = SysfsTree(tmp_path)
    tree.disk("sda", SIZE, serial="S1", model="SAMSUNG SSD", vendor="ATA", parts=3)
    tree.disk("sdb", SIZE, model="Ultra", vendor="SanDisk", bus=USB, usb_serial="STICK1", removable=True, parts=1)
    tree.disk("sr0", SIZE, bus="pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0")
    tree.mount("sda2", "/")
    (tmp_path / "dev/disk/by-id/usb-stick").symlink_to("../../sdb")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("")
    return tree


def disk(tree: SysfsTree, name: str = "sdb") -> DiskFacts:
    """Its facts."""
    return SysfsDisks(tree.root).facts(Path("/dev") / name)


class TestSysfs(DisksContract):
    """The real implementation, over the made-up tree."""

    @pytest.fixture
    def world(self, tree: SysfsTree) -> World:
        """The contract's world."""
        return World(SysfsDisks(tree.root))


class TestFake(DisksContract):
    """The fake."""

    @pytest.fixture
    def world(self) -> World:
        """The contract's world."""
        disks = FakeDisks(SYSTEM, STICK, DiskFacts("sr0", Path("/dev/sr0"), "", "", "sata", SIZE, known=False))
        disks.partitions = {"sdb1": "sdb"}
        disks.links = {"/dev/disk/by-id/usb-stick": "/dev/sdb"}
        return World(disks)


# -- what sysfs says ---------------------------------------------------------------------------------------------------

BUSES = [
    ("nvme0n1", "pci0000:00/0000:00:1d.0/0000:01:00.0/nvme/nvme0", "nvme", "NV1", "NV1"),
    ("mmcblk0", "pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:0001", "mmc", "0x1234", "0x1234"),
    ("vda", "pci0000:00/0000:00:04.0/virtio1", "virtio", "VM1", "VM1"),
    ("sdz", "pci0000:00/0000:00:17.0/ata3/host2/target2:0:0/2:0:0:0", "sata", "WD1", "WD1"),
    ("sdy", "pci0000:00/0000:00:17.0/host9/target9:0:0/9:0:0:0", "scsi", "", ""),
]


@pytest.mark.parametrize(("name", "bus", "transport", "serial", "told"), BUSES)
def test_buses(tmp_path: Path, name: str, bus: str, transport: str, serial: str, told: str) -> None:
    """Where each kind tells its serial number."""
    tree = SysfsTree(tmp_path)
    tree.disk(name, SIZE, bus=bus, serial=serial)
    found = disk(tree, name)
    assert (found.transport, found.serial, found.known) == (transport, told, True)
    assert found.confirmation == (told or str(SIZE))


def test_names_of_devices_are_fit_for_a_terminal(tmp_path: Path) -> None:
    """A device may say anything of itself."""
    tree = SysfsTree(tmp_path)
    tree.disk("sdb", SIZE, bus=USB, model="Evil\x1b[2J", usb_serial="A\x1b]0;B\x07", vendor="X")
    found = disk(tree)
    assert (found.model, found.serial) == ("X Evil[2J", "A]0;B")


def test_parts_that_are_not_the_whole_card(tmp_path: Path) -> None:
    """Boot areas of eMMC, optical drives, memory and hidden paths are no disks to be listed."""
    tree = SysfsTree(tmp_path)
    for name in ("mmcblk0boot0", "sr0", "zram0", "ram0", "fd0", "nbd0"):
        tree.disk(name, SIZE, bus=f"virtual/{name}")
    tree.disk("nvme0n1", SIZE, bus="pci/nvme/nvme0")
    hidden = tree.root / "sys/block/nvme0n1/hidden"
    hidden.write_text("1\n")
    assert SysfsDisks(tmp_path).all() == []
    hidden.write_text("0\n")
    assert [found.name for found in SysfsDisks(tmp_path).all()] == ["nvme0n1"]


Change = Callable[[SysfsTree], None]


def _stack(*steps: Change) -> Change:
    def act(tree: SysfsTree) -> None:
        for step in steps:
            step(tree)

    return act


USES: list[tuple[str, Change, str]] = [
    ("a partition is mounted", lambda t: t.mount("sdb1", "/media/a b"), "mounts=('/media/a b',)"),
    ("the disk itself is mounted", lambda t: t.mount("sdb", "/media/x"), "mounts=('/media/x',)"),
    ("mounted without a number", lambda t: t.mount("sdb1", "/media/btrfs", numbered=False), "mounts=('/media/btrfs',)"),
    ("the system's /var", lambda t: t.mount("sdb1", "/var"), "system=('/var',)"),
    ("swap on a partition", lambda t: t.swap("sdb1"), "swaps=('sdb1',)"),
    ("LUKS", lambda t: t.stacked("dm-0", "sdb1"), "holders=('dm-0',)"),
    ("RAID of the whole disk", lambda t: t.stacked("md0", "sdb", "sda3"), "holders=('md0',)"),
    ("a loop device", lambda t: t.stacked("loop0", backing="/dev/sdb"), "loops=('loop0',)"),
    ("a loop device of a partition", lambda t: t.stacked("loop0", backing="/dev/sdb1"), "loops=('loop0',)"),
    (
        "system on LVM on LUKS",
        _stack(
            lambda t: t.stacked("dm-0", "sdb1", mapper="crypt"),
            lambda t: t.stacked("dm-1", "dm-0", mapper="vg-root"),
            lambda t: t.mount("dm-1", "/usr"),
        ),
        "system=('/usr',)",
    ),
    (
        "swap on LVM, by its mapper name",
        _stack(lambda t: t.stacked("dm-2", "sdb1", mapper="swap"), lambda t: t.swap("mapper/swap")),
        "swaps=('dm-2',)",
    ),
    (
        "mounted by mapper name without a number",
        _stack(lambda t: t.stacked("dm-0", "sdb1", mapper="x"), lambda t: t.mount("dm-0", "/", numbered=False)),
        "system=('/',)",
    ),
]


@pytest.mark.parametrize(("change", "found"), [case[1:] for case in USES], ids=[case[0] for case in USES])
def test_uses_are_followed_down(tree: SysfsTree, change: Change, found: str) -> None:
    """To the whole disk, which is refused then, and was not before."""
    assert refusals(disk(tree)) == []
    change(tree)
    assert found in repr(disk(tree))
    assert refusals(disk(tree)) != []


def test_others_are_not_blamed(tree: SysfsTree) -> None:
    """What sits on one disk is not held against another one; a device that goes in circles does not hang it."""
    tree.stacked("dm-0", "sda3")
    tree.stacked("dm-1", "dm-2")
    tree.stacked("dm-2", "dm-1")
    tree.mount("dm-0", "/srv")
    tree.swap("sda1")
    assert refusals(disk(tree)) == []
    assert disk(tree, "sda").mounts == ("/srv",)


def test_the_disk_that_runs_the_system(tree: SysfsTree) -> None:
    """Also when its root is a verity device of two partitions; two such disks are none."""
    assert SysfsDisks(tree.root).system_disk().name == "sda"
    tree.stacked("dm-0", "sdb1")
    tree.mount("dm-0", "/")
    with pytest.raises(RefusedError, match="2 disks"):
        SysfsDisks(tree.root).system_disk()


def test_a_device_file_of_another_disk(tree: SysfsTree) -> None:
    """On a real system the device file must be a block device with the number that sysfs has."""
    disks = SysfsDisks(tree.root)
    disks._real = True  # the tree's files are no devices, which is what must be noticed
    with pytest.raises(RefusedError, match="device file"):
        disks.facts(Path("/dev/sdb"))
    with pytest.raises(RefusedError, match="device file"):
        disks.open(STICK)


def test_this_machine_is_read() -> None:
    """No disk that this system runs from may be written."""
    found = SysfsDisks().all()
    assert all(refusals(one) for one in found if one.system)


# -- guards ------------------------------------------------------------------------------------------------------------

NEED = SIZE
BAD = {
    "kind": replace(STICK, known=False),
    "system": replace(STICK, system=("/usr",)),
    "mounted": replace(STICK, mounts=("/media",)),
    "swap": replace(STICK, swaps=("sdb1",)),
    "held": replace(STICK, holders=("dm-0",)),
    "looped": replace(STICK, loops=("loop0",)),
    "read-only": replace(STICK, read_only=True),
    "sectors": replace(STICK, sector=4096),
    "small": replace(STICK, size=SIZE - 1),
}


def test_every_guard_is_attacked() -> None:
    """None has no attack."""
    assert [guard.name for guard in GUARDS] == list(BAD)
    check_disk(STICK, NEED)


@pytest.mark.parametrize("name", BAD)
def test_a_guard_alone_stands_between(name: str) -> None:
    """Each disk is refused by exactly one guard, and would be written without it."""
    with pytest.raises(RefusedError) as refused:
        check_disk(BAD[name], NEED)
    assert refused.value.reason is Reason.DISK_REFUSED
    rest = tuple(guard for guard in GUARDS if guard.name != name)
    assert len(refusals(BAD[name], NEED)) == 1
    assert refusals(BAD[name], NEED, rest) == []


@pytest.mark.parametrize("typed", ["", "stick1", "STICK", "STICK11", "y", str(SIZE), "/dev/sdb"])
def test_only_the_serial_number_confirms(typed: str) -> None:
    """Not something like it."""
    check_confirmation(STICK, " STICK1\n")
    with pytest.raises(RefusedError) as refused:
        check_confirmation(STICK, typed)
    assert refused.value.reason is Reason.NOT_CONFIRMED


def test_a_disk_without_serial_number_is_confirmed_by_its_size() -> None:
    """An empty line never confirms."""
    nameless = replace(STICK, serial="")
    check_confirmation(nameless, str(SIZE))
    with pytest.raises(RefusedError, match="size in bytes"):
        check_confirmation(nameless, "")
