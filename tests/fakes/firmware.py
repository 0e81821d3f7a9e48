# SPDX-License-Identifier: Apache-2.0
"""Facts of a box's firmware without files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from appliance.firmware.facts import Machine, Tpm
from tests.boxtree import NOW, MadeBox


@dataclass(frozen=True, slots=True)
class FakeFacts:
    """A :class:`appliance.firmware.facts.FirmwareFacts` of a made-up box."""

    box: MadeBox

    def booted_by_uefi(self) -> bool:
        """As the port says."""
        return self.box.uefi

    def variable(self, name: str, vendor: UUID) -> bytes | None:
        """As the port says."""
        if not self.box.uefi or not self.box.variables:
            raise OSError("no variables are to be seen")
        return self.box.variables.get((name, vendor))

    def machine(self) -> Machine:
        """As the port says."""
        return Machine(self.box.vendor, self.box.product, " ".join(self.box.firmware))

    def tpm(self) -> Tpm | None:
        """As the port says."""
        if self.box.tpm_major is None:
            return None
        pcr7 = self.box.pcr7 if "sha256" in self.box.banks else None
        return Tpm("2.0" if self.box.tpm_major == "2" else "1.2", frozenset(self.box.banks), pcr7)

    def setup_password(self) -> bool | None:
        """As the port says."""
        return {0: False, 1: True}.get(-1 if self.box.password is None else self.box.password)

    def watchdogs(self) -> tuple[str, ...]:
        """As the port says."""
        return tuple(name for name in self.box.watchdogs if name != "Software Watchdog")

    def wake_on_lan(self) -> Mapping[str, bool]:
        """As the port says."""
        return {name: bool(wakes) for name, wakes in self.box.adapters.items()}

    def iommus(self) -> int:
        """As the port says."""
        return len(self.box.iommus)

    def hyper_threading(self) -> bool | None:
        """As the port says."""
        if self.box.smt is None or self.box.smt[0] == "notsupported":
            return None
        return self.box.smt[1] == "1"

    def clock_offset_s(self) -> float | None:
        """As the port says."""
        return None if self.box.clock is None else self.box.clock - NOW
