# SPDX-License-Identifier: Apache-2.0
"""What a box mounts: one table. Data.

It is what ``image/`` (fstab, the disk's layout) and systemd's own start mount, without what ``hardening/`` masks. What
is not here is foreign. Flags that are named must be there; more may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from appliance.watchdog.probes.mountinfo import Mount


@dataclass(frozen=True, slots=True)
class Allowed:
    """A mount that a box has. :param point: a pattern. :param flags: what it must not lose. :param root: which part."""

    point: str
    kind: str
    flags: frozenset[str]
    root: str = "/"

    def fits(self, mount: Mount) -> bool:
        """Whether a mount is this one, whatever its flags."""
        return fnmatchcase(mount.point, self.point) and (mount.kind, mount.root) == (self.kind, self.root)


_NOTHING: Final = frozenset({"nosuid", "nodev", "noexec"})
_DATA: Final = frozenset({"nosuid", "nodev"})
_DEVICES: Final = frozenset({"nosuid"})

BOX: Final = (
    Allowed("/", "erofs", frozenset({"ro"})),
    Allowed("/boot", "autofs", frozenset()),
    Allowed("/boot", "vfat", _NOTHING),
    Allowed("/dev", "devtmpfs", _DEVICES),
    Allowed("/dev/pts", "devpts", frozenset({"nosuid", "noexec"})),
    Allowed("/dev/shm", "tmpfs", _DATA),  # noqa: S108 - a mount point, not a file of ours
    # The image has no machine id; systemd makes one in memory and lays it there, and nothing else.
    Allowed("/etc/machine-id", "tmpfs", frozenset({"ro"}), "/machine-id"),
    Allowed("/proc", "proc", _NOTHING),
    Allowed("/run", "tmpfs", _DATA),
    # A stick that evidence is written onto: in a place of its own, so that the one that is read stays read-only.
    Allowed("/run/bsfg/carry", "vfat", _NOTHING),
    Allowed("/run/bsfg/stick", "vfat", _NOTHING | {"ro"}),
    Allowed("/run/credentials/*.service", "ramfs", _NOTHING),
    Allowed("/run/credentials/*.service", "tmpfs", _NOTHING),
    Allowed("/run/lock", "tmpfs", _NOTHING),
    Allowed("/sys", "sysfs", _NOTHING),
    Allowed("/sys/firmware/efi/efivars", "efivarfs", _NOTHING),
    Allowed("/sys/fs/bpf", "bpf", _NOTHING),
    Allowed("/sys/fs/cgroup", "cgroup2", _NOTHING),
    Allowed("/sys/fs/pstore", "pstore", _NOTHING),
    Allowed("/sys/kernel/config", "configfs", _NOTHING),
    Allowed("/sys/kernel/security", "securityfs", _NOTHING),
    Allowed("/tmp", "tmpfs", _NOTHING),  # noqa: S108 - a mount point, not a file of ours
    Allowed("/var", "ext4", _NOTHING),
)
SYSTEM: Final = ("/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64")
"""Folders of the verified image; nothing has any business on top of them."""
EMPTY: Final = "/systemd/inaccessible/"
"""Below ``/run``: what systemd lays over a file that a service must not see. It holds nothing."""


def in_system(point: str) -> bool:
    """Whether a mount point hides a part of the image."""
    return any(point == folder or point.startswith(folder + "/") for folder in SYSTEM)
