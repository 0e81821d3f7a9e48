# SPDX-License-Identifier: Apache-2.0
"""What the image's unit files say that a service may do: the rule that the sensor compares processes with.

Only what the probe ``executables`` needs of systemd.unit(5) is read: ``Exec…``, ``User``, ``CapabilityBoundingSet`` and
``AmbientCapabilities``, with drop-ins in their order.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CAPABILITIES: Final = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
    *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
    *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    "CHECKPOINT_RESTORE",
)
"""By number (linux/capability.h)."""
ALL: Final = (1 << 64) - 1
_PREFIXES: Final = "-@:+!|"
_FULL: Final = "+"
_FOLDERS: Final = ("bin", "sbin")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit may do.

    :param commands: each command line. :param user: its user; empty: root. :param rights: a set of capabilities.
    """

    commands: tuple[tuple[str, ...], ...] = ()
    user: str = ""
    rights: int = ALL


@dataclass(slots=True)
class UnitFiles:
    """The unit files of the image, read when they are first asked for. :param folder: ``usr/lib/systemd/system``."""

    folder: Path
    _known: dict[str, Unit | None] = field(default_factory=dict)

    def find(self, name: str) -> Unit | None:
        """A unit by its name, with or without an instance. ``None``: the image has none of that name."""
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> Unit | None:
        head, at, rest = name.partition("@")
        template = f"{head}@.{rest.rpartition('.')[2]}" if at else name
        names = [template] if template == name else [template, name]
        files = [self.folder / each for each in names if (self.folder / each).is_file()][-1:]
        for each in names:
            files += sorted((self.folder / f"{each}.d").glob("*.conf"))
        return parse("\n".join(path.read_text("utf-8") for path in files)) if files else None


def parse(text: str) -> Unit:
    """A unit file with its drop-ins behind it. :raises ValueError: it cannot be read."""
    commands: dict[str, list[str]] = {}
    user, bound, ambient = "", ALL, 0
    for line in text.replace("\\\n", " ").splitlines():
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or line.startswith(("#", ";")):
            continue
        if name.startswith("Exec") and name not in {"ExecPaths", "ExecSearchPath"}:
            commands[name] = [*commands.get(name, []), value] if value else []
        elif name == "User":
            user = value
        elif name == "CapabilityBoundingSet":
            bound = _set(bound, value, first=ALL)
        elif name == "AmbientCapabilities":
            ambient = _set(ambient, value, first=0)
    lines = [line for each in commands.values() for line in each]
    whole = any(_FULL in line[: len(line) - len(line.lstrip(_PREFIXES))] for line in lines)
    rights = ALL if whole else bound if user in {"", "root"} else bound & ambient
    return Unit(tuple(_words(line) for line in lines), user, rights)


def capabilities(rights: int) -> str:
    """A set of capabilities, for people."""
    found = [f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if rights & (1 << number)]
    return " ".join(found) or hex(rights)


def users(passwd: Path) -> Mapping[str, int]:
    """Numbers of users, from ``/etc/passwd``. :raises OSError: it cannot be read."""
    lines = (line.split(":") for line in passwd.read_text("utf-8").splitlines() if line.count(":") >= 3)
    return {fields[0]: int(fields[2]) for fields in lines}


def program(word: str, usr: Path) -> Path:
    """The file that a command line names; a name alone is looked for where systemd does."""
    if word.startswith("/"):
        below = Path(word).parts[1:]
        return usr.joinpath(*(below[1:] if below[0] == "usr" else below))
    for folder in _FOLDERS:
        if (usr / folder / word).exists():
            return usr / folder / word
    return usr / _FOLDERS[0] / word


def _words(line: str) -> tuple[str, ...]:
    return tuple(shlex.split(line.lstrip(_PREFIXES)))


def _set(before: int, value: str, first: int) -> int:
    """systemd.exec(5): names are added, with ``~`` taken away; nothing is the empty set."""
    if not value:
        return 0
    inverted, names = value.startswith("~"), value.lstrip("~").split()
    named = 0
    for name in names:
        if name.removeprefix("CAP_") in CAPABILITIES:
            named |= 1 << CAPABILITIES.index(name.removeprefix("CAP_"))
    if inverted:
        return before & ~named
    return named if before == first else before | named
