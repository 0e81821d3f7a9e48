# SPDX-License-Identifier: Apache-2.0
"""The firmware of a virtual machine: OVMF's code with Secure Boot, and a variable store of the machine's own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from virt.firmware.efi.devpath import DevicePath, DevicePathElem  # type: ignore[import-untyped]
from virt.firmware.varstore.edk2 import Edk2VarStore  # type: ignore[import-untyped]

from appliance.firmware.keys import SecureBootKeys
from appliance.firmware.varstore import make_vars
from appliance.flash.gpt import Partition
from tools.vm.faults import NotBuiltError

_FOLDER: Final = Path("/usr/share/OVMF")
CODE: Final = _FOLDER / "OVMF_CODE_4M.secboot.fd"
EMPTY_VARIABLES: Final = _FOLDER / "OVMF_VARS_4M.fd"
"""No keys: Secure Boot is in setup mode, which is off."""


@dataclass(frozen=True, slots=True)
class Firmware:
    """:param code: shared, read only. :param variables: this machine's own; the firmware writes to it."""

    code: Path
    variables: Path


def code() -> Path:
    """The code. :raises NotBuiltError: it is not installed."""
    return _installed(CODE)


def _installed(path: Path) -> Path:
    if not path.is_file():
        raise NotBuiltError(f"{path} is missing; 'tools/vm/setup.sh' installs the package ovmf")
    return path


def with_keys(target: Path, keys: SecureBootKeys) -> Firmware:
    """Firmware with Secure Boot on, which starts what these keys signed and nothing else."""
    make_vars(_installed(EMPTY_VARIABLES), keys, target)
    return Firmware(code(), target)


def without_keys(target: Path) -> Firmware:
    """Firmware with Secure Boot off: no keys are enrolled."""
    shutil.copyfile(_installed(EMPTY_VARIABLES), target)
    return Firmware(code(), target)


def with_variables(source: Path, target: Path) -> Firmware:
    """Firmware with a copy of a variable store."""
    shutil.copyfile(source, target)
    return Firmware(code(), target)


def start_first(variables: Path, number: int, partition: Partition, file: str, options: str) -> None:
    """Have a variable store start a file before everything else, as whoever is in the firmware's setup can.

    :param number: of the partition, from 1. :param file: a program on it, as ``EFI/Linux/name.efi``.
    :param options: handed to the program: for a kernel image, a command line.
    """
    disk, place = DevicePathElem(), DevicePathElem()
    disk.set_gpt(number, partition.first, partition.last - partition.first + 1, str(partition.id))
    place.set_filepath("\\" + file.replace("/", "\\"))
    store = Edk2VarStore(str(variables))
    found = store.get_varlist()
    path = DevicePath()
    path.extend([disk, place])
    entry = found.add_boot_entry("first", path, f"{options}\0".encode("utf-16-le"))
    order = found.get("BootOrder") or found.create("BootOrder")
    order.data = entry.to_bytes(2, "little") + (order.data or b"")
    store.write_varstore(str(variables), found)
