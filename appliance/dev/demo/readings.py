# SPDX-License-Identifier: Apache-2.0
"""Live readings of the machine the demo runs on, from /proc: what a sensor of the plant would send."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
_SECTOR_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading: the fact's subject and predicate, and its content (units in the names)."""

    subject: str
    predicate: str
    values: dict[str, int | float | str]


@dataclass(slots=True)
class Machine:
    """Reads the machine; rates are since the reading before."""

    proc: Path = PROC
    _busy: tuple[int, int] = field(default=(0, 0))

    def read(self) -> list[Reading]:
        """CPU, memory, disk and network, now, as far as this machine shows them; at least one reading."""
        found = []
        for sensor in (self._cpu, self._memory, self._disk, self._network):
            with suppress(OSError, ValueError, KeyError, IndexError):  # a container may hide a file, or give it empty
                found.append(sensor())
        return found or [Reading("machine:clock", "clock_read", {"monotonic_s": round(time.monotonic(), 1)})]

    def _cpu(self) -> Reading:
        fields = [int(word) for word in self._lines("stat")[0].split()[1:9]]
        total, idle = sum(fields), fields[3] + fields[4]
        before_total, before_idle = self._busy
        self._busy = (total, idle)
        share = 1 - (idle - before_idle) / max(1, total - before_total)
        load = os.getloadavg()[0]
        return Reading("machine:cpu", "cpu_read", {"busy_percent": round(100 * share, 1), "load_1m": round(load, 2)})

    def _memory(self) -> Reading:
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in self._lines("meminfo")}
        return Reading(
            "machine:memory",
            "memory_read",
            {"total_bytes": values["MemTotal"], "available_bytes": values["MemAvailable"]},
        )

    def _disk(self) -> Reading:
        read = written = 0
        for line in self._lines("diskstats"):
            words = line.split()
            read += int(words[5])
            written += int(words[9])
        return Reading(
            "machine:disk", "disk_read", {"read_bytes": read * _SECTOR_BYTES, "written_bytes": written * _SECTOR_BYTES}
        )

    def _network(self) -> Reading:
        received = sent = 0
        for line in self._lines("net/dev")[2:]:
            words = line.partition(":")[2].split()
            received += int(words[0])
            sent += int(words[8])
        return Reading("machine:network", "network_read", {"received_bytes": received, "sent_bytes": sent})

    def _lines(self, name: str) -> list[str]:
        return (self.proc / name).read_text(encoding="utf-8").splitlines()
