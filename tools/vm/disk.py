# SPDX-License-Identifier: Apache-2.0
"""Disk images, changed from the host as an attacker would who has the disk on the bench. No root, no mounts."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance.flash.gpt import HEAD_BYTES, TAIL_BYTES, Partition, PartitionTable
from tools.vm.children import run
from tools.vm.faults import VmError

GROWN: Final = 4 * 1024**3
"""The length of a box's disk in tests: the image is shorter, and grows into its disk at the first boot."""
SYSTEM: Final = "EFI/Linux/appliance-"
"""How the names of the system's kernel images begin on the ESP."""
_CHUNK: Final = 1 << 20


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file with its holes; as a reflink where the file system can."""
    run(["cp", "--reflink=auto", "--sparse=auto", "--", source, target], seconds=600)


def overlay(base: Path, target: Path, base_format: str = "raw") -> None:
    """A new disk that shows ``base`` and keeps changes to itself (qcow2); at once, whatever the size.

    Only QEMU can read it: what is edited from the host must be a copy (:func:`copy_sparse`).
    """
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", base_format, "-b", base.absolute(), target])


def blank(target: Path, size: int) -> None:
    """A new empty raw disk of ``size`` bytes."""
    with target.open("xb") as file:
        file.truncate(size)


class Disk:
    """A raw disk image that no machine uses now."""

    def __init__(self, path: Path) -> None:
        """:param path: of the image."""
        self.path = path

    def grow(self, size: int = GROWN) -> None:
        """Make it as long as a disk. :raises VmError: it is longer."""
        if self.path.stat().st_size > size:
            raise VmError(f"{self.path} is longer than {size} bytes")
        os.truncate(self.path, size)

    @property
    def table(self) -> PartitionTable:
        """Its partition table, as it is now. :raises RefusedError: ``bad_image``: there is none, or it is damaged."""
        with self.path.open("rb") as file:
            return PartitionTable.parse(file.read(HEAD_BYTES))

    def set_table(self, table: PartitionTable) -> None:
        """Write both copies of a table; what lies between it and the first partition becomes zero."""
        size = self.path.stat().st_size
        head, tail = table.render(size)
        with self.path.open("r+b") as file:
            file.write(head)
            file.seek(size - TAIL_BYTES)
            file.write(tail)

    def partition(self, label: str) -> Partition:
        """The one partition of a label. :raises VmError: none or several."""
        table = self.table
        found = [part for part in table.partitions if part.label == label]
        if len(found) != 1:
            there = ", ".join(repr(part.label) for part in table.partitions)
            raise VmError(f"{len(found)} partitions are labelled {label!r}; there are {there}")
        return found[0]

    def of_kind(self, kind: uuid.UUID) -> Partition:
        """The first partition of a kind. :raises VmError: there is none."""
        found = self.table.of(kind)
        if not found:
            raise VmError(f"{self.path} has no partition of type {kind}")
        return found[0]

    @property
    def esp(self) -> Esp:
        """The EFI system partition. :raises RefusedError: ``bad_image``: none or several."""
        return Esp(self.path, self.table.esp().start)

    def read(self, partition: Partition, position: int, length: int) -> bytes:
        """Some bytes of a partition."""
        _inside(partition, position, length)
        with self.path.open("rb") as file:
            file.seek(partition.start + position)
            return file.read(length)

    def write(self, partition: Partition, position: int, content: bytes) -> None:
        """Overwrite some bytes of a partition."""
        _inside(partition, position, len(content))
        with self.path.open("r+b") as file:
            file.seek(partition.start + position)
            file.write(content)

    def flip(self, partition: Partition, position: int) -> None:
        """Change one bit of a partition."""
        self.write(partition, position, bytes([self.read(partition, position, 1)[0] ^ 1]))

    def find(self, partition: Partition, wanted: bytes) -> int | None:
        """Where some bytes first stand in a partition; ``None``: nowhere."""
        with self.path.open("rb") as file:
            file.seek(partition.start)
            position, kept = 0, b""
            while position < partition.size:
                data = file.read(min(_CHUNK, partition.size - position))
                if not data:
                    return None
                if (hit := (kept + data).find(wanted)) >= 0:
                    return position - len(kept) + hit
                position += len(data)
                kept = (kept + data)[-len(wanted) + 1 :] if len(wanted) > 1 else b""
        return None

    def extract(self, partition: Partition, target: Path) -> None:
        """Copy a partition out, with its holes."""
        with self.path.open("rb") as source, target.open("xb") as sink:
            source.seek(partition.start)
            left = partition.size
            while left:
                data = source.read(min(_CHUNK, left))
                if not data:
                    raise VmError(f"{self.path} ends inside partition {partition.label!r}")
                left -= len(data)
                if data.count(0) == len(data):
                    sink.seek(len(data), os.SEEK_CUR)
                else:
                    sink.write(data)
            sink.truncate(partition.size)

    def replace(self, partition: Partition, content: Path) -> None:
        """Put a file where a partition's content is; what it does not reach becomes zero."""
        if content.stat().st_size > partition.size:
            raise VmError(f"{content} does not fit into partition {partition.label!r}")
        with content.open("rb") as source, self.path.open("r+b") as sink:
            sink.seek(partition.start)
            shutil.copyfileobj(source, sink, _CHUNK)
            left = partition.size - content.stat().st_size
            while left:
                left -= sink.write(bytes(min(_CHUNK, left)))


def _inside(partition: Partition, position: int, length: int) -> None:
    if position < 0 or position + length > partition.size:
        raise VmError(f"{length} bytes at {position} are not inside partition {partition.label!r}")


class Esp:
    """The EFI system partition of an image, by mtools."""

    def __init__(self, path: Path, offset: int) -> None:
        """:param offset: where it starts in the image, in bytes."""
        self._image = f"{path}@@{offset}"

    def names(self) -> list[str]:
        """Every file on it, as ``EFI/Linux/name.efi``, sorted."""
        return sorted(line.removeprefix("::/") for line in self._listing() if line and not line.endswith("/"))

    def _listing(self) -> list[str]:
        try:
            text = run(["mdir", "-/", "-b", "-i", self._image, "::"])
        except VmError as error:
            if "not found" in str(error):  # how mdir calls an empty file system
                return []
            raise
        return text.decode("utf-8", "replace").splitlines()

    def ukis(self) -> list[str]:
        """The unified kernel images of the system on it, by name; the installer is another."""
        return [name for name in self.names() if name.startswith(SYSTEM) and name.count("/") == 2]

    def uki(self) -> str:
        """The one unified kernel image on it. :raises VmError: none or several."""
        found = self.ukis()
        if len(found) != 1:
            raise VmError(f"{len(found)} unified kernel images on the ESP: {', '.join(found)}")
        return found[0]

    def read(self, name: str) -> bytes:
        """The content of a file. :raises VmError: it is not there."""
        return run(["mtype", "-i", self._image, f"::{name}"])

    def write(self, name: str, content: bytes) -> None:
        """Write a file; folders are made."""
        self.make_folders(name.rpartition("/")[0])
        run(["mcopy", "-o", "-i", self._image, "-", f"::{name}"], stdin=content)

    def make_folders(self, name: str) -> None:
        """Make a folder and those above it."""
        there = [line.lower() for line in self._listing()]
        parts: list[str] = []
        for part in filter(None, name.split("/")):
            parts.append(part)
            path = "/".join(parts)
            if not any(line.startswith(f"::/{path.lower()}/") for line in there):
                run(["mmd", "-i", self._image, f"::{path}"])

    def remove(self, name: str) -> None:
        """Remove a file. :raises VmError: it is not there."""
        run(["mdel", "-i", self._image, f"::{name}"])

    def rename(self, old: str, new: str) -> None:
        """Give a file another name in the same folder."""
        run(["mren", "-i", self._image, f"::{old}", f"::{old.rpartition('/')[0]}/{new}"])


def make_esp(target: Path, size_mib: int, files: Sequence[tuple[str, bytes]] = ()) -> None:
    """A file with a FAT file system and some files, for synthetic images."""
    blank(target, size_mib << 20)
    run(["mkfs.vfat", "-F", "32", "-n", "ESP", target])
    esp = Esp(target, 0)
    for name, content in files:
        esp.write(name, content)
