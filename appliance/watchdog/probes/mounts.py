# SPDX-License-Identifier: Apache-2.0
"""Probe ``mounts``: what is mounted, against the table of what a box mounts. The kernel says when that changes.

Looked at are the box's own mounts (those of process 1: a service's sandbox has a table of its own) and, less often,
those of each service. A service's own mounts are systemd's work and many; there, only what hides a part of the image,
or brings another disk, counts.
"""

from __future__ import annotations

import os
import select
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from appliance.watchdog.probes.mount_table import BOX, EMPTY, Allowed, in_system
from appliance.watchdog.probes.mountinfo import Mount, parse, read, root_of
from appliance.watchdog.probes.places import Places, View
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code, ProbeName

SERVICES_EVERY: Final = 5
"""The tables of services are read at one look in so many."""
PF_KTHREAD: Final = 0x00200000
_OVERLAYS: Final = frozenset({"overlay", "overlayfs", "fuse.overlayfs", "aufs"})


class MountsProbe:
    """See the module. :param table: what may be mounted."""

    name = ProbeName.MOUNTS
    period_s = 2.0

    def __init__(self, places: Places, table: Sequence[Allowed] = BOX) -> None:
        self._places = places
        self._table = table
        self._looks = 0
        self._file = -1
        self._events: select.epoll | None = None

    def look(self) -> Reading:
        """As the port says."""
        view = View(self.name)
        with view.part("mountinfo"):
            if self._events is not None:
                self._events.poll(0)
            mounts = read(self._places.mountinfo)
            view.note("mounts", len(mounts))
            judge(mounts, self._table, view)
            if self._looks % SERVICES_EVERY == 0:
                self._services(mounts, view)
        self._looks += 1
        return view.reading()

    def _services(self, mounts: list[Mount], view: View) -> None:
        seen, found = {_namespace(self._places.mountinfo.parent)}, list[tuple[list[Mount], str]]()
        for process in sorted(self._places.proc.glob("[1-9]*")):
            try:
                namespace = _namespace(process)
                if namespace in seen:
                    continue
                if is_of_kernel(process):  # one of them makes device files, in a table of its own
                    continue
                theirs = read(process / "mountinfo")
                name = (process / "comm").read_text("utf-8", "replace").strip()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            except OSError as error:
                if isinstance(error, PermissionError) and not process.exists():
                    continue
                view.cannot(f"mounts of process {process.name}", error.strerror)
                continue
            if theirs:  # an ending process has none any more
                seen.add(namespace)
                found.append((theirs, f"{name}[{process.name}]"))
        box = [*mounts, *read(self._places.mountinfo)]  # what was mounted meanwhile, services have too
        for theirs, who in found:
            judge_service(theirs, box, who, view)
        view.note("mount_namespaces", len(seen))

    def descriptor(self) -> int | None:
        """Readable when the table of mounts has changed.

        The file itself is always readable, and says a change only once and out of band; so there is an edge-triggered
        set of one file around it.
        """
        if self._events is None:
            try:
                self._file = os.open(self._places.mountinfo, os.O_RDONLY | os.O_CLOEXEC)
                events = select.epoll()
                events.register(self._file, select.EPOLLIN | select.EPOLLPRI | select.EPOLLET)
                self._events = events
            except OSError:  # a laid-out tree has plain files; and what cannot be opened, look() says
                return None
        return self._events.fileno()

    def close(self) -> None:
        """As the port says."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def judge(mounts: list[Mount], table: Sequence[Allowed], view: View) -> None:
    """What is wrong with the box's own mounts."""
    if root_of(mounts).writable:
        view.see(Code.ROOT_WRITABLE, str(root_of(mounts)))
    free = Counter(table)
    for mount in mounts:
        fitting = [each for each in table if each.fits(mount)]
        places = [each for each in fitting if free[each] > 0 or "*" in each.point]
        system = in_system(mount.point) or mount.point == "/"
        if mount.kind in _OVERLAYS or (system and not places):
            view.see(Code.MOUNT_OVER_SYSTEM, f"a second time: {mount}" if fitting else str(mount))
        elif not places:
            view.see(Code.MOUNT_FOREIGN, f"a second time: {mount}" if fitting else str(mount))
        else:
            place = min(places, key=lambda each: len(each.flags - mount.options))
            free[place] -= 1
            lost = place.flags - mount.options
            if lost and mount.point != "/":
                view.see(Code.MOUNT_LOOSENED, f"{mount} lost {', '.join(sorted(lost))}")


def judge_service(theirs: list[Mount], box: list[Mount], who: str, view: View) -> None:
    """What is wrong with the mounts that a service sees: another root, something over the image, another disk."""
    system, memory = root_of(box).device, _device_at(box, "/run")
    disks = {mount.device for mount in box}
    for mount in theirs:
        empty = mount.device == memory and mount.root.startswith(EMPTY)
        allowed = mount.device == memory and mount.root == "/machine-id" and mount.point == "/etc/machine-id"
        foreign = mount.device != system and not empty and not allowed
        if mount.kind in _OVERLAYS or (foreign and (in_system(mount.point) or mount.point == "/")):
            view.see(Code.MOUNT_OVER_SYSTEM, f"{who}: {mount}")
        elif mount.device == system and mount.writable:
            view.see(Code.ROOT_WRITABLE, f"{who}: {mount}")
        elif mount.device not in disks and mount.source.startswith("/dev/"):
            view.see(Code.MOUNT_FOREIGN, f"{who}: {mount}")


def _device_at(mounts: Iterable[Mount], point: str) -> str:
    return next((mount.device for mount in mounts if mount.point == point), "")


def _namespace(process: Path) -> str:
    return os.readlink(process / "ns/mnt")


def is_of_kernel(process: Path) -> bool:
    """Whether a process is a thread of the kernel (flags in proc_pid_stat(5)); no program can say that of itself.

    :param process: its folder. :raises OSError: it has ended.
    """
    fields = (process / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return bool(int(fields[6]) & PF_KTHREAD)


def table_of(text: str) -> tuple[Allowed, ...]:
    """A table of what is mounted now, for machines that are no box. :param text: of mountinfo."""
    return tuple(Allowed(mount.point, mount.kind, mount.options - {"rw"}, mount.root) for mount in parse(text))
