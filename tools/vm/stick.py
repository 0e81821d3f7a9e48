# SPDX-License-Identifier: Apache-2.0
"""A USB stick: a file with a FAT file system, put into a machine that runs, and taken out again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.vm import pace
from tools.vm.disk import Esp, make_esp
from tools.vm.faults import VmError
from tools.vm.hardware import USB_BUS
from tools.vm.machine import Machine

SIZE_MIB: Final = 64
_NODE: Final = "stick"
_DEVICE: Final = "stick-in-usb"
_GONE_S: Final = 20.0


class Stick:
    """One stick. Files are written and read while it is out. :ivar path: of the file that it is."""

    def __init__(self, path: Path, files: Sequence[tuple[str, bytes]] = ()) -> None:
        """:param files: names, as ``bsfg/site.toml``, and contents; the file system is all of the stick."""
        self.path = path
        make_esp(path, SIZE_MIB, files)

    @property
    def files(self) -> Esp:
        """What is on it."""
        return Esp(self.path, 0)

    def put_in(self, machine: Machine) -> None:
        """Plug it in. The machine has a USB controller (``usb=True``)."""
        below = {"driver": "file", "filename": str(self.path)}
        machine.monitor.command("blockdev-add", driver="raw", node_name=_NODE, file=below)
        machine.monitor.command(
            "device_add", driver="usb-storage", id=_DEVICE, bus=f"{USB_BUS}.0", drive=_NODE, removable=True
        )

    def take_out(self, machine: Machine) -> None:
        """Pull it out, whatever the machine is doing with it."""
        machine.monitor.command("device_del", id=_DEVICE)
        deadline = time.monotonic() + pace.limit(_GONE_S)
        while True:
            try:
                machine.monitor.command("blockdev-del", node_name=_NODE)
                return
            except VmError:  # the device has yet to let go of it
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)
