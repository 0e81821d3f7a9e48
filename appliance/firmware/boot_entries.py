# SPDX-License-Identifier: Apache-2.0
"""What firmware would start: the load options ``Boot####`` and their order (UEFI 2.10, 3.1.3 and 10.3). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_ACTIVE: Final = 0x1
_END, _MESSAGING, _MEDIA, _LEGACY = 0x7F, 0x03, 0x04, 0x05
_USB: Final = {5, 15, 16}
_NETWORK: Final = {11, 12, 13, 24, 28, 31}
"""MAC, IPv4, IPv6, URI, Wi-Fi, DNS."""
_DISK: Final = {1, 2, 10, 17, 18, 22, 23, 25, 26, 29}
"""ATAPI, SCSI, SAS, NVMe, UFS, SD, eMMC and the like."""
_HARD_DRIVE, _CDROM, _FIRMWARE_FILE, _FIRMWARE_VOLUME = 1, 2, 6, 7


class BootKind(StrEnum):
    """From where an entry starts."""

    DISK = "disk"
    USB = "usb"
    NETWORK = "network"
    CDROM = "cdrom"
    FIRMWARE = "firmware"
    """A program inside the firmware, such as its setup or a shell."""
    LEGACY = "legacy"
    """The old BIOS way, by a compatibility module (CSM)."""
    DEVICE = "device"
    """A device that the path names by its slot only, such as a virtual disk."""


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One entry. :param number: of its variable. :param active: firmware tries it."""

    number: int
    title: str
    kind: BootKind
    active: bool

    def __str__(self) -> str:
        return f'Boot{self.number:04X} "{self.title}" ({self.kind})'


def parse_order(data: bytes) -> tuple[int, ...]:
    """BootOrder, or the one number of BootCurrent and BootNext. :raises ValueError: not a row of numbers."""
    if len(data) % 2:
        raise ValueError("an order of an odd size")
    return struct.unpack(f"<{len(data) // 2}H", data)


def parse_entry(number: int, data: bytes) -> BootEntry:
    """EFI_LOAD_OPTION. :raises ValueError: it is none."""
    try:
        attributes, length = struct.unpack_from("<LH", data)
    except struct.error as error:
        raise ValueError(f"a boot entry of {len(data)} bytes") from error
    end = 6
    while data[end : end + 2] != b"\0\0":
        if end + 2 > len(data):
            raise ValueError("a boot entry whose title does not end")
        end += 2
    title = data[6:end].decode("utf-16-le", "replace")
    title = "".join(sign if sign.isprintable() else "?" for sign in title)
    path = data[end + 2 : end + 2 + length]
    if len(path) != length:
        raise ValueError("a boot entry that is cut off")
    return BootEntry(number, title, _kind(path), bool(attributes & _ACTIVE))


def _kind(path: bytes) -> BootKind:
    nodes = set(_nodes(path))
    for kind, chosen in (
        (BootKind.LEGACY, {node for node in nodes if node[0] == _LEGACY}),
        (BootKind.USB, {(_MESSAGING, sub) for sub in _USB}),
        (BootKind.NETWORK, {(_MESSAGING, sub) for sub in _NETWORK}),
        (BootKind.CDROM, {(_MEDIA, _CDROM)}),
        (BootKind.FIRMWARE, {(_MEDIA, _FIRMWARE_FILE), (_MEDIA, _FIRMWARE_VOLUME)}),
        (BootKind.DISK, {(_MEDIA, _HARD_DRIVE), *((_MESSAGING, sub) for sub in _DISK)}),
    ):
        if nodes & chosen:
            return kind
    return BootKind.DEVICE


def _nodes(path: bytes) -> list[tuple[int, int]]:
    """Type and subtype of each node up to the end. :raises ValueError: sizes that do not fit."""
    found, at = [], 0
    while at < len(path):
        if len(path) - at < 4:
            raise ValueError("a device path that is cut off")
        kind, sub, size = struct.unpack_from("<BBH", path, at)
        if kind == _END:
            break
        if size < 4 or at + size > len(path):
            raise ValueError("a device path with a size that does not fit")
        found.append((kind, sub))
        at += size
    return found
