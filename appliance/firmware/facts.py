# SPDX-License-Identifier: Apache-2.0
"""What can be learned of a running box's firmware: the port. :mod:`appliance.firmware.sysfs` asks the kernel.

A method raises :class:`OSError` when what it asks for is there and may not be read; what is not there has a value
that says so. Nobody guesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Machine:
    """What the firmware says of the machine and of itself (DMI); empty where it says nothing."""

    vendor: str
    product: str
    firmware: str


@dataclass(frozen=True, slots=True)
class Tpm:
    """The TPM. :param version: ``2.0`` or ``1.2``. :param banks: hash algorithms whose PCRs are on, by lower-case name.

    :param pcr7: of the SHA-256 bank; ``None``: there is no such bank, or the kernel does not show it.
    """

    version: str
    banks: frozenset[str]
    pcr7: bytes | None


class FirmwareFacts(Protocol):
    """What a check asks."""

    def booted_by_uefi(self) -> bool:
        """Whether the firmware started this system the UEFI way."""

    def variable(self, name: str, vendor: UUID) -> bytes | None:
        """The content of a variable, without its attributes. ``None``: the firmware has none of this name."""

    def machine(self) -> Machine:
        """Who made it."""

    def tpm(self) -> Tpm | None:
        """The first TPM. ``None``: the kernel has found none."""

    def setup_password(self) -> bool | None:
        """Whether the setup program asks for an administrator's password. ``None``: this firmware does not say."""

    def watchdogs(self) -> tuple[str, ...]:
        """What the hardware watchdogs call themselves; a watchdog of the kernel alone (softdog) is none."""

    def wake_on_lan(self) -> Mapping[str, bool]:
        """For each network adapter (not for virtual interfaces), whether a packet may wake the box."""

    def iommus(self) -> int:
        """How many units keep devices out of memory that is not theirs."""

    def hyper_threading(self) -> bool | None:
        """Whether two threads share a core now. ``None``: this processor cannot, or nobody says."""

    def clock_offset_s(self) -> float | None:
        """How far the clock of the board, read as UTC, is ahead of the system's. ``None``: there is no such clock."""
