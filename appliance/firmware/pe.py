# SPDX-License-Identifier: Apache-2.0
"""EFI programs as files (PE32+): their sections, and the digest by which firmware knows them.

Pure; reads only what is needed here, and refuses what does not fit. Format: Microsoft PE/COFF and "Windows
Authenticode Portable Executable Signature Format", calculating the PE image hash.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

_PE32_PLUS: Final = 0x20B
_CHECKSUM: Final = 64
_HEADERS: Final = 60
_DIRECTORIES: Final = 108
_SECURITY: Final = 112 + 4 * 8
_SECTION: Final = struct.Struct("<8sLLLL16x")
SECTIONS: Final = 96
"""The most sections that a loader takes."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section. :param data: as a loader puts it into memory: cut or filled with zeros to its size there."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Layout:
    optional: int
    headers: int
    security: tuple[int, int]
    sections: tuple[tuple[str, int, int, int], ...]  # name, size in memory, size in the file, place in the file


def sections(data: bytes) -> tuple[Section, ...]:
    """The sections in their order. :raises RefusedError: ``bad_image``: no EFI program for 64 bits."""
    return tuple(
        Section(name, data[at : at + min(memory, size)].ljust(memory, b"\0"))
        for name, memory, size, at in _layout(data).sections
    )


def authenticode(data: bytes) -> bytes:
    """The SHA-256 that firmware looks for in dbx and db: all but checksum and signatures.

    :raises RefusedError: ``bad_image``: no EFI program for 64 bits.
    """
    layout = _layout(data)
    checksum, security = layout.optional + _CHECKSUM, layout.optional + _SECURITY
    digest = hashlib.sha256(data[:checksum])
    digest.update(data[checksum + 4 : security])
    digest.update(data[security + 8 : layout.headers])
    hashed = layout.headers
    for _, _, size, at in sorted(layout.sections, key=lambda section: section[3]):
        digest.update(data[at : at + size])
        hashed += size
    place, size = layout.security
    end = place if size else len(data)
    if size and place + size != len(data):
        raise RefusedError(Reason.BAD_IMAGE, "the signatures are not at the end")
    digest.update(data[hashed:end])
    digest.update(bytes(-end % 8))  # as signing tools fill up before they append a signature
    return digest.digest()


def _layout(data: bytes) -> _Layout:
    try:
        (start,) = struct.unpack_from("<L", data, 0x3C)
        signature, count, size = struct.unpack_from("<4s2xH12xH2x", data, start)
        optional = start + 24
        (magic,) = struct.unpack_from("<H", data, optional)
        (headers,) = struct.unpack_from("<L", data, optional + _HEADERS)
        (directories,) = struct.unpack_from("<L", data, optional + _DIRECTORIES)
        security = struct.unpack_from("<LL", data, optional + _SECURITY)
        table = [_SECTION.unpack_from(data, optional + size + _SECTION.size * i) for i in range(min(count, SECTIONS))]
    except struct.error as error:
        raise RefusedError(Reason.BAD_IMAGE, f"no EFI program: {error}") from error
    if data[:2] != b"MZ" or signature != b"PE\0\0" or magic != _PE32_PLUS or directories < 5 or count > SECTIONS:
        raise RefusedError(Reason.BAD_IMAGE, "no EFI program for 64 bits")
    found = tuple(
        (name.rstrip(b"\0").decode("ascii", "replace"), memory, raw, place) for name, memory, _, raw, place in table
    )
    if headers > len(data) or any(raw and place + raw > len(data) for _, _, raw, place in found):
        raise RefusedError(Reason.BAD_IMAGE, "an EFI program that is cut off")
    return _Layout(optional, headers, (security[0], security[1]), found)
