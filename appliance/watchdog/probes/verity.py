# SPDX-License-Identifier: Apache-2.0
"""Probe ``verity``: the system runs from a verified image, and each block of it is the signed one.

Source: events of the device mapper. For a block that does not fit the hash tree the kernel sends a ``change`` event of
the device with ``DM_VERITY_ERR_BLOCK_NR=<type>,<block>`` (type 0: data, 1: hashes; drivers/md/dm-verity-target.c),
before the read fails. It sends at most 100; one is enough, and the kernel's word stands until the next boot. The image
sets no other mode than that (no ``restart_on_corruption``): the read fails with an I/O error, the program that needed
the block ends, and the box stays up to say why.

What makes the kernel read everything is :mod:`~appliance.watchdog.probes.scrub`. A block that cannot be read with no
word of the kernel about its hash is a fault of the disk and not of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from appliance.watchdog.probes import mountinfo
from appliance.watchdog.probes.places import Places, View, text_of
from appliance.watchdog.probes.scrub import Scrub
from appliance.watchdog.probes.uevents import Uevent, Uevents
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code, ProbeName

BLOCK_NUMBER: Final = "DM_VERITY_ERR_BLOCK_NR"
_KINDS: Final = {"0": "data", "1": "hash"}
_KEPT: Final = 8
_VERITY: Final = "CRYPT-VERITY-"


class VerityProbe:
    """See the module. :param hear: opens the kernel's events. :param scrub: makes the thread that reads a device."""

    name = ProbeName.VERITY
    period_s = 5.0

    def __init__(
        self,
        places: Places,
        hear: Callable[[], Uevents] = Uevents,
        scrub: Callable[[Path], Scrub] = Scrub,
    ) -> None:
        self._places = places
        self._hear = hear
        self._new_scrub = scrub
        self._events: Uevents | None = None
        self._scrub: Scrub | None = None
        self._corrupt: list[str] = []
        self._changed: list[str] = []
        self._below: tuple[str, ...] = ()

    def look(self) -> Reading:
        """As the port says."""
        view = View(self.name)
        lost = () if self._scrub is None else self._scrub.progress.unreadable  # before events: they come first
        with view.part("root"):
            device = self._root()
            self._status(device, view)
            with view.part("events"):
                self._listen(device.name)
            self._scrubbing(device.name, view)
        for detail in self._changed:
            view.see(Code.VERITY_OFF, detail)
        for detail in self._corrupt:
            view.see(Code.VERITY_CORRUPT, detail)
        if lost and not self._corrupt:
            view.see(Code.ROOT_UNREADABLE, f"blocks {', '.join(map(str, lost[:8]))}{' …' if lost[8:] else ''}")
        return view.reading()

    def _root(self) -> Path:
        """The block device of ``/`` below ``/sys``."""
        root = mountinfo.root_of(mountinfo.read(self._places.mountinfo))
        return (self._places.sys / "dev/block" / root.device).resolve()

    def _status(self, device: Path, view: View) -> None:
        if not (device / "dm").is_dir():
            if not device.is_dir():
                raise OSError(f"{device.name}: no such block device")
            view.see(Code.VERITY_OFF, f"the root is {device.name}, which is no mapped device")
            return
        uuid, below = text_of(device / "dm/uuid"), tuple(sorted(each.name for each in (device / "slaves").glob("*")))
        view.note("device", f"{device.name} {text_of(device / 'dm/name')} on {' '.join(below)}")
        if not uuid.startswith(_VERITY):
            view.see(Code.VERITY_OFF, f"{device.name} is {uuid[:40] or 'of no known kind'}")
        if text_of(device / "ro") != "1":
            view.see(Code.VERITY_OFF, f"{device.name} can be written")
        self._below = self._below or below
        if below != self._below:
            view.see(Code.VERITY_OFF, f"{device.name} lies on {' '.join(below)}, no longer on {' '.join(self._below)}")

    def _listen(self, device: str) -> None:
        if self._events is None:
            self._events = self._hear()
        before = self._events.lost
        for event in self._events.read():
            self._heard(event, device)
        if self._events.lost != before and self._scrub is not None:
            self._scrub.soon()  # what was missed, the kernel says again when it reads the block again

    def _heard(self, event: Uevent, device: str) -> None:
        if event.repeated or event.device.rpartition("/")[2] != device or event.action != "change":
            return
        kind, _, block = event.values.get(BLOCK_NUMBER, "").partition(",")
        if block:
            _keep(self._corrupt, f"{_KINDS.get(kind, 'unknown')} block {block} of {device}")
        else:  # the kernel says this of a mapped device when another table was put into force
            _keep(self._changed, f"the mapping of {device} was changed while the box runs")

    def _scrubbing(self, device: str, view: View) -> None:
        if self._scrub is None:
            self._scrub = self._new_scrub(self._places.dev / device)
            self._scrub.check()
            self._scrub.start()
        elif self._scrub.progress.problem:
            self._scrub.check()
        progress = self._scrub.progress
        view.note("scrub", progress.text())
        view.note("scrub_rounds", progress.rounds)
        if progress.problem:
            view.cannot("scrub", progress.problem)

    def descriptor(self) -> int | None:
        """Readable when the kernel has an event."""
        if self._events is None:
            try:
                self._events = self._hear()
            except OSError:  # look() says so
                return None
        return self._events.fileno()

    def close(self) -> None:
        """As the port says."""
        if self._scrub is not None:
            self._scrub.stop()
        if self._events is not None:
            self._events.close()


def _keep(found: list[str], detail: str) -> None:
    if detail not in found and len(found) < _KEPT:
        found.append(detail)
