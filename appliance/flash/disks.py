# SPDX-License-Identifier: Apache-2.0
"""Disks as the flasher sees them: what is known of one, what it is used for, and how its bytes are reached.

A port: :class:`appliance.flash.sysfs.SysfsDisks` is the real implementation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A whole disk, and what it is used for now, through whatever stands between (partitions, LUKS, LVM, RAID).

    :param name: the kernel's, ``sdb``. :param node: its device file. :param size: bytes. :param sector: bytes.
    :param transport: ``usb``, ``nvme``, ``sata``, ``mmc``, ``virtio``, ``scsi`` or ``unknown``.
    :param known: whether it is of a kind that images are written to.
    :param system: where the running system has it mounted. :param mounts: other mount points.
    :param swaps: swap areas on it. :param holders: device-mapper, RAID and other devices made of it.
    :param loops: loop devices made of it.
    """

    name: str
    node: Path
    model: str
    serial: str
    transport: str
    size: int
    sector: int = 512
    removable: bool = False
    read_only: bool = False
    known: bool = True
    system: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    swaps: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()

    @property
    def confirmation(self) -> str:
        """What somebody types to confirm this disk: its serial number; its size in bytes where it tells none."""
        return self.serial or str(self.size)


class Target(Protocol):
    """Something that an image is written to. All offsets and sizes are bytes.

    :raises UnavailableError: ``disk_failed``, by every method that does I/O.
    """

    @property
    def size(self) -> int:
        """Its bytes."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of ``data``."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes, from wherever they are quickest had."""

    def flush(self) -> None:
        """Return when all that was written is on the medium."""

    def read_back(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from the medium itself, past the cache of this machine, as far as it allows that."""

    @property
    def direct(self) -> bool:
        """Whether :meth:`read_back` goes past the cache, and does not only ask for it to be emptied."""

    def descriptor(self) -> int:
        """An open file, for a tool that must work on the same disk."""

    def close(self) -> None:
        """Give it back; may be called twice."""


class Disks(Protocol):
    """The disks of a machine."""

    def all(self) -> list[DiskFacts]:
        """All whole disks, by name; those of unknown kind left out."""

    def facts(self, path: Path) -> DiskFacts:
        """A disk by its device file, or a link to that.

        :raises RefusedError: ``disk_refused``: there is none, or it is only a partition.
        """

    def open(self, facts: DiskFacts) -> Target:
        """Open a disk for writing, alone.

        :raises RefusedError: ``disk_refused``: it is in use, gone, or another one by now; or this user may not.
        """
