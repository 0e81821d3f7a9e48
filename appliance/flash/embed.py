# SPDX-License-Identifier: Apache-2.0
"""Puts site configuration, voucher and measurements into the EFI system partition by ``mtools``: nothing is mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.boundary.errors import IntegrityError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.flash.disks import Target
from appliance.flash.gpt import Partition

FOLDER: Final = "bsfg"
"""In the EFI system partition; the box reads it as ``/boot/bsfg``."""
SITE: Final = "site.toml"
VOUCHER: Final = "voucher.json"
MAX_FILE_BYTES: Final = 1 << 20
TOOLS: Final = ("mmd", "mcopy")
_SECONDS: Final = 120
_ENVIRONMENT: Final = {"MTOOLSRC": os.devnull, "PATH": os.defpath, "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Embedding:
    """What goes into the partition. :param files: content by name."""

    files: Mapping[str, bytes]
    _tools: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Mapping[str, bytes], besides: Mapping[str, bytes] | None = None) -> Embedding:
        """Prepare it, before anything is written.

        :param besides: what goes along if it can; a box works without.
        :raises RefusedError: ``bad_input``: a file is too large. :raises UnavailableError: ``not_ready``: no mtools.
        """
        besides = besides or {}
        for name, data in (*files.items(), *besides.items()):
            if len(data) > MAX_FILE_BYTES:
                raise RefusedError(Reason.BAD_INPUT, f"{name} has more than {MAX_FILE_BYTES} bytes")
        found = {tool: shutil.which(tool) for tool in TOOLS}
        missing = [tool for tool, path in found.items() if path is None]
        if files and missing:
            raise RefusedError(Reason.BAD_INPUT, f"{', '.join(missing)} not found: apt-get install mtools")
        if not missing:
            files = {**files, **besides}
        return cls(dict(files), {tool: path for tool, path in found.items() if path})

    def __call__(self, target: Target, esp: Partition) -> None:
        """Write the files, read them back, and compare.

        :raises UnavailableError: ``disk_failed``. :raises IntegrityError: ``disk_failed``.
        """
        target.flush()
        self._run(target, esp, "mmd", "-D", "s", f"::/{FOLDER}", fails=True)  # it may be there
        with tempfile.TemporaryDirectory() as folder:
            for name, data in self.files.items():
                source = Path(folder, name)
                source.write_bytes(data)
                self._run(target, esp, "mcopy", "-o", "-D", "o", str(source), f"::/{FOLDER}/{name}")
        target.flush()
        target.read_back(esp.start, 1 << 20)  # empties the cache where nothing can be read past it
        for name, data in self.files.items():
            if self._run(target, esp, "mcopy", f"::/{FOLDER}/{name}", "-") != data:
                raise IntegrityError(Reason.DISK_FAILED, f"{name} reads back otherwise than it was written")

    def _run(self, target: Target, esp: Partition, tool: str, *arguments: str, fails: bool = False) -> bytes:
        descriptor = target.descriptor()
        command = [self._tools[tool], "-i", f"/proc/self/fd/{descriptor}@@{esp.start}", *arguments]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                env=_ENVIRONMENT,
                pass_fds=(descriptor,),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(Reason.DISK_FAILED, f"{tool}: {error}") from error
        if done.returncode and not fails:
            text = done.stderr.decode(errors="replace").strip()
            raise UnavailableError(Reason.DISK_FAILED, f"{tool}: {text or done.returncode}")
        return done.stdout
