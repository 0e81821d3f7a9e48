# SPDX-License-Identifier: Apache-2.0
"""Which libraries a program asks for by name: the dynamic section of ELF files for x86-64, and nothing else of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

MAGIC: Final = b"\x7fELF\x02\x01"
_HEAD: Final = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_ENTRY: Final = struct.Struct("<qQ")
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRINGS, _SONAME = 1, 5, 14


def libraries(data: bytes) -> tuple[tuple[str, ...], str]:
    """Names of the libraries that a program or library needs, and its own name as a library; none for other files."""
    if not data.startswith(MAGIC):
        return (), ""
    try:
        return _libraries(data)
    except (
        struct.error,
        StopIteration,
        OverflowError,
        ValueError,
    ):  # cut off, or made by hand: it asks for nothing that loads
        return (), ""


def _libraries(data: bytes) -> tuple[tuple[str, ...], str]:
    _, _, _, _, at, _, _, _, size, count, _, _, _ = _HEAD.unpack_from(data)
    heads = [_PROGRAM.unpack_from(data, at + number * size) for number in range(count)]
    dynamic = next((head for head in heads if head[0] == _DYNAMIC), None)
    if dynamic is None:
        return (), ""
    entries = list(_entries(data[dynamic[2] : dynamic[2] + dynamic[5]]))
    strings = next(value for tag, value in entries if tag == _STRINGS)
    load = next(head for head in heads if head[0] == _LOAD and head[3] <= strings < head[3] + head[5])
    names = strings - load[3] + load[2]
    needed = tuple(_text(data, names + value) for tag, value in entries if tag == _NEEDED)
    return needed, next((_text(data, names + value) for tag, value in entries if tag == _SONAME), "")


def _entries(table: bytes) -> Iterator[tuple[int, int]]:
    for at in range(0, len(table) - _ENTRY.size + 1, _ENTRY.size):
        tag, value = _ENTRY.unpack_from(table, at)
        if tag == 0:
            return
        yield tag, value


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("utf-8", "replace")
