# SPDX-License-Identifier: Apache-2.0
"""Where things lie in a root partition and its hash tree, so that a test can damage exactly one of them."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.flash.gpt import ROOT_X86_64, Partition
from tools.image.errors import BuildError
from tools.vm.disk import Disk
from tools.vm.faults import VmError
from tools.vm.images import tools_tree

BLOCK: Final = 4096
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s168x")
_UNUSED: Final = (
    "drivers/net/ethernet/mellanox/mlx5/core/mlx5_core",
    "drivers/md/raid456",
    "drivers/scsi/scsi_debug",
    "fs/nls/nls_cp949",
)
_FOLDER: Final = "/usr/lib/modules"


@dataclass(frozen=True, slots=True)
class Place:
    """A file in a root. :param path: on the box. :param offset: in the partition, of a byte in its middle."""

    path: str
    offset: int


def seldom_read_file(disk: Disk, root: Partition, extracted: Path) -> Place:
    """A kernel module that no virtual machine loads, and where its data lie.

    :param extracted: the partition is copied there for a while; inside ``build``, for programs of the tools tree.
    """
    disk.extract(root, extracted)
    try:
        for path in _modules(extracted):
            if place := _place(extracted, path):
                return place
    finally:
        extracted.unlink()
    raise VmError("the root has none of the kernel modules that no box loads")


def damage_seldom_read_file(disk: Disk, extracted: Path) -> Place:
    """Change one bit of such a file; where it is, so that a second change there puts it right.

    :param extracted: as for :func:`seldom_read_file`.
    """
    root = disk.of_kind(ROOT_X86_64)
    victim = seldom_read_file(disk, root, extracted)
    disk.flip(root, victim.offset)
    return victim


def _modules(image: Path) -> list[str]:
    """Modules of devices, disks and alphabets that no virtual machine uses; every kernel has one of them at least."""
    kernels = _names(tools_tree().output(["dump.erofs", f"--path={_FOLDER}", "--ls", image], cwd=image.parent))
    return [f"{_FOLDER}/{kernel}/kernel/{name}.ko.xz" for kernel in kernels for name in _UNUSED]


def _names(listing: str) -> list[str]:
    """Names out of what ``dump.erofs --ls`` prints: number, type, name."""
    return [
        words[-1] for line in listing.splitlines() if len(words := line.split()) >= 3 and words[-1] not in {".", ".."}
    ]


def _place(image: Path, path: str) -> Place | None:
    try:
        said = tools_tree().output(["dump.erofs", f"--path={path}", "-e", image], cwd=image.parent)
    except BuildError:  # it is not in this kernel
        return None
    extents = re.findall(r"^\s*\d+:\s+\d+\.\.\s*\d+\s*\|\s*\d+\s*:\s*(\d+)\.\.\s*(\d+)\s*\|", said, re.MULTILINE)
    if not extents:
        return None
    first, last = (int(number) for number in extents[len(extents) // 2])
    return Place(path, (first + last) // 2) if last > first else None


def top_hash_block(disk: Disk, hashes: Partition) -> int:
    """Where the topmost block of a hash tree lies in its partition: it is read whatever is read of the root."""
    parts = _SUPERBLOCK.unpack(disk.read(hashes, 0, _SUPERBLOCK.size))
    if parts[0].rstrip(b"\0") != b"verity":
        raise VmError("the partition holds no hash tree")
    return BLOCK  # levels are stored from the top down, behind the superblock
