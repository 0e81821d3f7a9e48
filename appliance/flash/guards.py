# SPDX-License-Identifier: Apache-2.0
"""Which disks are never overwritten. One table; each row is attacked by a test of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.disks import DiskFacts
from appliance.flash.gpt import SECTOR


@dataclass(frozen=True, slots=True)
class Guard:
    """A reason not to write.

    :param refuses: says why a disk is refused, or nothing; is told the bytes that the image needs.
    """

    name: str
    refuses: Callable[[DiskFacts, int], str]


def _kind(disk: DiskFacts, _: int) -> str:
    return "" if disk.known else "not a kind of disk that images are written to"


def _system(disk: DiskFacts, _: int) -> str:
    return f"this system runs from it ({', '.join(disk.system)})" if disk.system else ""


def _mounted(disk: DiskFacts, _: int) -> str:
    return f"mounted on {', '.join(disk.mounts)}" if disk.mounts else ""


def _swap(disk: DiskFacts, _: int) -> str:
    return f"used for swap ({', '.join(disk.swaps)})" if disk.swaps else ""


def _held(disk: DiskFacts, _: int) -> str:
    return f"part of {', '.join(disk.holders)}" if disk.holders else ""


def _looped(disk: DiskFacts, _: int) -> str:
    return f"behind {', '.join(disk.loops)}" if disk.loops else ""


def _read_only(disk: DiskFacts, _: int) -> str:
    return "read-only" if disk.read_only else ""


def _sectors(disk: DiskFacts, _: int) -> str:
    if disk.sector == SECTOR:
        return ""
    return f"its sectors have {disk.sector} bytes, the image is made for {SECTOR}: it would not boot"


def _small(disk: DiskFacts, need: int) -> str:
    return "" if disk.size >= need else f"too small: {disk.size} bytes, the image needs {need}"


GUARDS: Final = (
    Guard("kind", _kind),
    Guard("system", _system),
    Guard("mounted", _mounted),
    Guard("swap", _swap),
    Guard("held", _held),
    Guard("looped", _looped),
    Guard("read-only", _read_only),
    Guard("sectors", _sectors),
    Guard("small", _small),
)


def refusals(disk: DiskFacts, need: int = 1, guards: tuple[Guard, ...] = GUARDS) -> list[str]:
    """Why a disk must not be written; empty: it may be. :param need: bytes of the image."""
    return [why for guard in guards if (why := guard.refuses(disk, need))]


def check_disk(disk: DiskFacts, need: int) -> None:
    """Refuse a disk that must not be written. :raises RefusedError: ``disk_refused`` with every reason."""
    if found := refusals(disk, need):
        raise RefusedError(Reason.DISK_REFUSED, f"{disk.node}: {'; '.join(found)}")


def check_confirmation(disk: DiskFacts, typed: str) -> None:
    """Compare what somebody typed. :raises RefusedError: ``not_confirmed``: it is not this disk's serial number."""
    if typed.strip() != disk.confirmation:
        what = "serial number" if disk.serial else "size in bytes"
        raise RefusedError(Reason.NOT_CONFIRMED, f"{typed.strip()!r} is not the {what} of {disk.node}")
