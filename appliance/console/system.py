# SPDX-License-Identifier: Apache-2.0
"""What the machine says of itself: image, boot entry, Secure Boot, names, disk. Whatever is not there is left out."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.console.documents import Values, neutral, read_file

_GLOBAL: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_LOADER: Final = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_SMALL: Final = 4096
CREDENTIAL: Final = "serial"
"""The unit hands the machine's serial number in by this name, for /sys shows it to root alone; ``-``: none."""
BLESSED: Final = "run/bsfg-blessed"
"""There once boot counting has taken the running version for good (drop-in of systemd-bless-boot.service): what the
boot loader says of its counter stays until the next boot."""


@dataclass(frozen=True, slots=True)
class Image:
    """What runs. :param entry: the boot entry, which names the slot; :param tries: boots it has left on trial."""

    version: str = ""
    profile: str = ""
    entry: str = ""
    tries: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Which machine this is. :param secure_boot: ``on``, ``off``, ``setup``, or empty: unknown."""

    serial: str = ""
    machine_id: str = ""
    secure_boot: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk of facts and state. :param used: 0 to 100, of bytes or of files, whichever is more."""

    used: int
    size: int


def image(root: Path) -> Image:
    """From the image's own facts and what the boot loader left in its variables."""
    try:
        facts = Values(json.loads(read_file(root / "usr/lib/bsfg/image.json", _SMALL)[0]))
    except (OSError, ValueError, RecursionError):
        facts = Values()
    entry = _loader_text(root, "LoaderEntrySelected")
    tries = re.search(r"\+(\d{1,3})(?:-\d{1,3})?\.efi$", _loader_text(root, "LoaderBootCountPath"))
    return Image(facts.text("version", 40), facts.text("profile", 20), entry, int(tries[1]) if tries else None)


def blessed(root: Path) -> bool:
    """Whether the running version was taken for good since this boot."""
    return (root / BLESSED).is_dir()


def machine(root: Path, credentials: Path | None) -> Machine:
    """Serial number, machine id, and whether the firmware checks signatures."""
    serial = _line(credentials / CREDENTIAL) if credentials is not None else ""
    serial = serial.strip("-") or _line(root / "sys/class/dmi/id/product_serial")
    identity = _line(root / "etc/machine-id")
    return Machine(serial, identity if re.fullmatch(r"[0-9a-f]{32}", identity) else "", _secure_boot(root))


def disk(root: Path) -> Disk | None:
    """How full /var is for those who are not root."""
    try:
        found = os.statvfs(root / "var")
    except OSError:
        return None
    used = max(_percent(found.f_blocks, found.f_bavail), _percent(found.f_files, found.f_favail))
    return Disk(used, found.f_blocks * found.f_frsize)


def _percent(total: int, free: int) -> int:
    return min(100, max(0, 100 - (free * 100) // total)) if total > 0 else 0


def _secure_boot(root: Path) -> str:
    on, setup = (_variable(root, name, _GLOBAL) for name in ("SecureBoot", "SetupMode"))
    if setup == b"\1":
        return "setup"
    return {b"\1": "on", b"\0": "off"}.get(on, "")


def _loader_text(root: Path, name: str) -> str:
    return neutral(_variable(root, name, _LOADER).decode("utf-16-le", errors="replace").rstrip("\0"), 60)


def _variable(root: Path, name: str, vendor: str) -> bytes:
    """A firmware variable without its attributes; empty: there is none."""
    try:
        return read_file(root / f"sys/firmware/efi/efivars/{name}-{vendor}", _SMALL)[0][4:]
    except (OSError, ValueError):
        return b""


def _line(path: Path) -> str:
    try:
        return neutral(read_file(path, _SMALL)[0].decode("utf-8", errors="replace"), 40)
    except (OSError, ValueError):
        return ""
