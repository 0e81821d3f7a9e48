# SPDX-License-Identifier: Apache-2.0
"""Flashing a real block device, and what the kernel says of one in use. The device is memory of this machine (zram).

Needs root and the kernel's zram control; elsewhere these tests are not run, and files take the place of disks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.embed import Embedding
from appliance.flash.gpt import MIB, PartitionTable
from appliance.flash.guards import refusals
from appliance.flash.release import open_release
from appliance.flash.stream import image_bytes
from appliance.flash.sysfs import SysfsDisks
from appliance.flash.writing import write_image
from tests.flashing import HAS_MTOOLS, mtools, small_release

CONTROL = Path("/sys/class/zram-control")
BYTES = 24 * MIB


@pytest.fixture
def device() -> Iterator[Path]:
    """A block device of its own, which is gone afterwards."""
    if os.geteuid() != 0 or not (CONTROL / "hot_add").exists():
        pytest.skip("needs root and zram")
    try:
        number = (CONTROL / "hot_add").read_text().strip()
    except OSError as error:
        pytest.skip(f"no zram device to be had: {error}")
    try:
        node, block = Path(f"/dev/zram{number}"), Path(f"/sys/block/zram{number}")
        if not node.exists():
            pytest.skip("nobody makes device files here")
        (block / "disksize").write_text(f"{BYTES}\n")
        yield node
        (block / "reset").write_text("1\n")
    finally:
        (CONTROL / "hot_remove").write_text(number)


@contextlib.contextmanager
def mounted(device: Path, place: Path) -> Iterator[None]:
    """A file system on the device, in use."""
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
    subprocess.run(["mount", device, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_block_device_is_flashed(device: Path, tmp_path: Path) -> None:
    """Written, read back past the cache, and given its files; nobody else can open it meanwhile."""
    made = small_release(tmp_path / "r")
    release = open_release(made.folder, [made.key])
    disks = SysfsDisks()
    facts = disks.facts(device)
    assert facts.size == BYTES
    assert "not a kind of disk that images are written to" in refusals(facts)
    target = disks.open(facts)
    try:
        with pytest.raises(RefusedError, match="in use, the kernel says"):
            disks.open(facts)
        embed = Embedding.of({"site.toml": b"hello\n"}) if HAS_MTOOLS else None
        done = write_image(image_bytes(release), release.blocks, target, embed=embed)
    finally:
        target.close()
    assert done.direct
    content = device.read_bytes()
    assert PartitionTable.parse(content[:MIB]) == made.image.table
    assert all(content[p.start : p.end] == made.image.raw[p.start : p.end] for p in release.blocks.ranges[2:])
    if HAS_MTOOLS:
        assert mtools("mcopy", f"{device}@@{MIB}", "::/bsfg/site.toml", "-") == b"hello\n"


def test_a_mounted_device_is_refused(device: Path, tmp_path: Path) -> None:
    """By us, who see the mount; and by the kernel, whatever we see. Free again, it can be opened."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("apt-get install e2fsprogs")
    disks = SysfsDisks()
    blind = disks.facts(device)
    with mounted(device, tmp_path / "mnt"):
        assert disks.facts(device).mounts == (str(tmp_path / "mnt"),)
        with pytest.raises(RefusedError) as refused:
            disks.open(blind)
        assert refused.value.reason is Reason.DISK_REFUSED
    disks.open(disks.facts(device)).close()
