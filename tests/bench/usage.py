# SPDX-License-Identifier: Apache-2.0
"""What processes have used so far: CPU time and memory, as the kernel counts them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, in user and kernel mode."""
    # The name in parentheses may hold anything; user and kernel time are the 14th and 15th field of the line.
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def peak_mib(pid: int) -> float:
    """The most memory a process has had resident, in MiB."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text("utf-8"), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def all_cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds of several processes, by name."""
    return {name: cpu_s(pid) for name, pid in pids.items()}


def all_peak_mib(pids: Mapping[str, int]) -> dict[str, float]:
    """Peak memory of several processes, by name."""
    return {name: peak_mib(pid) for name, pid in pids.items()}
