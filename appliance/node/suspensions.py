# SPDX-License-Identifier: Apache-2.0
"""Suspended producers in a node's folder: kept for this boot, lifted by whoever may write there.

The node alone writes ``suspended.json``. An operator's tool asks for a lift by a file of its own
(``lift-<producer>``), which the node takes away when it has done it. A machine that was booted anew begins with
nobody: whoever is at the box may do that, and a conflict suspends again.

Where there is no shell, a USB stick asks for it (``bsfg/lift-producers``). The program that reads sticks says so in its
status document, which it alone may write; that ends the suspensions that had begun by then, and no later one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ProducerId, parse_producer
from appliance.boundary.suspending import Suspension
from appliance.keys.files import PRIVATE, read_regular, write_atomically

FILE: Final = "suspended.json"
LIFT: Final = "lift-"
STICK: Final = "stick.json"
"""In the folder of status documents."""
STICK_BYTES: Final = 64 << 10
LOOK_EVERY_S: Final = 1.0
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
BOOT_ID_VARIABLE: Final = "BSFG_BOOT_ID"
"""The same by systemd (``%b`` in a unit), for a service that is not shown that file."""

_log = logging.getLogger(__name__)


class FileSuspensions:
    """A :class:`~appliance.boundary.suspending.SuspensionsPort`.

    :param folder: the node's own. :param status: the folder of status documents; ``None``: no stick is heard.
    """

    def __init__(self, folder: Path, boot_id: Path = BOOT_ID, status: Path | None = None) -> None:
        self._folder, self._stick = folder, None if status is None else status / STICK
        self._boot_id = this_boot(boot_id)
        self._found: dict[ProducerId, Suspension] = {each.producer: each for each in self._kept()}

    def of(self, producer: ProducerId) -> Suspension | None:
        """As the port says."""
        return self._found.get(producer)

    async def suspend(self, producer: ProducerId, detail: str) -> None:
        """As the port says."""
        if producer in self._found:
            return
        self._found[producer] = Suspension(producer, time.time_ns() // 1_000_000, detail)
        _log.error("producer %s is suspended: %s", producer, detail)
        await trio.to_thread.run_sync(self._keep)

    def all(self) -> Sequence[Suspension]:
        """As the port says."""
        return tuple(self._found.values())

    async def run(self) -> None:
        """Do what operators ask for, until cancelled."""
        while True:
            await trio.to_thread.run_sync(self.lift_asked)
            await trio.sleep(LOOK_EVERY_S)

    def lift_asked(self) -> None:
        """Serve those again whom an operator has looked at. Blocking."""
        for path in self._folder.glob(f"{LIFT}*"):
            producer = ProducerId(path.name.removeprefix(LIFT))
            if self._found.pop(producer, None) is not None:
                _log.warning("producer %s is served again", producer)
                self._keep()
            path.unlink(missing_ok=True)
        if self._found and self._stick is not None:
            self._lift_by_stick(self._stick)

    def _lift_by_stick(self, document: Path) -> None:
        try:
            asked = json.loads(read_regular(document, STICK_BYTES)).get("lift")
            if asked is None:
                return
            until, names = int(asked["asked_unix_ms"]), {parse_producer(each) for each in asked["producers"]}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RefusedError) as error:
            _log.warning("%s asks for no lift that can be read: %s", document, error)
            return
        for each in self.all():
            if each.since_unix_ms <= until and (not names or each.producer in names):
                del self._found[each.producer]
                _log.warning("producer %s is served again: somebody at the box asked by a USB stick", each.producer)
                self._keep()

    def _kept(self) -> list[Suspension]:
        try:
            values = json.loads((self._folder / FILE).read_bytes())
            if values["boot_id"] != self._boot_id:
                return []
            return [
                Suspension(parse_producer(each["producer"]), int(each["since_unix_ms"]), str(each["detail"]))
                for each in values["suspended"]
            ]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError, RefusedError) as error:
            _log.error("%s cannot be read: %s", self._folder / FILE, error)
            return []

    def _keep(self) -> None:
        values = {"boot_id": self._boot_id, "suspended": [asdict(each) for each in self._found.values()]}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / FILE, json.dumps(values, indent=1).encode(), PRIVATE)
        except OSError as error:  # then it does not outlast this process
            _log.error("%s cannot be written: %s", self._folder / FILE, error)


def this_boot(path: Path = BOOT_ID) -> str:
    """The kernel's random id of this boot, 32 digits; empty: nobody says it, and then no boot ends a suspension."""
    try:
        text = os.environ.get(BOOT_ID_VARIABLE) or path.read_text("ascii")
    except OSError as error:
        _log.warning("suspended producers stay so when the machine is booted anew: %s", error)
        text = ""
    return text.strip().replace("-", "")


def ask_to_lift(folder: Path, producer: ProducerId) -> Path:
    """Ask the node whose folder that is to serve a producer again; the file that says so, until it has done it.

    :raises OSError: it cannot be written there.
    """
    path = folder / f"{LIFT}{parse_producer(producer)}"
    path.touch(mode=PRIVATE)
    return path
