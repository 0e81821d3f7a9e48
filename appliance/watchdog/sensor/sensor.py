# SPDX-License-Identifier: Apache-2.0
"""The sensor's process: probes look, the watchdog hears, systemd is told that both go on, and people can read it.

systemd's watchdog is pinged while every probe's loop comes round. That the *watchdog* does not listen is no fault of
the sensor, and ends nothing here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import trio

from appliance.factlog.notify import ServiceManager
from appliance.node.documents import write_status
from appliance.watchdog.probes.configuration import ConfigurationProbe, Render
from appliance.watchdog.probes.disk import DiskProbe
from appliance.watchdog.probes.executables import ExecutablesProbe
from appliance.watchdog.probes.firmware import FirmwareProbe
from appliance.watchdog.probes.hardware import HardwareProbe
from appliance.watchdog.probes.mounts import MountsProbe
from appliance.watchdog.probes.places import Places
from appliance.watchdog.probes.verity import VerityProbe
from appliance.watchdog.probing import Probe
from appliance.watchdog.sensor.runner import Runner
from appliance.watchdog.sensor.telling import Telling

NAME: Final = "sensor"
PING_S: Final = 1.0


def probes(places: Places, kept: Path, render: Render) -> list[Probe]:
    """The probes of the sensor. :param kept: a folder that lasts as long as the boot. :param render: see its type."""
    return [
        VerityProbe(places),
        MountsProbe(places),
        ExecutablesProbe(places),
        ConfigurationProbe(places, kept, render),
        FirmwareProbe(places, kept),
        HardwareProbe(places),
        DiskProbe(places),
    ]


class Sensor:
    """Runs until cancelled. :param socket: the watchdog's. :param status: the folder of status documents."""

    def __init__(
        self, given: Sequence[Probe], socket: Path, status: Path, manager: ServiceManager | None = None
    ) -> None:
        self.telling = Telling(socket)
        self.runner = Runner(given, self.telling.tell)
        self._status = status
        self._manager = manager or ServiceManager()

    async def run(self) -> None:
        """Look and tell."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.telling.run)
                nursery.start_soon(self.runner.run)
                while True:
                    if self.runner.alive(time.monotonic()):
                        text = "the watchdog listens" if self.telling.connected else "the watchdog does not listen"
                        self._manager.alive(ready=self.runner.looked(), text=text)
                    await trio.to_thread.run_sync(write_status, self._status, NAME, self.values())
                    await trio.sleep(PING_S)
        finally:
            self._manager.stopping()

    def values(self) -> dict[str, Any]:
        """What the status document says: what each probe saw last, and measured. What follows, the watchdog says."""
        last = self.telling.last()
        blind = any(reading.blind for reading in last) or not self.runner.looked()
        return {
            "state": "blind" if blind else "looking",
            "watchdog_listens": self.telling.connected,
            "probes": {str(reading.probe): json.loads(reading.render()) for reading in last},
            "problems": [],
        }
