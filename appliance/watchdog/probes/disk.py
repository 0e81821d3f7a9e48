# SPDX-License-Identifier: Apache-2.0
"""Probe ``disk``: what the kernel knows of the disk's health, and how full ``/var`` is. Told to people, no more.

Sources: errors that ext4 has met in ``/var`` (``/sys/fs/ext4``), ``/var`` turned read-only, failed requests of SATA and
SCSI disks (``ioerr_cnt``), and the wear that eMMC reports. SMART itself needs commands to the disk that take the rights
of root (CAP_SYS_ADMIN for NVMe); no service here has those, so it is not asked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from appliance.watchdog.probes import mountinfo
from appliance.watchdog.probes.mountinfo import Mount
from appliance.watchdog.probes.places import Places, View, text_of
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code, ProbeName

FULL: Final = 0.90
"""Of blocks or of files."""
WORN: Final = 9
"""JEDEC eMMC: 0x09 says that 80 to 90 % of its life is used."""
URGENT: Final = 2
"""JEDEC eMMC pre-end-of-life: 0x02 warns, 0x03 is urgent."""


class DiskProbe:
    """See the module. What failed before the first look is the beginning; only what is added is told."""

    name = ProbeName.DISK
    period_s = 8.0

    def __init__(self, places: Places) -> None:
        self._places = places
        self._failed_before: dict[str, int] = {}

    def look(self) -> Reading:
        """As the port says."""
        view = View(self.name)
        with view.part("var"):
            self._fill(view)
        with view.part("file system"):
            found = [each for each in mountinfo.read(self._places.mountinfo) if each.point == "/var"]
            for mount in found[-1:]:
                self._file_system(mount, view)
        with view.part("requests"):
            self._requests(view)
        with view.part("wear"):
            self._wear(view)
        return view.reading()

    def _fill(self, view: View) -> None:
        state = os.statvfs(self._places.var)
        blocks = 1 - state.f_bavail / state.f_blocks if state.f_blocks else 0.0
        files = 1 - state.f_favail / state.f_files if state.f_files else 0.0
        view.note("var_used", f"{blocks:.0%}")
        view.note("var_files_used", f"{files:.0%}")
        if max(blocks, files) >= FULL:
            view.see(Code.DISK_FULL, f"{blocks:.0%} of the blocks and {files:.0%} of the files are used")

    def _file_system(self, mount: Mount, view: View) -> None:
        if "ro" in mount.of_all:
            view.see(Code.DISK_FAILING, f"{mount} turned read-only")
        device = (self._places.sys / "dev/block" / mount.device).resolve().name
        try:
            errors = int(text_of(self._places.sys / "fs/ext4" / device / "errors_count"))
        except FileNotFoundError:
            return
        view.note("var_errors", errors)
        if errors:
            view.see(Code.DISK_FAILING, f"the file system of /var has met {errors} errors")

    def _requests(self, view: View) -> None:
        for path in sorted((self._places.sys / "block").glob("*/device/ioerr_cnt")):
            disk, failed = path.parent.parent.name, int(text_of(path), 0)
            before = self._failed_before.setdefault(disk, failed)
            view.note(f"{disk}_failed", failed)
            if failed > before:
                view.see(Code.DISK_FAILING, f"{disk}: {failed - before} requests failed since the sensor started")

    def _wear(self, view: View) -> None:
        for device in sorted((self._places.sys / "block").glob("mmcblk*/device")):
            disk = device.parent.name
            used = max((int(word, 0) for word in _words(device / "life_time")), default=0)
            end = max((int(word, 0) for word in _words(device / "pre_eol_info")), default=0)
            view.note(f"{disk}_wear", f"{used} {end}")
            if used >= WORN or end >= URGENT:
                view.see(Code.DISK_FAILING, f"{disk}: worn (life {used} of 11, reserve {end})")

    def descriptor(self) -> int | None:
        """Nothing here says when it changes."""
        return None

    def close(self) -> None:
        """It holds nothing."""


def _words(path: Path) -> list[str]:
    try:
        return text_of(path).split()
    except FileNotFoundError:
        return []
