# SPDX-License-Identifier: Apache-2.0
"""EFI programs made by hand, so that tests know every byte of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

ALIGN, FILE_ALIGN = 4096, 512
SECURITY: Final = 0x40 + 24 + 112 + 4 * 8
"""Where place and size of the signatures stand in a program made here."""
_CODE: Final = 0x60000020
"""Code that may be read and executed, and not written."""


def efi_program(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """PE32+ for x86-64 with these sections and nothing to relocate; the first is entered at its beginning."""
    heads, bodies = b"", b""
    memory = ALIGN
    start = _up(0x40 + 24 + 0xF0 + 40 * len(parts), FILE_ALIGN)
    for name, data in parts:
        raw = data.ljust(_up(len(data), FILE_ALIGN), b"\0")
        place = start + len(bodies)
        heads += struct.pack("<8sLLLLLLHHL", name.encode(), len(data), memory, len(raw), place, 0, 0, 0, 0, _CODE)
        bodies += raw
        memory += _up(max(len(data), 1), ALIGN)
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<L", 0x40)
    coff = struct.pack("<4sHHLLLHH", b"PE\0\0", 0x8664, len(parts), 0, 0, 0, 0xF0, 0x22E)
    optional = struct.pack("<HBBLLLLL", 0x20B, 0, 0, len(bodies), 0, 0, ALIGN, ALIGN)
    optional += struct.pack("<QLLHHHHHHLLLLHH", 0, ALIGN, FILE_ALIGN, 0, 0, 0, 0, 0, 0, 0, memory, start, 0, 10, 0)
    optional += struct.pack("<QQQQLL", 0, 0, 0, 0, 0, 16) + bytes(16 * 8)
    return (dos + coff + optional + heads).ljust(start, b"\0") + bodies


def with_signature(program: bytes, entry: bytes) -> bytes:
    """A program with an attribute certificate (WIN_CERTIFICATE) appended, as signing tools do."""
    body = bytearray(program.ljust(_up(len(program), 8), b"\0"))
    entry = entry.ljust(_up(len(entry), 8), b"\0")
    struct.pack_into("<LL", body, SECURITY, len(body), len(entry))
    return bytes(body) + entry


def _up(size: int, to: int) -> int:
    return -(-size // to) * to
