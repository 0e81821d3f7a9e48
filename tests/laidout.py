# SPDX-License-Identifier: Apache-2.0
"""**Simulated**: a box's ``/proc``, ``/sys``, ``/usr``, ``/etc`` and ``/run`` laid out as files, all well.

For what the kernel of a test machine does not have (lockdown, execution policy, Secure Boot, device mapper, USB) or
must not be changed in (its modules, its taint). What can be real is real: :mod:`tests.boxspace`.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from appliance.watchdog.probes.firmware import GLOBAL, IMAGES
from appliance.watchdog.probes.places import Places
from appliance.watchdog.probes.uevents import Uevents

RELEASE: Final = "6.12.118+deb13-cloud-amd64"
POLICY: Final = b"policy_name=appliance policy_version=0.0.1\nDEFAULT action=ALLOW\n"
ROOT_DEVICE: Final = "253:0"
MOUNTS: Final = """\
24 1 253:0 / / ro,relatime - erofs /dev/mapper/root ro,user_xattr,acl,cache_strategy=readaround
25 24 0:6 / /dev rw,nosuid,relatime - devtmpfs devtmpfs rw,size=1000k,mode=755
26 25 0:24 / /dev/shm rw,nosuid,nodev - tmpfs tmpfs rw
27 25 0:25 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=600,ptmxmode=000
28 24 0:26 / /sys rw,nosuid,nodev,noexec,relatime - sysfs sysfs rw
29 28 0:7 / /sys/kernel/security rw,nosuid,nodev,noexec,relatime - securityfs securityfs rw
30 28 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw,nsdelegate
31 28 0:28 / /sys/fs/pstore rw,nosuid,nodev,noexec,relatime - pstore none rw
32 28 0:29 / /sys/firmware/efi/efivars rw,nosuid,nodev,noexec,relatime - efivarfs efivarfs rw
33 28 0:30 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime - bpf bpf rw,mode=700
34 24 0:31 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
35 24 0:32 / /run rw,nosuid,nodev - tmpfs tmpfs rw,size=400k,mode=755
36 24 0:32 /machine-id /etc/machine-id ro - tmpfs tmpfs rw,size=400k,mode=755
37 35 0:33 / /run/lock rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=5120k
38 35 0:34 / /run/credentials/systemd-journald.service ro,nosuid,nodev,noexec,relatime,nosymfollow - tmpfs tmpfs rw
39 24 0:35 / /tmp rw,nosuid,nodev,noexec,noatime - tmpfs tmpfs rw,size=32768k,nr_inodes=4k
40 24 253:1 / /var rw,nosuid,nodev,noexec,relatime - ext4 /dev/mapper/var rw
41 24 0:36 / /boot rw,relatime - autofs systemd-1 rw,fd=40,pgrp=1,timeout=60,minproto=5,maxproto=5,direct
42 41 8:1 / /boot rw,nosuid,nodev,noexec,relatime - vfat /dev/sda1 rw,fmask=0077,dmask=0077
"""
"""As a box of this product has them."""
SETTINGS: Final = {"kernel.dmesg_restrict": "1", "net.ipv4.ip_forward": "0", "net.ipv4.ip_local_port_range": "1 2"}


class LaidOut:
    """The tree below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = Places.below(root)
        self.kept = root / "run/bsfg/sensor"
        for made in (self.kept, root / "run/bsfg/status"):
            made.mkdir(parents=True)
        self._kernel()
        self._firmware()
        self._disks()
        for name in ("var", "dev", "sys/bus/usb/devices", "sys/class/hwmon", "usr/lib/systemd/system"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def put(self, name: str, content: str | bytes | int) -> Path:
        """Write a file, or write it anew."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
        return path

    def take(self, name: str) -> None:
        """Take a file or a folder away."""
        path = self.root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def mounts(self, text: str) -> None:
        """Another table of mounts."""
        self.put("proc/1/mountinfo", text.encode())

    def variable(self, name: str, value: bytes, owner: str = GLOBAL) -> None:
        """A variable of the firmware."""
        self.put(f"sys/firmware/efi/efivars/{name}-{owner}", b"\6\0\0\0" + value)

    def process(self, number: int, program: Path, unit: str, **given: Any) -> None:
        """A process. :param given: ``arguments``, and fields of ``status`` with another value."""
        at = self.root / "proc" / str(number)
        at.mkdir(parents=True, exist_ok=True)
        (at / "exe").unlink(missing_ok=True)
        (at / "exe").symlink_to(program)
        arguments = given.pop("arguments", (str(program),))
        self.put(f"proc/{number}/cmdline", b"".join(word.encode() + b"\0" for word in arguments))
        self.put(f"proc/{number}/cgroup", f"0::/system.slice/{unit}" if unit else "0::/")
        self.put(f"proc/{number}/maps", "")
        self.put(f"proc/{number}/stat", f"{number} ({program.name}) S 1 1 1 {given.pop('terminal', 0)} -1 0")
        values = {"Name": program.name, "State": "S (sleeping)", "TracerPid": 0, "Uid": "0\t0\t0\t0"}
        values |= {"CapPrm": "0" * 16, "CapEff": "0" * 16, **given}
        self.put(f"proc/{number}/status", "\n".join(f"{name}:\t{value}" for name, value in values.items()))

    def _kernel(self) -> None:
        self.mounts(MOUNTS)
        (self.root / "proc/1/ns").mkdir()
        (self.root / "proc/1/ns/mnt").symlink_to("mnt:[4026531841]")
        self.put("proc/sys/kernel/tainted", 0)
        self.put("proc/sys/kernel/osrelease", RELEASE)
        self.put("proc/modules", "erofs 1 2 - Live 0x0\ndm_verity 1 2 - Live 0x0\n")
        for name in ("fs/erofs/erofs.ko.xz", "drivers/md/dm-verity.ko.xz"):
            self.put(f"usr/lib/modules/{RELEASE}/kernel/{name}", b"module")
        self.put("sys/kernel/security/lockdown", "none [integrity] confidentiality")
        self.put("sys/kernel/kexec_loaded", 0)
        self.put("sys/kernel/kexec_crash_loaded", 0)
        self.put("usr/lib/sysctl.d/60-bsfg.conf", "".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
        for name, value in SETTINGS.items():
            self.put(f"proc/sys/{name.replace('.', '/')}", value.replace(" ", "\t"))
        self.put("sys/kernel/security/ipe/enforce", 1)
        self.put("sys/kernel/security/ipe/policies/appliance/active", 1)
        self.put("sys/kernel/security/ipe/policies/appliance/policy", POLICY)
        self.put("usr/lib/ipe/appliance.p7b", b"\x30\x82" + POLICY + b"signature")

    def _firmware(self) -> None:
        self.variable("SecureBoot", b"\1")
        self.variable("SetupMode", b"\0")
        for name, owner in (("PK", GLOBAL), ("KEK", GLOBAL), ("db", IMAGES), ("dbx", IMAGES)):
            self.variable(name, name.encode(), owner)

    def _disks(self) -> None:
        for number, name, uuid, below in ((0, "root", "CRYPT-VERITY-4f0b-root", "sda2"), (1, "var", "CRYPT-LUKS2", "")):
            device = self.root / f"sys/devices/virtual/block/dm-{number}"
            self.put(f"sys/devices/virtual/block/dm-{number}/dm/uuid", uuid)
            self.put(f"sys/devices/virtual/block/dm-{number}/dm/name", name)
            self.put(f"sys/devices/virtual/block/dm-{number}/ro", 1 - number)
            self.put(f"sys/devices/virtual/block/dm-{number}/slaves/{below or 'sda8'}", "")
            link = self.root / f"sys/dev/block/253:{number}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(device)
        self.put("sys/fs/ext4/dm-1/errors_count", 0)
        self.put("sys/block/sda/device/ioerr_cnt", "0x3")
        self.put("dev/dm-0", bytes(64 * 4096))


class SaidByKernel(Uevents):
    """**Simulated** events: a socket pair whose other end is taken for the kernel."""

    def __init__(self) -> None:
        heard, self._say = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        super().__init__(_Anonymous(heard))

    def say(self, action: str, device: str, values: Mapping[str, str]) -> None:
        """The kernel says this."""
        pairs = {"ACTION": action, "DEVPATH": device, "SEQNUM": "1", **values}
        text = "\0".join([f"{action}@{device}", *(f"{name}={value}" for name, value in pairs.items()), ""])
        self._say.send(text.encode())

    def close(self) -> None:
        """Both ends."""
        super().close()
        self._say.close()


class _Anonymous(socket.socket):
    """Says of each message that it is the kernel's, as netlink does."""

    def __init__(self, given: socket.socket) -> None:
        super().__init__(fileno=given.detach())

    def recvfrom(self, *arguments: Any) -> Any:
        """Number 0 is the kernel."""
        return super().recvfrom(*arguments)[0], (0, 1)


def site_state(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_bytes())
