# SPDX-License-Identifier: Apache-2.0
"""How patient to be: limits are written for an idle two-core machine and stretched by how slow this one is now.

``BSFG_VM_PACE=3`` sets the factor; else it is measured once per process. Emulated machines (TCG) take minutes where
virtualised ones take seconds, and several times as long beside other work.
"""

from __future__ import annotations

import fcntl
import os
import time
from functools import cache
from pathlib import Path
from typing import Final

BOOT_S: Final = 240.0
"""The least that a boot may take, whatever was measured."""
_VARIABLE: Final = "BSFG_VM_PACE"
_RANGE: Final = (0.25, 20.0)
_LOOPS: Final = 1_000_000
_LOOPS_S: Final = 0.12
"""What :data:`_LOOPS` took on the machine for which the limits were written."""
_KVM: Final = Path("/dev/kvm")
_CHECK_EXTENSION: Final = 0xAE03
_X86_SMM: Final = 117


@cache
def factor() -> float:
    """How many times slower than the reference machine this one is now.

    :raises ValueError: ``BSFG_VM_PACE`` is no number.
    """
    if text := os.environ.get(_VARIABLE):
        return parse_factor(text)
    start = time.perf_counter()
    total = 0
    for number in range(_LOOPS):
        total += number & 3
    measured = (time.perf_counter() - start) / _LOOPS_S
    waiting = os.getloadavg()[0] / (
        os.cpu_count() or 1
    )  # others that wait for the same cores will be there for a while
    return min(max(measured, 1.0, waiting), _RANGE[1])


def parse_factor(text: str) -> float:
    """The factor that a person set. :raises ValueError: it is no number between 0.25 and 20."""
    value = float(text)
    if not _RANGE[0] <= value <= _RANGE[1]:
        raise ValueError(f"{_VARIABLE}={text}: {_RANGE[0]:g} to {_RANGE[1]:g}")
    return value


def limit(seconds: float) -> float:
    """``seconds`` as this machine needs them."""
    return seconds * factor()


def boot_limit(seconds: float = 120.0) -> float:
    """How long a boot may take: ``seconds`` on an idle reference machine, never less than :data:`BOOT_S` here."""
    return max(BOOT_S, limit(seconds))


@cache
def accelerator() -> str:
    """``kvm`` where it can run firmware with Secure Boot, which needs system management mode; else ``tcg``."""
    try:
        descriptor = os.open(_KVM, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return "tcg"
    try:
        return "kvm" if fcntl.ioctl(descriptor, _CHECK_EXTENSION, _X86_SMM) > 0 else "tcg"
    except OSError:
        return "tcg"
    finally:
        os.close(descriptor)
