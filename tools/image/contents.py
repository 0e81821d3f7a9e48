# SPDX-License-Identifier: Apache-2.0
"""What is in an image: the files of its root, its initrd and its ESP, with modes and checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from tools.image.elf import libraries
from tools.image.errors import BuildError
from tools.image.gobuild import GoBuild, read_go_build
from tools.image.toolstree import ToolsTree

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_CPIO: Final = b"070701"
_CPIO_HEAD: Final = 110
_CPIO_END: Final = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder or link. :param path: absolute, within its part. :param mode: with the type, as ``st_mode``.

    :param target: of a link. Checksums are hex; empty for what is no regular file. MD5 is there because dpkg's own
        lists have no other. :param needs: libraries that a program asks for. :param soname: its own name as a library.
        :param go: what a Go program says of its build.
    """

    path: str
    mode: int
    size: int = 0
    sha256: str = ""
    sha1: str = ""
    md5: str = ""
    target: str = ""
    needs: tuple[str, ...] = ()
    soname: str = ""
    go: GoBuild | None = None

    @property
    def regular(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @classmethod
    def of_bytes(cls, path: str, mode: int, data: bytes) -> Node:
        """A regular file with this content."""
        sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        needs, soname = libraries(data)
        sha256, go = hashlib.sha256(data).hexdigest(), read_go_build(data, path)
        return cls(path, mode, len(data), sha256, sha1, md5, needs=needs, soname=soname, go=go)


def extract_root(tools: ToolsTree, image: Path, folder: Path) -> Path:
    """Unpack an erofs image, every block of it checked. :raises BuildError: it is damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tools.run(["fsck.erofs", f"--extract={folder}", "--preserve", image], cwd=image.parent)
    return folder


def read_tree(root: Path) -> list[Node]:
    """Everything below a folder, sorted by path; the folder itself is left out."""
    return sorted(_walk(root, ""), key=lambda node: node.path)


def _walk(root: Path, below: str) -> Iterator[Node]:
    for item in os.scandir(root / below):
        name = f"{below}/{item.name}".removeprefix("/")
        mode = item.stat(follow_symlinks=False).st_mode
        if stat.S_ISREG(mode):
            yield Node.of_bytes(f"/{name}", mode, Path(item.path).read_bytes())
        elif stat.S_ISLNK(mode):
            yield Node(f"/{name}", mode, target=os.readlink(item.path))
        else:
            yield Node(f"/{name}", mode)
            if stat.S_ISDIR(mode):
                yield from _walk(root, name)


def read_initrd(data: bytes) -> list[Node]:
    """Everything in an initrd, sorted by path.

    It is cpio archives one after the other, each packed by zstandard or not, as the kernel reads them. Where a path
    stands twice the later one holds.

    :raises BuildError: it is no such initrd.
    """
    found: dict[str, Node] = {}
    while data := data.lstrip(b"\0"):
        if data.startswith(_ZSTD):
            unpacker = zstandard.ZstdDecompressor().decompressobj()
            try:
                plain = unpacker.decompress(data)
            except zstandard.ZstdError as error:
                raise BuildError(f"the initrd is damaged: {error}") from error
            if not unpacker.eof:
                raise BuildError("the initrd ends within what zstandard packed")
            data = unpacker.unused_data
            while plain := plain.lstrip(b"\0"):
                plain = plain[_archive(plain, found) :]
        else:
            data = data[_archive(data, found) :]
    found.pop("/", None)
    return sorted(found.values(), key=lambda node: node.path)


def _archive(data: bytes, found: dict[str, Node]) -> int:
    """Read one cpio archive (newc) from its first byte; how long it is."""
    at, name = 0, ""
    while name != _CPIO_END:
        head = data[at : at + _CPIO_HEAD]
        if head[:6] != _CPIO or len(head) < _CPIO_HEAD:
            raise BuildError("the initrd is no cpio archive, or ends within one")
        mode, size, name_size = (int(head[start : start + 8], 16) for start in (14, 54, 94))
        name = data[at + _CPIO_HEAD : at + _CPIO_HEAD + name_size - 1].decode("utf-8", "surrogateescape")
        start = _padded(at + _CPIO_HEAD + name_size)
        content = data[start : start + size]
        if len(content) != size:
            raise BuildError(f"the initrd ends within {name}")
        at = _padded(start + size)
        path = "/" + ("" if name == "." else name.removeprefix("./").strip("/"))
        found[path] = _cpio_node(path, mode, content)
    del found["/" + _CPIO_END]
    return at


def _padded(size: int) -> int:
    return -(-size // 4) * 4


def _cpio_node(path: str, mode: int, content: bytes) -> Node:
    if stat.S_ISREG(mode):
        return Node.of_bytes(path, mode, content)
    return Node(path, mode, target=content.decode("utf-8", "surrogateescape") if stat.S_ISLNK(mode) else "")
