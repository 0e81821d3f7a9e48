# SPDX-License-Identifier: Apache-2.0
"""What Linux shows of the firmware: efivarfs, DMI, TPM, watchdogs, network adapters, IOMMUs, clock. Nothing is changed.

Everything is read below a root, ``/`` on a box. Of another root, such as a copy of these files, the files are all there
is; on the running system the network adapters themselves are asked too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from uuid import UUID

from appliance.firmware.facts import Machine, Tpm

_ATTRIBUTES: Final = 4
"""efivarfs puts a variable's attributes in front of its content."""
_HARDWARE_SECURITY: Final = 24
"""DMI structure type (SMBIOS 3.7, 7.25): bits 2 and 3 of byte 4 are the administrator's password."""
_PASSWORD: Final = {0: False, 1: True}
_SOFTWARE: Final = re.compile(r"software watchdog", re.IGNORECASE)


class SysfsFacts:
    """A :class:`appliance.firmware.facts.FirmwareFacts` of a system.

    :param now: Unix seconds, for the clock. :param wakes: whether the driver of an adapter would wake the box;
        ``None``: it is not asked.
    """

    def __init__(
        self, root: Path, now: Callable[[], float] = time.time, wakes: Callable[[str], bool] | None = None
    ) -> None:
        self._sys = root / "sys"
        self._now = now
        self._wakes = wakes

    def booted_by_uefi(self) -> bool:
        """As the port says."""
        return (self._sys / "firmware/efi").is_dir()

    def variable(self, name: str, vendor: UUID) -> bytes | None:
        """As the port says."""
        folder = self._sys / "firmware/efi/efivars"
        if not folder.is_dir() or not any(folder.iterdir()):
            raise OSError(f"{folder} is empty: efivarfs is not mounted there")
        data = _read(folder / f"{name}-{vendor}")
        if data is None:
            return None
        if len(data) < _ATTRIBUTES:
            raise OSError(f"{name}: {len(data)} bytes")
        return data[_ATTRIBUTES:]

    def machine(self) -> Machine:
        """As the port says."""
        vendor, product, maker, version = (
            _text(self._sys / "class/dmi/id" / name) or ""
            for name in ("sys_vendor", "product_name", "bios_vendor", "bios_version")
        )
        return Machine(vendor, product, f"{maker} {version}".strip())

    def tpm(self) -> Tpm | None:
        """As the port says."""
        folder = self._sys / "class/tpm/tpm0"
        if not folder.is_dir():
            return None
        major = _text(folder / "tpm_version_major")
        banks = frozenset(path.name.removeprefix("pcr-") for path in folder.glob("pcr-*"))
        value = _text(folder / "pcr-sha256/7")
        if value is not None and not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
            raise OSError(f"{folder}: PCR 7 is no digest")
        return Tpm("2.0" if major == "2" else "1.2", banks, bytes.fromhex(value) if value else None)

    def setup_password(self) -> bool | None:
        """As the port says."""
        said: set[bool | None] = set()
        for folder in sorted((self._sys / "firmware/dmi/entries").glob(f"{_HARDWARE_SECURITY}-*")):
            data = _read(folder / "raw")
            if data is not None and len(data) >= 5 and data[0] == _HARDWARE_SECURITY:
                said.add(_PASSWORD.get(data[4] >> 2 & 3))
        return said.pop() if len(said) == 1 else None

    def watchdogs(self) -> tuple[str, ...]:
        """As the port says."""
        names = [
            _text(folder / "identity") or folder.name
            for folder in sorted((self._sys / "class/watchdog").glob("watchdog*"))
        ]
        return tuple(name for name in names if not _SOFTWARE.search(name))

    def wake_on_lan(self) -> Mapping[str, bool]:
        """As the port says."""
        adapters = [path for path in sorted((self._sys / "class/net").glob("*")) if (path / "device").exists()]
        return {path.name: self._may_wake(path) for path in adapters}

    def _may_wake(self, adapter: Path) -> bool:
        """The kernel would pass it on, or the driver would do it: one of them is enough to say yes."""
        if _text(adapter / "device/power/wakeup") == "enabled":
            return True
        return self._wakes is not None and self._wakes(adapter.name)

    def iommus(self) -> int:
        """As the port says."""
        return len(list((self._sys / "class/iommu").glob("*")))

    def hyper_threading(self) -> bool | None:
        """As the port says."""
        folder = self._sys / "devices/system/cpu/smt"
        if _text(folder / "control") in {None, "notsupported", "notimplemented"}:
            return None
        return {"1": True, "0": False}.get(_text(folder / "active") or "")

    def clock_offset_s(self) -> float | None:
        """As the port says."""
        value = _text(self._sys / "class/rtc/rtc0/since_epoch")
        if value is None:
            return None
        if not value.isdecimal():
            raise OSError("the clock of the board does not say a time")
        return int(value) - self._now()


def adapter_wakes(name: str) -> bool:
    """Ask the driver of the running system (ethtool, by netlink); one that knows no such thing wakes nothing."""
    from pyroute2.ethtool import Ethtool  # type: ignore[import-untyped]
    from pyroute2.ethtool.ioctl import EthtoolError, NotSupportedError  # type: ignore[import-untyped]

    with Ethtool() as ethtool:
        try:
            return any(mode.enable for mode in ethtool.get_wol(name).modes.values())
        except NotSupportedError:
            return False
        except EthtoolError as error:
            raise OSError(f"{name}: {error}") from error


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _text(path: Path) -> str | None:
    """One line, fit to be printed whatever the firmware's maker wrote."""
    data = _read(path)
    if data is None:
        return None
    return "".join(sign if sign.isprintable() else "?" for sign in data.decode("utf-8", "replace").strip())
