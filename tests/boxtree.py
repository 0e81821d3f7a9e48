# SPDX-License-Identifier: Apache-2.0
"""A made-up box as tests describe it, and the files in which Linux would show it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from appliance.firmware.efi import GLOBAL_VARIABLE, KeyVariable

NOW = 1_796_000_000.0
"""The system's time on the box."""
END = b"\x7f\xff\x04\x00"
PCI = bytes.fromhex("02010c00d041030a00000000") + bytes.fromhex("010106000001")
PATHS: Mapping[str, bytes] = {
    "device": PCI + END,
    "disk": PCI + struct.pack("<BBHHHH", 3, 18, 10, 0, 0xFFFF, 0) + END,
    "partition": struct.pack("<BBH", 4, 1, 42) + bytes(38) + END,
    "usb": PCI + struct.pack("<BBHBB", 3, 5, 6, 1, 0) + struct.pack("<BBH", 4, 1, 42) + bytes(38) + END,
    "network": PCI + struct.pack("<BBH", 3, 11, 37) + bytes(33) + struct.pack("<BBH", 3, 12, 27) + bytes(23) + END,
    "cdrom": PCI + struct.pack("<BBHHHH", 3, 18, 10, 0, 0xFFFF, 0) + struct.pack("<BBH", 4, 2, 24) + bytes(20) + END,
    "firmware": struct.pack("<BBH", 4, 7, 20) + bytes(16) + struct.pack("<BBH", 4, 6, 20) + bytes(16) + END,
    "legacy": struct.pack("<BBHHH", 5, 1, 9, 0x80, 0) + b"\0" + END,
}
"""Device paths by kind of entry; ``partition`` is the short form that boot loaders write."""


def boot_entry(title: str, path: bytes, *, active: bool = True) -> bytes:
    """EFI_LOAD_OPTION."""
    return struct.pack("<LH", int(active), len(path)) + title.encode("utf-16-le") + b"\0\0" + path


@dataclass(slots=True)
class MadeBox:
    """A box. ``None`` and empty: it has no such thing.

    :param password: two bits of DMI's structure 24, 0 off, 1 on, 2 not implemented, 3 unknown.
    """

    uefi: bool = True
    variables: dict[tuple[str, UUID], bytes] = field(default_factory=dict)
    vendor: str = "Acme"
    product: str = "Gateway 7"
    firmware: tuple[str, str] = ("Maker", "1.2")
    tpm_major: str | None = "2"
    banks: tuple[str, ...] = ("sha256",)
    pcr7: bytes = bytes(32)
    password: int | None = 1
    watchdogs: tuple[str, ...] = ("iTCO_wdt",)
    adapters: dict[str, bool | None] = field(default_factory=lambda: {"eno1": False, "eno2": None})
    virtual: tuple[str, ...] = ("lo",)
    iommus: tuple[str, ...] = ("dmar0",)
    smt: tuple[str, str] | None = ("on", "1")
    clock: int | None = int(NOW)

    def keys(self, contents: Mapping[KeyVariable, bytes]) -> None:
        """What the four variables hold."""
        for variable in KeyVariable:
            self.variables[variable, variable.vendor] = contents[variable]

    def set(self, name: str, data: bytes) -> None:
        """One of the firmware's own variables."""
        self.variables[name, GLOBAL_VARIABLE] = data

    def boots(self, *kinds: str, current: int = 0, inactive: tuple[int, ...] = ()) -> None:
        """Boot entries of these kinds, in this order; ``current``: which one started."""
        for number, kind in enumerate(kinds):
            entry = boot_entry(f"entry {number}", PATHS[kind], active=number not in inactive)
            self.set(f"Boot{number:04X}", entry)
        self.set("BootOrder", struct.pack(f"<{len(kinds)}H", *range(len(kinds))))
        self.set("BootCurrent", struct.pack("<H", current))

    def write(self, root: Path) -> Path:
        """The files, below a folder."""
        system = root / "sys"
        self._write_firmware(system)
        self._write_devices(system)
        return root

    def _write_firmware(self, system: Path) -> None:
        for name, text in (
            ("sys_vendor", self.vendor),
            ("product_name", self.product),
            ("bios_vendor", self.firmware[0]),
            ("bios_version", self.firmware[1]),
        ):
            _put(system / "class/dmi/id" / name, text)
        if self.uefi:
            (system / "firmware/efi/efivars").mkdir(parents=True)
        for (name, vendor), data in self.variables.items():
            (system / f"firmware/efi/efivars/{name}-{vendor}").write_bytes(b"\x07\0\0\0" + data)
        if self.password is not None:
            raw = system / "firmware/dmi/entries/24-0/raw"
            raw.parent.mkdir(parents=True)
            raw.write_bytes(bytes([24, 5, 0x18, 0, 0b11110011 | self.password << 2, 0, 0]))
        if self.tpm_major is not None:
            _put(system / "class/tpm/tpm0/tpm_version_major", self.tpm_major)
            for bank in self.banks:
                _put(system / f"class/tpm/tpm0/pcr-{bank}/7", self.pcr7.hex().upper())

    def _write_devices(self, system: Path) -> None:
        for number, name in enumerate(self.watchdogs):
            _put(system / f"class/watchdog/watchdog{number}/identity", name)
        for name, wakes in self.adapters.items():
            (system / f"class/net/{name}/device/power").mkdir(parents=True)
            if wakes is not None:
                _put(system / f"class/net/{name}/device/power/wakeup", "enabled" if wakes else "disabled")
        for folder in (*(f"net/{name}" for name in self.virtual), *(f"iommu/{name}" for name in self.iommus)):
            (system / "class" / folder).mkdir(parents=True)
        if self.smt is not None:
            _put(system / "devices/system/cpu/smt/control", self.smt[0])
            _put(system / "devices/system/cpu/smt/active", self.smt[1])
        if self.clock is not None:
            _put(system / "class/rtc/rtc0/since_epoch", str(self.clock))


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", "utf-8")
