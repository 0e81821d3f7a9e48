# SPDX-License-Identifier: Apache-2.0
"""GUID partition tables, read strictly and made anew: where the parts of an image lie, and a table for another disk.

Sectors have 512 bytes: the image is made for such disks alone.
"""

from __future__ import annotations

import itertools
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

SECTOR: Final = 512
MIB: Final = 1 << 20
HEAD_BYTES: Final = MIB
"""The first partition starts here or later; the table lies before it."""
ESP: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT_X86_64: Final = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
ROOT_VERITY_X86_64: Final = uuid.UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")
ROOT_VERITY_SIG_X86_64: Final = uuid.UUID("41092b05-9fc8-4523-994f-2def0408b176")
VAR: Final = uuid.UUID("4d21b016-b534-45c2-a9fb-5c16e091fd2d")

_SIGNATURE: Final = b"EFI PART"
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_ENTRIES: Final = 128
_ARRAY_SECTORS: Final = _ENTRIES * _ENTRY.size // SECTOR
TAIL_BYTES: Final = (1 + _ARRAY_SECTORS) * SECTOR
"""What the second copy of the table takes at the end of a disk."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry. :param first: sector. :param last: sector, inclusive. :param attributes: as the table has them."""

    kind: uuid.UUID
    id: uuid.UUID
    first: int
    last: int
    attributes: int
    label: str

    @property
    def start(self) -> int:
        """Offset of its first byte."""
        return self.first * SECTOR

    @property
    def end(self) -> int:
        """Offset behind its last byte."""
        return (self.last + 1) * SECTOR

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """A table. :param disk: the disk's id. :param sectors: of the disk or image that it was made for."""

    disk: uuid.UUID
    sectors: int
    partitions: tuple[Partition, ...]

    @classmethod
    def parse(cls, head: bytes) -> PartitionTable:
        """Read the first table out of the first MiB of an image or disk.

        :raises RefusedError: ``bad_image``: there is none, or it is damaged.
        """
        try:
            return _parse(head)
        except (ValueError, struct.error) as error:
            raise RefusedError(Reason.BAD_IMAGE, f"partition table: {error}") from error

    def of(self, kind: uuid.UUID) -> list[Partition]:
        """The partitions of a kind, as they stand in the table."""
        return [part for part in self.partitions if part.kind == kind]

    def esp(self) -> Partition:
        """The one EFI system partition. :raises RefusedError: ``bad_image``: there is none, or more than one."""
        found = self.of(ESP)
        if len(found) != 1:
            raise RefusedError(Reason.BAD_IMAGE, f"{len(found)} EFI system partitions instead of one")
        return found[0]

    def without(self, kinds: Iterable[uuid.UUID]) -> PartitionTable:
        """The same table without the partitions of some kinds."""
        gone = set(kinds)
        return replace(self, partitions=tuple(part for part in self.partitions if part.kind not in gone))

    def render(self, size: int) -> tuple[bytes, bytes]:
        """The table for a disk of ``size`` bytes: its first ``HEAD_BYTES``, and its last ``TAIL_BYTES``.

        :raises RefusedError: ``disk_refused``: the partitions do not fit on it.
        """
        sectors = size // SECTOR
        if any(part.last > sectors - _ARRAY_SECTORS - 2 for part in self.partitions):
            raise RefusedError(Reason.DISK_REFUSED, "the partitions do not fit on this disk")
        array = b"".join(_pack(part) for part in self.partitions).ljust(_ENTRIES * _ENTRY.size, b"\0")
        first = self._header(1, sectors - 1, 2, sectors, array)
        second = self._header(sectors - 1, 1, sectors - 1 - _ARRAY_SECTORS, sectors, array)
        head = _protective_mbr(sectors) + first.ljust(SECTOR, b"\0") + array
        return head.ljust(HEAD_BYTES, b"\0"), array + second.ljust(SECTOR, b"\0")

    def _header(self, own: int, other: int, array_at: int, sectors: int, array: bytes) -> bytes:
        fields = [_SIGNATURE, 0x10000, _HEADER.size, 0, 0, own, other, 2 + _ARRAY_SECTORS, sectors - 2 - _ARRAY_SECTORS]
        fields += [self.disk.bytes_le, array_at, _ENTRIES, _ENTRY.size, zlib.crc32(array)]
        fields[3] = zlib.crc32(_HEADER.pack(*fields))
        return _HEADER.pack(*fields)


def _protective_mbr(sectors: int) -> bytes:
    span = min(sectors - 1, 0xFFFFFFFF)
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, span)
    return b"\0" * 446 + entry + b"\0" * 48 + b"\x55\xaa"


def _pack(part: Partition) -> bytes:
    label = part.label.encode("utf-16-le").ljust(72, b"\0")
    return _ENTRY.pack(part.kind.bytes_le, part.id.bytes_le, part.first, part.last, part.attributes, label)


def _parse(head: bytes) -> PartitionTable:
    fields = _HEADER.unpack_from(head, SECTOR)
    size, stated = fields[2], fields[3]
    if fields[0] != _SIGNATURE or size != _HEADER.size:
        raise ValueError("there is none")
    blank = head[SECTOR : SECTOR + 16] + b"\0\0\0\0" + head[SECTOR + 20 : SECTOR + size]
    if zlib.crc32(blank) != stated:
        raise ValueError("its header is damaged")
    first_usable, last_usable, array_at, count, width = fields[7], fields[8], fields[10], fields[11], fields[12]
    if width != _ENTRY.size or not 0 < count <= 1024 or array_at * SECTOR + count * width > len(head):
        raise ValueError("its entries are of another form")
    array = head[array_at * SECTOR : array_at * SECTOR + count * width]
    if zlib.crc32(array) != fields[13]:
        raise ValueError("its entries are damaged")
    made = [_entry(array[at : at + width]) for at in range(0, len(array), width)]
    partitions = tuple(part for part in made if part is not None)
    spans = sorted((part.first, part.last) for part in partitions)
    if any(first > last or first < first_usable or last > last_usable for first, last in spans):
        raise ValueError("a partition lies outside of the disk")
    if any(after[0] <= before[1] for before, after in itertools.pairwise(spans)):
        raise ValueError("partitions overlap")
    if spans and spans[0][0] * SECTOR < HEAD_BYTES:
        raise ValueError("a partition starts within the first MiB")
    return PartitionTable(uuid.UUID(bytes_le=fields[9]), max(fields[6], fields[5]) + 1, partitions)


def _entry(data: bytes) -> Partition | None:
    kind, own, first, last, attributes, label = _ENTRY.unpack(data)
    if kind == bytes(16):
        return None
    text = label.decode("utf-16-le", "replace").partition("\0")[0]
    return Partition(uuid.UUID(bytes_le=kind), uuid.UUID(bytes_le=own), first, last, attributes, text)


def read_table(read: Callable[[int, int], bytes]) -> PartitionTable:
    """The table of whatever ``read(offset, count)`` reads. :raises RefusedError: as :meth:`PartitionTable.parse`."""
    return PartitionTable.parse(read(0, HEAD_BYTES))
