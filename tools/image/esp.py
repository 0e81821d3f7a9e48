# SPDX-License-Identifier: Apache-2.0
"""The EFI system partition, made anew after mkosi: our kernel images, the boot loader, and nothing left over.

mkosi's own has kernel images that are not ours, in clusters that stay when files are deleted; and signatures with the
time of the build in them. Here everything follows from the files and the time stamp, to the byte.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.image.keys import BuildKeys
from tools.image.signing import sign_program
from tools.image.toolstree import ToolsTree

LOADER: Final = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")
LOADERS: Final = ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi")
KERNELS: Final = "EFI/Linux"
_VOLUME: Final = "5f0a6c1e"
"""The volume's serial number; nothing looks for it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the partition lies in a disk image, in bytes."""

    start: int
    size: int

    @classmethod
    def of(cls, tools: ToolsTree, raw: Path) -> Extent:
        """Out of its partition table."""
        table = json.loads(tools.output(["sfdisk", "--json", raw], cwd=raw.parent))["partitiontable"]
        esp = next(part for part in table["partitions"] if part["name"] == "esp")
        sector = int(table["sectorsize"])
        return cls(esp["start"] * sector, esp["size"] * sector)


def drive(tools: ToolsTree, raw: Path) -> str:
    """The partition within a disk image, as mtools' ``-i`` has it."""
    return f"{raw}@@{Extent.of(tools, raw).start}"


def copy_out(tools: ToolsTree, raw: Path, folder: Path) -> Path:
    """All files of the partition, in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tools.run(["mcopy", "-s", "-i", drive(tools, raw), "::/*", folder], cwd=folder, env={"MTOOLS_SKIP_CHECK": "1"})
    return folder


def rewrite(tools: ToolsTree, keys: BuildKeys, out: Path, work: Path, kernels: Mapping[str, Path], epoch: int) -> None:
    """Make the partition of ``appliance.raw`` and ``appliance.esp.raw`` anew.

    :param kernels: kernel images by their name below ``/EFI/Linux``.
    """
    raw, image = out / "appliance.raw", out / "appliance.esp.raw"
    tree = copy_out(tools, raw, work / "esp")
    shutil.rmtree(tree / KERNELS)
    (tree / KERNELS).mkdir()
    for name, kernel in kernels.items():
        shutil.copyfile(kernel, tree / KERNELS / name)
    for name in LOADERS:
        sign_program(tools, keys, LOADER, tree / name, epoch)
    place = Extent.of(tools, raw)
    _format(tools, tree, image, place.size, epoch)
    hole = ("--punch-hole", "--offset", str(place.start), "--length", str(place.size))
    tools.run(["fallocate", *hole, raw], cwd=out)
    with raw.open("r+b") as target, image.open("rb") as source:
        for at, data in _data(source.fileno()):
            target.seek(place.start + at)
            target.write(data)


def _format(tools: ToolsTree, tree: Path, image: Path, size: int, epoch: int) -> None:
    """A FAT file system with a tree, in a fixed order and with one time."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    env = {"MTOOLS_SKIP_CHECK": "1", "SOURCE_DATE_EPOCH": str(epoch)}
    options = ("--invariant", "-F", "32", "-S", "512", "-i", _VOLUME, "-n", "ESP")
    tools.run(["mkfs.fat", *options, image], cwd=tree, env=env)
    for path in sorted(tree.rglob("*")):
        os.utime(path, (epoch, epoch))
        name = f"::/{path.relative_to(tree)}"
        if path.is_dir():
            tools.run(["mmd", "-i", image, name], cwd=tree, env=env)
        else:
            tools.run(["mcopy", "-m", "-i", image, path, name], cwd=tree, env=env)


def _data(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """The pieces of a file that are no holes, with their places."""
    at, end = 0, os.fstat(descriptor).st_size
    while at < end:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, os.pread(descriptor, at - start, start)
