# SPDX-License-Identifier: Apache-2.0
"""The installer: from a stick to a disk, at a console. Disks are files in a made-up tree; everything else is real."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.boundary.errors import BsfgError, IntegrityError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.copying import Source, booted_root_hash, copy_system
from appliance.flash.gpt import HEAD_BYTES, MIB, VAR, Partition, PartitionTable
from appliance.flash.install import TRIES, Choice, Installer
from appliance.flash.sysfs import SysfsDisks
from tests.fakes.disks import FakeTarget, PowerCut
from tests.flashing import SmallImage, small_image
from tests.sites import signed
from tests.sysfs_tree import SysfsTree

STICK_BYTES = 24 * MIB
DISK_BYTES = 40 * MIB + 4096
USB = "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0"
NVME = "pci0000:00/0000:00:1d.0/0000:01:00.0/nvme/nvme0"
IMAGE = small_image()


def stick(image: SmallImage = IMAGE) -> bytearray:
    """A stick that was booted before: its table fills it, and it has a /var."""
    var = Partition(VAR, uuid.UUID(int=9), 16 * 2048, 20 * 2048 - 1, 0, "var")
    table = replace(image.table, partitions=(*image.table.partitions, var))
    made = bytearray(image.raw.ljust(STICK_BYTES, b"\0"))
    head, tail = table.render(STICK_BYTES)
    made[: len(head)], made[STICK_BYTES - len(tail) :] = head, tail
    made[16 * MIB : 17 * MIB] = b"secret of the stick\n" * (MIB // 20) + bytes(MIB % 20)
    return made


def in_memory(content: bytes | bytearray) -> FakeTarget:
    """A disk with this content."""
    target = FakeTarget(len(content))
    target.cache[:] = content
    target.flush()
    return target


def source(content: bytes | bytearray | None = None) -> Source:
    """The parts of a stick."""
    return Source.read(in_memory(content if content is not None else stick()), bytes.fromhex(IMAGE.root_hash))


def boots(medium: bytes | bytearray) -> bool:
    """Whether it has a table at its start."""
    try:
        PartitionTable.parse(bytes(medium[:MIB]))
    except RefusedError:
        return False
    return True


def test_the_system_is_copied_and_nothing_else(tmp_path: Path) -> None:
    """Four partitions at their places, a table that sfdisk has nothing against, and no secret of the stick."""
    target = in_memory(b"\xaa" * DISK_BYTES)
    given = source()
    copy_system(given, target)
    medium = bytes(target.medium)
    table = PartitionTable.parse(medium[:HEAD_BYTES])
    assert [part.label for part in table.partitions] == [
        "esp",
        "appliance_0.1.0",
        "appliance_0.1.0_verity",
        "appliance_0.1.0_sig",
    ]
    for part in given.parts:
        start = part.partition.start
        assert medium[start : start + part.size] == IMAGE.raw[start : start + part.size]
    before = IMAGE.table.partitions
    assert [part.id for part in table.partitions][1:] == [part.id for part in before][1:4]
    assert table.partitions[0].id != before[0].id
    assert table.disk != IMAGE.table.disk
    assert b"secret of the stick" not in medium
    if shutil.which("sfdisk"):
        path = tmp_path / "disk"
        path.write_bytes(medium[: DISK_BYTES // 512 * 512])
        done = subprocess.run(["sfdisk", "--verify", path], capture_output=True, check=True)
        assert b"No errors detected" in done.stdout


def test_a_power_cut_at_every_write(tmp_path: Path) -> None:
    """A disk that has a table has everything else."""
    count = len(_written())
    for cut in range(1, count):
        target = in_memory(IMAGE.raw.ljust(DISK_BYTES, b"\xaa"))

        def power(number: int, cut: int = cut) -> None:
            if number == cut:
                raise PowerCut

        target.before_write = power
        with pytest.raises(PowerCut):
            copy_system(source(), target)
        assert not boots(target.cache)


def _written() -> list[tuple[int, int]]:
    target = in_memory(bytes(DISK_BYTES))
    copy_system(source(), target)
    return target.writes


@pytest.mark.parametrize("mebibyte", [1, 3, 5, 6, 9, 10])
def test_a_disk_that_lies(mebibyte: int) -> None:
    """One bit, in each part that is copied."""
    where = mebibyte * MIB + 17
    target = in_memory(bytes(DISK_BYTES))
    target.spoil = lambda at, data: (
        data[: where - at] + bytes([data[where - at] ^ 1]) + data[where - at + 1 :]
        if at <= where < at + len(data)
        else data
    )
    with pytest.raises(IntegrityError) as failed:
        copy_system(source(), target)
    assert failed.value.reason is Reason.DISK_FAILED
    assert not boots(target.medium)


@pytest.mark.parametrize("at", [5 * MIB, 6 * MIB + 100, 7 * MIB + (64 << 10), 9 * MIB + 4096, 9 * MIB + 9000])
def test_a_stick_that_is_not_what_was_started(at: int) -> None:
    """A byte of the root or of its hashes: the disk never gets a table."""
    content = stick()
    content[at] ^= 1
    target = in_memory(bytes(DISK_BYTES))
    with pytest.raises(RefusedError) as refused:
        copy_system(source(content), target)
    assert refused.value.reason is Reason.BAD_IMAGE
    assert not boots(target.medium)


def _swapped(image: SmallImage) -> bytearray:
    """A stick whose partitions of the root are named as those of another one."""
    content = stick(image)
    ids = [part.id for part in IMAGE.table.partitions]
    parts = [replace(part, id=own) for part, own in zip(image.table.partitions, ids, strict=True)]
    head, _ = replace(image.table, partitions=tuple(parts)).render(STICK_BYTES)
    content[: len(head)] = head
    return content


def test_another_root_under_the_name_of_the_one_that_runs() -> None:
    """Consistent in itself, and not the one that was started."""
    with pytest.raises(RefusedError, match="root hash"):
        copy_system(source(_swapped(small_image(3))), in_memory(bytes(DISK_BYTES)))


def test_sticks_without_a_system() -> None:
    """No table, no such root, no signature behind it, hashes for more than there is."""
    empty = bytearray(STICK_BYTES)
    for content in (empty, stick(small_image(3))):
        with pytest.raises(RefusedError) as refused:
            source(content)
        assert refused.value.reason is Reason.BAD_IMAGE
    large = stick()
    large[9 * MIB + 72 : 9 * MIB + 80] = (2000).to_bytes(8, "little")
    with pytest.raises(RefusedError, match="larger"):
        source(large)


def test_a_disk_too_small() -> None:
    """The guards know what is needed; nothing is touched."""
    given = source()
    assert given.need == 12 * MIB
    copy_system(given, in_memory(bytes(given.need)))
    target = in_memory(bytes(11 * MIB))
    with pytest.raises(RefusedError) as refused:
        copy_system(given, target)
    assert refused.value.reason is Reason.DISK_REFUSED
    assert target.writes == []


# -- at the console ----------------------------------------------------------------------------------------------------


class Console:
    """Somebody at a console. :param lines: what they type."""

    def __init__(self, *lines: str) -> None:
        self.lines: Iterator[str] = iter(lines)
        self.said: list[str] = []

    def ask(self, question: str) -> str:
        """Type the next line."""
        self.said.append(question)
        for line in self.lines:
            return line + "\n"
        raise EOFError

    @property
    def text(self) -> str:
        """All that was printed."""
        return "\n".join(self.said)


class Machine:
    """A box with a stick in it that was started from the stick, and an empty disk."""

    def __init__(self, root: Path) -> None:
        self.tree = SysfsTree(root)
        self.root = root
        self.tree.disk("sda", STICK_BYTES, model="Ultra", vendor="SanDisk", bus=USB, usb_serial="STICK", parts=4)
        self.tree.disk("nvme0n1", DISK_BYTES // 512 * 512, model="WD 770", serial="NV123", bus=NVME)
        self.tree.stacked("dm-0", "sda2", "sda3", mapper="root")
        self.tree.mount("dm-0", "/")
        (root / "dev/sda").write_bytes(stick())
        (root / "proc/cmdline").write_text(f"quiet roothash={IMAGE.root_hash} lockdown=integrity\n")
        (root / "boot/bsfg").mkdir(parents=True)

    def run(self, console: Console, choice: Choice | None = None) -> None:
        """Run the installer."""
        Installer(SysfsDisks(self.root), self.root, console.ask, console.said.append, choice or Choice()).run()

    @property
    def disk(self) -> bytes:
        """What is on the disk."""
        return (self.root / "dev/nvme0n1").read_bytes()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine."""
    return Machine(tmp_path)


def test_somebody_installs(machine: Machine) -> None:
    """Chooses, mistypes, types it right; sees why the stick itself cannot be chosen."""
    (machine.root / "boot/bsfg/site.toml").write_bytes(signed(version=3))
    console = Console("0", "x", "1", "nv123", "NV123")
    machine.run(console)
    assert boots(machine.disk)
    for line in (
        "Site configuration for zone ",
        "version 3",
        "1  /dev/nvme0n1  WD 770  serial NV123",
        "-  /dev/sda  SanDisk Ultra  serial STICK",
        "this system runs from it (/)",
        "Type a number from 1 to 1.",
        "EVERYTHING on /dev/nvme0n1",
        "look again",
        "Take the stick out",
    ):
        assert line in console.text


def test_nobody_is_asked_who_said_it_before(machine: Machine) -> None:
    """Disk and serial number by option; without a site configuration it says so, where it sees the boot partition."""
    console = Console()
    machine.run(console, Choice(Path("/dev/nvme0n1"), "NV123"))
    assert boots(machine.disk)
    assert "Site configuration and voucher go with the system" in console.text
    assert "no site configuration" not in console.text
    (machine.root / "boot/EFI").mkdir(parents=True)
    console = Console()
    machine.run(console, Choice(Path("/dev/nvme0n1"), "NV123"))
    assert "no site configuration" in console.text


Spoil = Callable[[Machine], object]


def _site(data: bytes) -> Spoil:
    return lambda machine: (machine.root / "boot/bsfg/site.toml").write_bytes(data)


REFUSED: dict[str, tuple[Spoil, tuple[str, ...], Choice, Reason]] = {
    "nobody is there": (lambda _: None, (), Choice(), Reason.NOT_CONFIRMED),
    "no serial number": (lambda _: None, ("1", "", "", ""), Choice(), Reason.NOT_CONFIRMED),
    "another serial number": (lambda _: None, ("1", *["STICK"] * TRIES, "NV123"), Choice(), Reason.NOT_CONFIRMED),
    "no number of a disk": (lambda _: None, ("2", "-1", "²", "1"), Choice(), Reason.NOT_CONFIRMED),
    "the stick itself": (lambda _: None, (), Choice(Path("/dev/sda"), "STICK"), Reason.DISK_REFUSED),
    "a partition": (lambda _: None, (), Choice(Path("/dev/sda1"), "STICK"), Reason.DISK_REFUSED),
    "a wrong option": (lambda _: None, (), Choice(Path("/dev/nvme0n1"), "NV12"), Reason.NOT_CONFIRMED),
    "a disk in use": (lambda m: m.tree.mount("nvme0n1", "/mnt"), (), Choice(), Reason.DISK_REFUSED),
    "an unsigned site configuration": (_site(b"[site]\n"), (), Choice(), Reason.SITE_UNSIGNED),
    "a changed one": (_site(signed().replace(b"zone = ", b"zone =  ", 1)), (), Choice(), Reason.SITE_UNSIGNED),
    "not started from an image": (
        lambda m: (m.root / "proc/cmdline").write_text("quiet\n"),
        (),
        Choice(),
        Reason.BAD_IMAGE,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(machine: Machine, name: str) -> None:
    """And nothing is written."""
    spoil, lines, choice, reason = REFUSED[name]
    before = machine.disk
    spoil(machine)
    with pytest.raises(BsfgError) as refused:
        machine.run(Console(*lines), choice)
    assert refused.value.reason is reason
    assert machine.disk == before


@pytest.mark.parametrize(
    "text", ["", "roothash=", "xroothash=" + "0" * 64, "roothash=" + "0" * 63, "roothash=" + "g" * 64]
)
def test_the_root_hash_is_the_kernels(tmp_path: Path, text: str) -> None:
    """A whole word of its command line."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cmdline").write_text(f"a roothash={'0a' * 32} b\n")
    assert booted_root_hash(tmp_path) == b"\x0a" * 32
    (tmp_path / "proc/cmdline").write_text(f"a {text} b\n")
    with pytest.raises(RefusedError):
        booted_root_hash(tmp_path)
