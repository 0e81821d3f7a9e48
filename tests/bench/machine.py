# SPDX-License-Identifier: Apache-2.0
"""The machine a run took place on, named generically: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.figures import percentile

_WRITES: Final = 300
_BLOCK: Final = b"\0" * 4096


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures depend on; times in milliseconds, ``load`` is that of the last minute before the run."""

    cpu: str
    cores: int
    load: float
    kernel: str
    python: str
    nats_server: str
    filesystem: str
    fdatasync_p50_ms: float
    fdatasync_p99_ms: float

    @classmethod
    def describe(cls, folder: Path, nats_server: str) -> Machine:
        """This machine, with the disk behind a folder; takes a moment, as it writes there."""
        times = _fdatasync_ms(folder)
        return cls(
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)),
            load=os.getloadavg()[0],
            kernel=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            nats_server=nats_server,
            filesystem=_filesystem(folder),
            fdatasync_p50_ms=percentile(times, 0.5),
            fdatasync_p99_ms=percentile(times, 0.99),
        )

    def text(self) -> str:
        """Two lines."""
        return (
            f"{self.cpu}, {self.cores} cores (load before: {self.load:.1f}), {self.kernel}, Python {self.python}, "
            f"nats-server {self.nats_server}\n"
            f"{self.filesystem}, fdatasync of 4 KiB: p50 {self.fdatasync_p50_ms:.2f} ms, "
            f"p99 {self.fdatasync_p99_ms:.2f} ms"
        )


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _filesystem(folder: Path) -> str:
    """The type of the filesystem a folder is on: the longest mount point above it counts."""
    best, kind = "", "unknown"
    target = str(folder.resolve())
    for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        if len(point) >= len(best) and (point in ("/", target) or target.startswith(f"{point}/")):
            best, kind = point, after.split()[0]
    return kind


def _fdatasync_ms(folder: Path) -> list[float]:
    path = folder / "fdatasync"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    times = []
    try:
        for _ in range(_WRITES):
            os.write(descriptor, _BLOCK)
            started = time.perf_counter()
            os.fdatasync(descriptor)
            times.append((time.perf_counter() - started) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    return times
