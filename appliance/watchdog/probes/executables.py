# SPDX-License-Identifier: Apache-2.0
"""Probe ``executables``: each process runs a file of the verified image that its unit starts, with its unit's rights.

Source: ``/proc``, each second. The kernel's own policy (IPE) refuses programs and libraries from anywhere else; this
looks whether that holds, and sees what IPE does not judge: a program of the image that somebody else started, a tracer,
and rights that a service was not started with. What a unit starts, and its rights, are read from the image's unit files
(:mod:`~appliance.watchdog.probes.units`); what those programs start themselves is the one list here, :data:`CHILDREN`.

Whoever runs code inside one of our processes, and starts nothing and takes no right, is not seen here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from appliance.watchdog.probes import mountinfo
from appliance.watchdog.probes.places import Places, View, device_number
from appliance.watchdog.probes.units import ALL, Unit, UnitFiles, capabilities, program, users
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code, ProbeName

CHILDREN: Final[Mapping[str, tuple[str, ...]]] = {
    "bsfg-local.service": ("/usr/bin/systemd-creds",),
    "bsfg-stick.service": ("/usr/bin/systemctl",),
    "bsfg-trial.service": ("/usr/bin/systemctl",),
    "bsfg-watchdog.service": ("/usr/bin/journalctl",),  # for the evidence
    "systemd-udevd.service": (  # its rules name them
        *("/usr/bin/kmod", "/usr/sbin/dmsetup", "/usr/sbin/blkid", "/usr/lib/udev/*"),
        "/usr/lib/systemd/systemd-*",
    ),
    "systemd-fsck@*.service": ("/usr/sbin/fsck", "/usr/sbin/e2fsck"),
    "*.mount": ("/usr/bin/mount", "/usr/bin/umount"),
    "": ("/usr/bin/kmod",),  # the kernel itself asks for a module
    "init.scope": ("/usr/lib/systemd/system-generators/*",),
}
"""Programs that are started by those a unit names, by unit; patterns."""
MANAGER: Final = ("/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-executor")
"""What a process is for the moment between its start by systemd and its own program."""
TEST_UNIT: Final = "qemu-guest-agent.service"
"""In an image of profile ``test``, which is never released, this may start what the image has."""
LIBRARIES_EVERY: Final = 5
"""What processes have mapped is looked at in one look out of so many."""
TRIES: Final = 3
_SHOWN: Final = 6
_UNITS: Final = ("service", "scope", "mount", "swap", "socket")

File = tuple[int, int]
"""Device and number of a file: the same whatever way one comes to it."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process. :param arguments: its command line."""

    number: str
    name: str
    tracer: str
    users: frozenset[int]
    rights: int
    unit: str
    arguments: tuple[str, ...]
    file: File
    path: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.path} [{self.number}] in {self.unit or 'no unit'}"


class ExecutablesProbe:
    """See the module. :param units: of the image. :param trusted: devices whose files may run, beside the root's."""

    name = ProbeName.EXECUTABLES
    period_s = 1.0

    def __init__(self, places: Places, units: UnitFiles | None = None, trusted: frozenset[int] = frozenset()) -> None:
        self._places = places
        self._units = units or UnitFiles(places.usr / "lib/systemd/system")
        self._trusted = trusted
        self._looks = 0
        self._files: dict[str, frozenset[File]] = {}
        self._numbers: Mapping[str, int] | None = None
        self._test: bool | None = None

    def look(self) -> Reading:
        """As the port says."""
        view = View(self.name)
        with view.part("processes"):
            system = self._trusted | self._system()
            found = self._processes(view)
            view.note("processes", len(found))
            for code, judged in (
                (Code.EXECUTABLE_FOREIGN, [str(each) for each in found if each.file[0] not in system]),
                (Code.PROCESS_TRACED, [f"{each} by {each.tracer}" for each in found if each.tracer != "0"]),
                (Code.PROCESS_UNEXPECTED, [str(each) for each in found if not self._expected(each, system)]),
                (Code.PROCESS_PRIVILEGED, [text for each in found if (text := self._excess(each))]),
            ):
                if judged:
                    view.see(code, "; ".join(judged[:_SHOWN]))
            if self._looks % LIBRARIES_EVERY == 0:
                mapped = [text for each in found if (text := self._mapped(each, system))]
                if mapped:
                    view.see(Code.EXECUTABLE_FOREIGN, "; ".join(mapped[:_SHOWN]))
        self._looks += 1
        return view.reading()

    # -- what there is -------------------------------------------------------------------------------------------------

    def _system(self) -> frozenset[int]:
        root = mountinfo.root_of(mountinfo.read(self._places.mountinfo))
        return frozenset({device_number(root.device)})

    def _processes(self, view: View) -> list[Process]:
        """All that can be looked at. One that cannot makes the probe blind, and hides no other."""
        found, denied = list[Process](), list[str]()
        for each in sorted(each for each in self._places.proc.iterdir() if each.name.isdigit()):
            try:
                process = self._process(each)
            except PermissionError:
                denied.append(each.name)
                continue
            if process is not None:
                found.append(process)
        if denied:
            view.cannot("processes", f"{' '.join(denied[:_SHOWN])}: Permission denied")
        return found

    def _process(self, at: Path) -> Process | None:
        """``None``: it has ended, or it is a thread of the kernel. :raises OSError: it may not be looked at.

        A process that becomes another program while it is read would have the rights of the first and the name of the
        second: then it is read again.
        """
        for _ in range(TRIES):
            try:
                before = os.stat(at / "exe")
                found = _read(at, before)
                after = os.stat(at / "exe")
            except (FileNotFoundError, ProcessLookupError):
                return None
            if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino):
                return found
        return None  # it does nothing but become others; the next look sees what it is

    # -- what is wrong -------------------------------------------------------------------------------------------------

    def _expected(self, process: Process, system: frozenset[int]) -> bool:
        """Whether this program has any business in its unit. One from elsewhere has a code of its own."""
        if process.file[0] not in system or self._is_manager(process):
            return True
        if process.unit == TEST_UNIT and self._is_test():
            return True
        for pattern, paths in CHILDREN.items():
            if fnmatchcase(process.unit, pattern) and process.file in self._known(paths):
                return True
        unit = self._units.find(process.unit)
        return unit is not None and any(self._starts(command, process) for command in unit.commands)

    def _starts(self, command: tuple[str, ...], process: Process) -> bool:
        if not command or process.file not in self._known((command[0],)):
            return False
        if "python" not in command[0]:
            return True
        until = command.index("-m") + 2 if "-m" in command else len(command)
        return process.arguments[1:until] == command[1:until]

    def _is_manager(self, process: Process) -> bool:
        return process.file in self._known(MANAGER)

    def _known(self, paths: tuple[str, ...]) -> frozenset[File]:
        key = "\0".join(paths)
        if key not in self._files:
            found = set()
            for path in paths:
                at = program(path, self._places.usr)
                for each in at.parent.glob(at.name) if "*" in at.name else (at,):
                    try:
                        state = each.stat()
                    except FileNotFoundError:
                        continue
                    found.add((state.st_dev, state.st_ino))
            self._files[key] = frozenset(found)
        return self._files[key]

    def _is_test(self) -> bool:
        if self._test is None:
            document = json.loads((self._places.usr / "lib/bsfg/image.json").read_bytes())
            self._test = document.get("profile") == "test"
        return self._test

    def _excess(self, process: Process) -> str:
        """What a service has and its unit does not give; systemd itself sets a process up with all rights."""
        unit = self._units.find(process.unit)
        if unit is None or self._is_manager(process):
            return ""
        excess = process.rights & ~unit.rights if unit.rights != ALL else 0
        if excess:
            return f"{process}: {capabilities(excess)}"
        number = self._user(unit)
        if number is not None and process.users != {number}:
            return f"{process}: user {' '.join(map(str, sorted(process.users)))}, not {number}"
        return ""

    def _user(self, unit: Unit) -> int | None:
        if not unit.user:
            return None
        if self._numbers is None:
            self._numbers = users(self._places.etc / "passwd")
        return int(unit.user) if unit.user.isdigit() else self._numbers.get(unit.user)

    def _mapped(self, process: Process, system: frozenset[int]) -> str:
        """Code of a file from elsewhere that a process has mapped: a library."""
        try:
            text = (self._places.proc / process.number / "maps").read_text("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
        for line in text.splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) < 6 or "x" not in fields[1] or fields[4] == "0":
                continue
            major, _, minor = fields[3].partition(":")
            if os.makedev(int(major, 16), int(minor, 16)) not in system:
                return f"{fields[5]} in {process}"
        return ""

    def descriptor(self) -> int | None:
        """Nothing here says when it changes."""
        return None

    def close(self) -> None:
        """It holds nothing."""


def _read(at: Path, file: os.stat_result) -> Process | None:
    lines = (at / "status").read_text("utf-8", "replace").splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    if status.get("Kthread", "").strip() == "1" or status["State"].split()[0] in {"Z", "X"}:
        return None
    return Process(
        number=at.name,
        name=status["Name"].strip(),
        tracer=status["TracerPid"].strip(),
        users=frozenset(int(number) for number in status["Uid"].split()),
        rights=int(status["CapPrm"], 16) | int(status["CapEff"], 16),
        unit=unit_of((at / "cgroup").read_text("utf-8", "replace")),
        arguments=tuple((at / "cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")),
        file=(file.st_dev, file.st_ino),
        path=os.readlink(at / "exe"),
    )


def unit_of(cgroup: str) -> str:
    """The unit that a process belongs to, from ``/proc/<pid>/cgroup``; empty: to none."""
    for line in cgroup.splitlines():
        if line.startswith("0::"):
            parts = [part for part in line[3:].split("/") if part.rpartition(".")[2] in _UNITS]
            return parts[0].replace("\\x2d", "-") if parts else ""
    return ""
