# SPDX-License-Identifier: Apache-2.0
"""Disk and kernel images, changed from outside: small made-up ones."""

from __future__ import annotations

import os
import struct
import uuid
from pathlib import Path

import pytest

from appliance.flash.gpt import VAR, Partition, PartitionTable
from tools.image.places import Places
from tools.vm import pe
from tools.vm.disk import Disk, blank
from tools.vm.faults import NotBuiltError, VmError
from tools.vm.images import Image, sparse_digest

FIRST, SECOND = (
    Partition(VAR, uuid.UUID(int=n + 1), 2048 * (n + 1), 2048 * (n + 2) - 1, 0, f"part{n}") for n in (0, 1)
)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A disk of eight MiB with two partitions of one MiB."""
    blank(tmp_path / "disk", 8 << 20)
    made = Disk(tmp_path / "disk")
    made.set_table(PartitionTable(uuid.UUID(int=9), 0, (FIRST, SECOND)))
    return made


def test_a_partition_is_changed_and_no_other(disk: Disk) -> None:
    """One bit, some bytes, all of it."""
    first, second = disk.partition("part0"), disk.partition("part1")
    disk.write(first, 1000, b"hello")
    disk.flip(first, 1000)
    assert disk.read(first, 999, 7) == b"\0iello\0"
    assert disk.find(first, b"iello") == 1000
    assert disk.find(second, b"iello") is None
    content = disk.path.with_name("content")
    content.write_bytes(b"x" * 5000)
    disk.replace(first, content)
    assert disk.read(first, 0, first.size) == b"x" * 5000 + bytes(first.size - 5000)
    assert disk.read(second, 0, second.size) == bytes(second.size)
    copy = disk.path.with_name("copy")
    disk.extract(first, copy)
    assert copy.read_bytes() == disk.read(first, 0, first.size)


def test_what_lies_across_two_pieces_is_found(disk: Disk) -> None:
    """A partition is read a MiB at a time."""
    whole = Partition(VAR, uuid.UUID(int=1), 2048, 2048 * 4 - 1, 0, "whole")
    disk.write(whole, (1 << 20) - 3, b"across")
    assert disk.find(whole, b"across") == (1 << 20) - 3


def test_nothing_outside_of_a_partition_is_touched(disk: Disk) -> None:
    """A mistake in a test must not look like a finding."""
    first = disk.partition("part0")
    for position, length in ((-1, 1), (first.size, 1), (first.size - 1, 2)):
        with pytest.raises(VmError, match="not inside partition 'part0'"):
            disk.read(first, position, length)
    content = disk.path.with_name("content")
    blank(content, first.size + 1)
    with pytest.raises(VmError, match="does not fit"):
        disk.replace(first, content)
    with pytest.raises(VmError, match="0 partitions are labelled 'var'; there are 'part0', 'part1'"):
        disk.partition("var")


def test_a_disk_grows_and_never_shrinks(disk: Disk) -> None:
    """The table stays where it was; the system moves its copy."""
    disk.grow(16 << 20)
    assert [part.label for part in disk.table.partitions] == ["part0", "part1"]
    with pytest.raises(VmError, match="longer"):
        disk.grow(1 << 20)


def test_holes_do_not_count_and_places_do(tmp_path: Path) -> None:
    """Two images are the same when they read the same."""
    holes, zeros, moved, longer = (tmp_path / name for name in ("holes", "zeros", "moved", "longer"))
    for path, at, size in ((holes, 1 << 20, 3 << 20), (moved, 2 << 20, 3 << 20), (longer, 1 << 20, 4 << 20)):
        with path.open("wb") as file:
            file.seek(at)
            file.write(b"data")
            file.truncate(size)
    zeros.write_bytes(holes.read_bytes())
    assert sparse_digest(holes) == sparse_digest(zeros)
    assert len({sparse_digest(path) for path in (holes, moved, longer)}) == 3


def test_an_image_that_was_not_built_says_what_builds_it(tmp_path: Path) -> None:
    """No test of the image is skipped."""
    with pytest.raises(NotBuiltError, match="run 'make image profile=test'"):
        Image.find("test", Places.of(tmp_path))


def kernel_image(signature: bytes = b"") -> bytes:
    """A PE32+ file with two sections, and a signature if there is one."""
    pe_at, optional_size = 0x80, 240
    heads = pe_at + 24 + optional_size
    sections = [(b".linux", 0x400, 0x200, 0x1F0), (b".cmdline", 0x600, 0x200, 0x10)]
    end = 0x800
    content = bytearray(end)
    content[:2] = b"MZ"
    struct.pack_into("<I", content, 0x3C, pe_at)
    content[pe_at : pe_at + 4] = b"PE\0\0"
    struct.pack_into("<H", content, pe_at + 6, len(sections))
    struct.pack_into("<H", content, pe_at + 20, optional_size)
    struct.pack_into("<H", content, pe_at + 24, 0x20B)
    if signature:
        struct.pack_into("<II", content, pe_at + 24 + 112 + 8 * 4, end, len(signature))
    for number, (name, offset, raw, used) in enumerate(sections):
        struct.pack_into("<8sIIII", content, heads + number * 40, name, used, 0, raw, offset)
    content[0x400:0x405] = b"linux"
    content[0x600:0x607] = b"quiet a"
    return bytes(content) + signature


def test_sections_are_found_and_changed() -> None:
    """Used bytes alone; one bit; other text of at most the same length."""
    content = kernel_image()
    assert [(part.name, part.size) for part in pe.sections(content)] == [(".linux", 0x1F0), (".cmdline", 0x10)]
    assert pe.section(content, ".cmdline").rstrip(b"\0") == b"quiet a"
    hurt = pe.changed(content, ".linux", 1)
    assert [at for at, (a, b) in enumerate(zip(content, hurt, strict=True)) if a != b] == [0x401]
    other = pe.replaced(content, ".cmdline", b"debug")
    assert pe.section(other, ".cmdline") == b"debug".ljust(16, b"\0")
    with pytest.raises(VmError, match="do not fit"):
        pe.replaced(content, ".cmdline", b"x" * 17)
    with pytest.raises(VmError, match=r"no section \.pcrsig in it; there are \.linux, \.cmdline"):
        pe.section(content, ".pcrsig")


def test_a_signature_is_taken_off() -> None:
    """Nothing else changes."""
    signed = kernel_image(b"S" * 64)
    assert pe.is_signed(signed)
    assert pe.unsigned(signed) == kernel_image()
    assert not pe.is_signed(kernel_image())
    with pytest.raises(VmError, match="no signature"):
        pe.unsigned(kernel_image())


@pytest.mark.parametrize("content", [b"", b"MZ" + bytes(100), b"ELF" + os.urandom(100)])
def test_what_is_no_kernel_image_is_refused(content: bytes) -> None:
    """Without a struct error."""
    with pytest.raises(VmError, match="no PE file"):
        pe.sections(content)
