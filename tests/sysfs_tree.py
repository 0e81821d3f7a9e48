# SPDX-License-Identifier: Apache-2.0
"""A made-up tree of ``sys``, ``proc`` and ``dev``, as the kernel lays them out, for disks that this machine lacks.

**Simulated**: the device files are regular files. Whole block devices are not available where the tests run.
"""

from __future__ import annotations

from pathlib import Path

PROC_MOUNTS = "22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw\n"


class SysfsTree:
    """Builds the tree below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._minor = 0
        self._mounts = PROC_MOUNTS
        self._swaps = "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
        for folder in ("sys/block", "sys/devices", "proc/self", "dev/mapper", "dev/disk/by-id"):
            (root / folder).mkdir(parents=True)
        self._write_proc()

    def disk(
        self,
        name: str,
        size: int,
        *,
        serial: str = "",
        model: str = "",
        vendor: str = "",
        bus: str = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0",
        usb_serial: str | None = None,
        sector: int = 512,
        removable: bool = False,
        read_only: bool = False,
        parts: int = 0,
    ) -> Path:
        """A whole disk; its device file is as large as it. :param bus: its folder below ``sys/devices``."""
        device = self.root / "sys/devices" / bus
        block = device / "block" / name
        self._block(block, name, size, sector)
        (block / "removable").write_text(f"{int(removable)}\n")
        (block / "ro").write_text(f"{int(read_only)}\n")
        (block / "device").symlink_to(device)
        for field, text in (("model", model), ("vendor", vendor)):
            if text:
                (device / field).write_text(f"{text}   \n")
        if serial and name.startswith(("sd", "hd")):
            (device / "vpd_pg80").write_bytes(b"\x00\x80\x00" + bytes([len(serial)]) + serial.encode())
        elif serial and name.startswith("vd"):
            (block / "serial").write_text(serial + "\n")
        elif serial:
            (device / "serial").write_text(serial + "    \n")
        if usb_serial is not None:
            usb = next(folder for folder in device.parents if "-" in folder.name)
            (usb / "idVendor").write_text("0781\n")
            (usb / "serial").write_text(usb_serial + "\n")
        (self.root / "sys/block" / name).symlink_to(block)
        for number in range(1, parts + 1):
            part = f"{name}p{number}" if name[-1].isdigit() else f"{name}{number}"
            self._block(block / part, part, size // 4, sector)
            (block / part / "partition").write_text(f"{number}\n")
        return self.root / "dev" / name

    def stacked(self, name: str, *below: str, mapper: str = "", backing: str = "") -> None:
        """A device made of others: ``dm-0``, ``md0``, ``loop0``."""
        block = self.root / "sys/devices/virtual/block" / name
        self._block(block, name, 1 << 20, 512)
        (block / "ro").write_text("0\n")
        for lower in below:
            (block / "slaves" / lower).symlink_to("/nowhere")
        (self.root / "sys/block" / name).symlink_to(block)
        if mapper:
            (self.root / "dev/mapper" / mapper).symlink_to(f"../{name}")
        if backing:
            (block / "loop").mkdir()
            (block / "loop/backing_file").write_text(backing + "\n")

    def mount(self, device: str, place: str, *, numbered: bool = True) -> None:
        """A mounted file system. :param numbered: whether the mount has the number of its device (btrfs has not)."""
        found = next((self.root / "sys/devices").rglob(f"{device}/dev"))
        number = found.read_text().strip() if numbered else "0:44"
        where = place.replace(" ", "\\040")
        self._mounts += f"30 1 {number} / {where} rw,relatime shared:1 - ext4 /dev/{device} rw\n"
        self._write_proc()

    def swap(self, device: str) -> None:
        """A swap area."""
        self._swaps += f"/dev/{device}                               partition\t1048576\t0\t-2\n"
        self._write_proc()

    def _block(self, block: Path, name: str, size: int, sector: int) -> None:
        for folder in ("queue", "holders", "slaves"):
            (block / folder).mkdir(parents=True)
        self._minor += 1
        (block / "dev").write_text(f"8:{self._minor}\n")
        (block / "size").write_text(f"{size // 512}\n")
        (block / "queue/logical_block_size").write_text(f"{sector}\n")
        with (self.root / "dev" / name).open("wb") as file:
            file.truncate(size)

    def _write_proc(self) -> None:
        (self.root / "proc/self/mountinfo").write_text(self._mounts)
        (self.root / "proc/swaps").write_text(self._swaps)
