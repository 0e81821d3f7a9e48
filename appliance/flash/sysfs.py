# SPDX-License-Identifier: Apache-2.0
"""The disks of this machine, as sysfs, ``/proc/self/mountinfo`` and ``/proc/swaps`` tell of them.

What a mount, a swap area, a device-mapper device, a RAID or a loop device stands on is followed down to whole disks.
When a disk is opened, the kernel refuses one that anybody uses (``O_EXCL``), in whatever mount namespace; and the open
device must have the number that sysfs gave for it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.disks import DiskFacts
from appliance.flash.target import DiskTarget

_KNOWN: Final = re.compile(r"sd[a-z]+|hd[a-z]+|vd[a-z]+|xvd[a-z]+|nvme\d+n\d+|mmcblk\d+")
_SYSTEM: Final = re.compile(r"/|/(usr|var|boot|boot/efi|efi|home|etc|sysroot|sysroot/usr|run/live/medium)")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_TRANSPORTS: Final = ("usb", "nvme", "mmc", "virtio", "ata")


@dataclass(slots=True)
class _Uses:
    system: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    swaps: list[str] = field(default_factory=list)
    holders: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)


class SysfsDisks:
    """Implements :class:`appliance.flash.disks.Disks`.

    :param root: where ``sys``, ``proc`` and ``dev`` are; another one than ``/`` is a made-up tree, whose device files
        are regular files.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        """Look at a tree."""
        self._root = root
        self._real = root == Path("/")

    def all(self) -> list[DiskFacts]:
        """All whole disks of a known kind."""
        uses = self._uses()
        return [self._facts(name, uses) for name in sorted(self._blocks()) if _KNOWN.fullmatch(name)]

    def facts(self, path: Path) -> DiskFacts:
        """A disk by its device file."""
        try:
            node = (self._root / str(path).lstrip("/")).resolve(strict=True)
        except OSError as error:
            raise RefusedError(Reason.DISK_REFUSED, f"{path}: {error.strerror}") from error
        name = node.name
        disk = self._disk_of().get(name)
        if node.parent != (self._root / "dev").resolve() or disk is None:
            raise RefusedError(Reason.DISK_REFUSED, f"{path}: not a disk of this machine")
        if disk != name:
            raise RefusedError(Reason.DISK_REFUSED, f"{path}: a partition; name the whole disk, {node.with_name(disk)}")
        if self._real:
            self._check_node(os.stat(node), name)
        return self._facts(name, self._uses())

    def open(self, facts: DiskFacts) -> DiskTarget:
        """Open a disk alone."""
        node = self._root / str(facts.node).lstrip("/")
        exclusive = os.O_EXCL if self._real else 0  # for a device file: nobody else uses the disk
        try:
            descriptor = os.open(node, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | exclusive)
        except OSError as error:
            why = {
                errno.EBUSY: "in use, the kernel says",
                errno.EACCES: "this user may not write to it; become root",
                errno.EPERM: "this user may not write to it; become root",
            }.get(error.errno or 0, error.strerror)
            raise RefusedError(Reason.DISK_REFUSED, f"{facts.node}: {why}") from error
        try:
            if self._real:
                self._check_node(os.fstat(descriptor), facts.name)
            now = self.facts(facts.node)
            if (now.serial, now.size, now.model) != (facts.serial, facts.size, facts.model):
                raise RefusedError(Reason.DISK_REFUSED, f"{facts.node}: another disk than a moment ago")
            return DiskTarget(descriptor, str(facts.node))
        except BaseException:
            os.close(descriptor)
            raise

    def system_disk(self) -> DiskFacts:
        """The disk that this system runs from. :raises RefusedError: ``disk_refused``: none, or more than one."""
        found = [disk for disk in self.all() if "/" in disk.system]
        if len(found) != 1:
            raise RefusedError(Reason.DISK_REFUSED, f"the running system is on {len(found)} disks instead of one")
        return found[0]

    def _check_node(self, found: os.stat_result, name: str) -> None:
        device = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        if not stat.S_ISBLK(found.st_mode) or device != self._text(self._block(name) / "dev"):
            raise RefusedError(Reason.DISK_REFUSED, f"{name}: its device file is not that of the disk")

    # -- what there is -------------------------------------------------------------------------------------------------

    def _block(self, name: str) -> Path:
        return self._root / "sys/block" / name

    def _blocks(self) -> list[str]:
        folder = self._root / "sys/block"
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return [name for name in names if self._text(self._block(name) / "hidden") != "1"]

    def _parts(self, name: str) -> Iterator[str]:
        for path in self._block(name).iterdir():
            if (path / "partition").is_file():
                yield path.name

    def _disk_of(self) -> dict[str, str]:
        """The whole device of each device, by name: of a partition its disk, of every other one itself."""
        found: dict[str, str] = {}
        for disk in self._blocks():
            found |= {disk: disk} | dict.fromkeys(self._parts(disk), disk)
        return found

    def _facts(self, name: str, uses: dict[str, _Uses]) -> DiskFacts:
        block, used = self._block(name), uses.get(name, _Uses())
        return DiskFacts(
            name=name,
            node=Path("/dev") / name,
            model=self._model(block),
            serial=self._serial(block),
            transport=self._transport(block),
            size=self._number(block / "size") * 512,
            sector=self._number(block / "queue/logical_block_size") or 512,
            removable=self._text(block / "removable") == "1",
            read_only=self._text(block / "ro") != "0",
            known=bool(_KNOWN.fullmatch(name)),
            system=tuple(sorted(set(used.system))),
            mounts=tuple(sorted(set(used.mounts))),
            swaps=tuple(sorted(set(used.swaps))),
            holders=tuple(sorted(set(used.holders))),
            loops=tuple(sorted(set(used.loops))),
        )

    def _model(self, block: Path) -> str:
        names = [self._text(block / "device" / name) for name in ("vendor", "model", "name")]
        vendor = "" if names[0].startswith("0x") or names[0] == "ATA" else names[0]  # virtio and mmc have numbers there
        return " ".join(f"{vendor} {names[1] or names[2]}".split())

    def _serial(self, block: Path) -> str:
        for path in (block / "serial", block / "device/serial"):
            if text := self._text(path):
                return text
        page = self._bytes(block / "device/vpd_pg80")  # SCSI's unit serial number, behind four bytes of header
        if text := _printable(page[4:]):
            return text
        for folder in block.resolve().parents:  # a USB adapter tells its own
            if (folder / "idVendor").is_file():
                return self._text(folder / "serial")
        return ""

    def _transport(self, block: Path) -> str:
        parts = block.resolve().relative_to(self._root.resolve()).parts
        for transport in _TRANSPORTS:
            if any(re.fullmatch(rf"{transport}(?:_host)?\d+", part) for part in parts):
                return {"ata": "sata"}.get(transport, transport)
        return "scsi" if block.name.startswith("sd") else "unknown"

    # -- what it is used for -------------------------------------------------------------------------------------------

    def _uses(self) -> dict[str, _Uses]:
        disk_of = self._disk_of()
        uses = {disk: _Uses() for disk in self._blocks()}
        for name, place in self._mounted(disk_of):
            for disk in self._under(name, disk_of):
                (uses[disk].system if _SYSTEM.fullmatch(place) else uses[disk].mounts).append(place)
        for name in self._swapped():
            for disk in self._under(name, disk_of):
                uses[disk].swaps.append(name)
        for name in self._blocks():
            for disk in self._under(name, disk_of) - {name}:
                (uses[disk].loops if name.startswith("loop") else uses[disk].holders).append(name)
        return uses

    def _under(self, name: str, disk_of: dict[str, str]) -> set[str]:
        """All whole devices that a device stands on, itself included."""
        found: set[str] = set()
        todo = [name]
        while todo:
            disk = disk_of.get(todo.pop())
            if disk is None or disk in found:
                continue
            found.add(disk)
            slaves = self._block(disk) / "slaves"
            todo += [path.name for path in slaves.iterdir()] if slaves.is_dir() else []
            backing = self._text(self._block(disk) / "loop/backing_file")
            todo += [self._device(backing)] if backing.startswith("/dev/") else []
        return found

    def _mounted(self, disk_of: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Device and mount point of each mount that has a device."""
        numbers = {}
        for name, disk in disk_of.items():
            folder = self._block(disk) / name if name != disk else self._block(disk)
            numbers[self._text(folder / "dev")] = name
        for line in self._proc("self/mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            number, place, source = left.split()[2], left.split()[4], right.split()[1]
            if number in numbers:
                yield numbers[number], _unescaped(place)
            elif source.startswith("/dev/"):  # a file system of several devices has no number of theirs
                yield self._device(_unescaped(source)), _unescaped(place)

    def _swapped(self) -> Iterator[str]:
        if not (self._root / "proc/swaps").exists():  # a kernel without swap
            return
        for line in self._proc("swaps").splitlines()[1:]:
            if line.startswith("/dev/"):
                yield self._device(_unescaped(line.split()[0]))

    def _device(self, path: str) -> str:
        return (self._root / path.lstrip("/")).resolve().name

    def _number(self, path: Path) -> int:
        text = self._text(path)
        return int(text) if text.isdigit() else 0

    def _text(self, path: Path) -> str:
        return _printable(self._bytes(path))

    def _proc(self, name: str) -> str:
        return (self._root / "proc" / name).read_text(errors="replace")

    @staticmethod
    def _bytes(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError:
            return b""


def _printable(data: bytes) -> str:
    """What a device says of itself, fit for a terminal."""
    return "".join(char for char in data.decode("ascii", "ignore") if " " <= char <= "~").strip()


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
