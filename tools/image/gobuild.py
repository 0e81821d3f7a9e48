# SPDX-License-Identifier: Apache-2.0
"""What a Go program says of its own build: the compiler's version and the modules that are linked into it.

The linker leaves it in the section ``.go.buildinfo`` (the format is that of Go's package ``debug/buildinfo``, Go 1.18
and later): 32 bytes of header, then two texts, each behind its length as a varint. The second one has lines of words
with tabs between them. What does not fit into the bounds here ends the build: a list that is cut short looks whole.

A program that was built without modules, as Debian builds them, lists none; then its package has to say it
(``Static-Built-Using``).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from tools.image.elf import MAGIC
from tools.image.errors import BuildError

SECTION: Final = b".go.buildinfo\0"
_START: Final = b"\xff Go buildinf:"
_HEADER: Final = 32
_INLINE: Final = 2
"""Flag: the texts stand behind the header, and not at two addresses as before Go 1.18."""
_MARK: Final = 16
"""Bytes around the second text, by which a running program finds it."""
_MOST_SECTIONS: Final = 512
_MOST_BYTES: Final = 1 << 20
_MOST_MODULES: Final = 4096
_ELF: Final = struct.Struct("<16xHHIQQQIHHHHHH")
_ENTRY: Final = struct.Struct("<IIQQQQIIQQ")
_VERSION: Final = re.compile(r"go([1-9][0-9]*\.[0-9]+(?:\.[0-9]+)?(?:(?:rc|beta)[0-9]+)?)(?:[ -].{0,100})?")
_MODULE_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~!/-]{0,254}")
_MODULE_VERSION: Final = re.compile(r"v[0-9][0-9A-Za-z.+~-]{0,126}|\(devel\)")


@dataclass(frozen=True, slots=True, order=True)
class GoModule:
    """A module in a program. :param version: as ``v1.2.3``, or ``(devel)``."""

    path: str
    version: str


@dataclass(frozen=True, slots=True)
class GoBuild:
    """A program's build. :param go: the compiler's version, as ``1.27.2``. :param path: of its main package.

    :param main: the module that has it. :param modules: those that are linked besides; what replaces one stands for it.
    """

    go: str
    path: str
    main: GoModule | None
    modules: tuple[GoModule, ...]


def read_go_build(data: bytes, name: str) -> GoBuild | None:
    """What a program says; ``None``: it was not made by Go. :param name: for people.

    :raises BuildError: it has such a section, and what is in it cannot be read.
    """
    if not data.startswith(MAGIC):
        return None
    try:
        section = _section(data)
        return None if section is None else _parsed(section)
    except (struct.error, IndexError, OverflowError, ValueError) as error:
        raise BuildError(f"{name}: what it says of its build by Go cannot be read: {error}") from error


def _section(data: bytes) -> bytes | None:
    """The content of the section; a file without a section table has none."""
    *_, at, _, _, _, _, size, count, names = _ELF.unpack_from(data)
    if at == 0 or count == 0:
        return None
    if size != _ENTRY.size or count > _MOST_SECTIONS or names >= count:
        raise ValueError("its table of sections is odd")
    heads = [_ENTRY.unpack_from(data, at + number * size) for number in range(count)]
    texts = _content(data, heads[names])
    for head in heads:
        if texts[head[0] :].startswith(SECTION):
            return _content(data, head)
    return None


def _content(data: bytes, head: tuple[int, ...]) -> bytes:
    at, size = head[4], head[5]
    if size > _MOST_BYTES or at + size > len(data):
        raise ValueError("a section is too large, or not whole")
    return data[at : at + size]


def _parsed(section: bytes) -> GoBuild:
    if not section.startswith(_START) or len(section) < _HEADER:
        raise ValueError("no such header")
    if not section[15] & _INLINE:
        raise ValueError("made by Go before 1.18")
    version, rest = _text(section[_HEADER:])
    info, _ = _text(rest)
    found = _VERSION.fullmatch(version.decode("ascii"))
    if found is None:
        raise ValueError(f"no version of Go: {version[:40]!r}")
    if info:
        if len(info) <= 2 * _MARK or info[-_MARK - 1 : -_MARK] != b"\n":
            raise ValueError("the list of modules has no end")
        info = info[_MARK:-_MARK]
    return _listed(found[1], info.decode("utf-8"))


def _text(data: bytes) -> tuple[bytes, bytes]:
    """A text behind its length, and what stands after it."""
    size = shift = at = 0
    while True:
        byte = data[at]
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
        if shift > 28:
            raise ValueError("a length is too long")
    if at + size > len(data):
        raise ValueError("a text is not whole")
    return data[at : at + size], data[at + size :]


def _listed(go: str, info: str) -> GoBuild:
    path, main, modules = "", None, list[GoModule]()
    for line in info.splitlines():
        kind, *words = line.split("\t")
        if kind == "path":
            path = words[0]
        elif kind == "mod":
            main = _module(words)
        elif kind == "dep":
            modules.append(_module(words))
        elif kind == "=>" and modules:
            modules[-1] = _module(words)
        elif kind != "build":
            raise ValueError(f"an unknown line: {line[:40]!r}")
        if len(modules) > _MOST_MODULES:
            raise ValueError("too many modules")
    return GoBuild(go, path, main, tuple(sorted(modules)))


def _module(words: list[str]) -> GoModule:
    path, version = words[0], words[1]
    if not _MODULE_PATH.fullmatch(path) or not _MODULE_VERSION.fullmatch(version):
        raise ValueError(f"no module: {path[:60]!r} {version[:40]!r}")
    return GoModule(path, version)
