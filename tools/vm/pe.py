# SPDX-License-Identifier: Apache-2.0
"""Unified kernel images as files: where their sections lie, and how to damage one or take its signature off.

Only what tests need of the PE format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.vm.faults import VmError

_SECTION: Final = struct.Struct("<8sIIII")
_SECTION_SIZE: Final = 40
_CERTIFICATES: Final = 4
"""The data directory that says where signatures lie; its address is an offset in the file."""
_PE32_PLUS: Final = 0x20B
_DIRECTORIES_AT: Final = 112


@dataclass(frozen=True, slots=True)
class Section:
    """One section. :param offset: in the file. :param size: what is used of it, in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Heads:
    sections_at: int
    sections: int
    certificates_at: int


def _heads(content: bytes) -> _Heads:
    if content[:2] != b"MZ":
        raise VmError("this is no PE file")
    (pe,) = struct.unpack_from("<I", content, 0x3C)
    if content[pe : pe + 4] != b"PE\0\0":
        raise VmError("this is no PE file")
    sections, optional_size = struct.unpack_from("<H12xH", content, pe + 6)
    optional = pe + 24
    if struct.unpack_from("<H", content, optional)[0] != _PE32_PLUS:
        raise VmError("this is no PE32+ file")
    return _Heads(optional + optional_size, sections, optional + _DIRECTORIES_AT + 8 * _CERTIFICATES)


def sections(content: bytes) -> list[Section]:
    """The sections, in order. :raises VmError: no PE32+ file."""
    heads = _heads(content)
    found = []
    for index in range(heads.sections):
        name, used, _, raw, offset = _SECTION.unpack_from(content, heads.sections_at + index * _SECTION_SIZE)
        found.append(Section(name.rstrip(b"\0").decode("ascii"), offset, min(used, raw)))
    return found


def section(content: bytes, name: str) -> bytes:
    """What is in a section. :raises VmError: there is none."""
    part = _find(content, name)
    return content[part.offset : part.offset + part.size]


def _find(content: bytes, name: str) -> Section:
    for part in sections(content):
        if part.name == name:
            return part
    raise VmError(f"no section {name} in it; there are {', '.join(part.name for part in sections(content))}")


def is_signed(content: bytes) -> bool:
    """Whether it carries a signature, good or bad."""
    offset, size = struct.unpack_from("<II", content, _heads(content).certificates_at)
    return bool(offset and size)


def unsigned(content: bytes) -> bytes:
    """The same without its signature. :raises VmError: it has none."""
    at = _heads(content).certificates_at
    offset, size = struct.unpack_from("<II", content, at)
    if not offset or offset + size != len(content):
        raise VmError("it carries no signature at its end")
    return content[:at] + bytes(8) + content[at + 8 : offset]


def changed(content: bytes, name: str, position: int = 0) -> bytes:
    """The same with one bit changed in a section. :param position: in the section; negative from its end."""
    part = _find(content, name)
    at = part.offset + position % part.size
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def replaced(content: bytes, name: str, new: bytes) -> bytes:
    """The same with other content in a section, which must fit; padded with zeros. Any signature is then void."""
    part = _find(content, name)
    if len(new) > part.size:
        raise VmError(f"{len(new)} bytes do not fit into the {part.size} of {name}")
    return content[: part.offset] + new.ljust(part.size, b"\0") + content[part.offset + part.size :]


def read(path: Path) -> bytes:
    """The content of a PE file. :raises VmError: it is none."""
    content = path.read_bytes()
    _heads(content)
    return content
