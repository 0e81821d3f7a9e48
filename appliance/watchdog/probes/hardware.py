# SPDX-License-Identifier: Apache-2.0
"""Probe ``hardware``: somebody is at the box. Told to people, and nothing more: a technician may be.

Sources: the kernel's events of USB devices, the case's switch where the board has one that the kernel reads (hwmon),
and processes at a terminal that are not the box's own status page. The box has no login: the last should never be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from appliance.watchdog.probes.executables import unit_of
from appliance.watchdog.probes.places import Places, View, text_of
from appliance.watchdog.probes.uevents import Uevents
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code, ProbeName

SHOWN_S: Final = 60.0
"""A device that was plugged in and out again is told for so long."""
CONSOLE: Final = ("bsfg-console@", "bsfg-recovery.service", "bsfg-installer.service")
_KEPT: Final = 16


class HardwareProbe:
    """See the module. What is plugged in when the first look is made was there at boot, and is a fact."""

    name = ProbeName.HARDWARE
    period_s = 5.0

    def __init__(
        self, places: Places, hear: Callable[[], Uevents] = Uevents, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._places = places
        self._hear = hear
        self._clock = clock
        self._events: Uevents | None = None
        self._at_first: frozenset[str] | None = None
        self._came: dict[str, float] = {}

    def look(self) -> Reading:
        """As the port says."""
        view = View(self.name)
        for part in (self._usb, self._case, self._terminals):
            with view.part(part.__name__.strip("_")):
                part(view)
        return view.reading()

    def _usb(self, view: View) -> None:
        if self._events is None:
            self._events = self._hear()
        now = self._clock()
        for event in self._events.read():
            if (event.action, event.values.get("DEVTYPE")) == ("add", "usb_device") and not event.repeated:
                name = event.device.rpartition("/")[2]
                self._came[f"{name}: {event.values.get('PRODUCT', 'unknown')}"] = now
        there = {each.name: each for each in (self._places.sys / "bus/usb/devices").glob("*") if ":" not in each.name}
        if self._at_first is None:
            self._at_first = frozenset(there)
        view.note("usb_devices", len(there))
        for name in sorted(set(there) - self._at_first):
            self._came[f"{name}: {_described(there[name])}"] = now
        self._came = dict([(text, at) for text, at in self._came.items() if now - at <= SHOWN_S][-_KEPT:])
        if self._came:
            view.see(Code.USB_INSERTED, "; ".join(self._came))

    def _case(self, view: View) -> None:
        switches = sorted((self._places.sys / "class/hwmon").glob("hwmon*/intrusion*_alarm"))
        view.note("case_switches", len(switches))
        opened = [f"{each.parent.name}/{each.name}" for each in switches if text_of(each) == "1"]
        if opened:
            view.see(Code.CHASSIS_OPENED, ", ".join(opened))

    def _terminals(self, view: View) -> None:
        found = []
        for process in self._places.proc.iterdir():
            if not process.name.isdigit():
                continue
            try:
                stat = (process / "stat").read_text("utf-8", "replace")
                name, fields = stat.partition("(")[2].rpartition(")")[0], stat.rpartition(")")[2].split()
                if int(fields[4]) == 0:
                    continue
                unit = unit_of((process / "cgroup").read_text("utf-8", "replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if not unit.startswith(CONSOLE):
                found.append(f"{name} [{process.name}]")
        if found:
            view.see(Code.TERMINAL_OPENED, ", ".join(sorted(found)[:_KEPT]))

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
        if self._events is not None:
            self._events.close()


def _described(device: Path) -> str:
    parts = []
    for name in ("idVendor", "idProduct", "manufacturer", "product"):
        try:
            parts.append(text_of(device / name))
        except OSError:
            continue
    return " ".join(parts) or "unknown"
