# SPDX-License-Identifier: Apache-2.0
"""Programs with a section ``.go.buildinfo`` as Go's linker makes one, and nothing else in them."""

from __future__ import annotations

import struct
from typing import Final

MARK: Final = bytes(range(16))
MODULES: Final = (
    "path\texample.com/tool/cmd\n"
    "mod\texample.com/tool\tv1.2.3\t\n"
    "dep\texample.com/b\tv0.5.0\n"
    "=>\texample.com/fork\tv0.5.1\th1:abc=\n"
    "dep\texample.com/a/v2\tv2.0.0-20260101000000-abcdef123456+incompatible\th1:abc=\n"
    "build\t-compiler=gc\n"
)
PLAIN: Final = "path\texample.com/tool/cmd\nbuild\t-compiler=gc\n"
"""Of a program that was built without modules."""


def varint(number: int) -> bytes:
    """A length as Go's linker writes it."""
    made = b""
    while number > 0x7F:
        made, number = made + bytes([number & 0x7F | 0x80]), number >> 7
    return made + bytes([number])


def section(info: str = MODULES, version: str = "go1.27.2", flags: int = 2) -> bytes:
    """The section's content."""
    text = MARK + info.encode() + MARK if info else b""
    head = b"\xff Go buildinf:" + bytes([8, flags]) + bytes(16)
    return head + varint(len(version)) + version.encode() + varint(len(text)) + text


def program(content: bytes | None = None) -> bytes:
    """An ELF file for x86-64 with that section; without one if ``content`` is empty."""
    content = section() if content is None else content
    names = b"\0.shstrtab\0.go.buildinfo\0"
    at = 64 + len(names)
    heads = [
        bytes(64),
        struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64, len(names), 0, 0, 1, 0),
        *([struct.pack("<IIQQQQIIQQ", 11, 1, 3, 0, at, len(content), 0, 0, 16, 0)] if content else []),
    ]
    table = at + len(content)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, table, 0, 64, 56, 0, 64, len(heads), 1)
    return elf + names + content + b"".join(heads)
