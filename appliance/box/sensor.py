# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.sensor``: look at the box, and tell the watchdog, until SIGTERM or SIGINT.

Here the sensor (:mod:`appliance.watchdog.sensor`) meets what a box knows of its own files.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click
import trio

from appliance.box.layout import BoxLayout
from appliance.box.options import choices, choices_options, layout_of, root_option
from appliance.box.rendering import Rendered
from appliance.factlog.signals import end_on_signal
from appliance.watchdog.probes.places import Places
from appliance.watchdog.sensor.sensor import Sensor, probes


@click.command(help="Run the sensor in the foreground: it looks at the box and tells the watchdog.")
@root_option()
@choices_options()
def command(root: Path, **given: Any) -> None:
    """Run until told to end."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    layout = layout_of(root)
    places = Places() if layout == BoxLayout() else Places.below(layout.root)
    found = probes(places, layout.sensor_run, Rendered(layout, choices(root, **given)))
    trio.run(_run, Sensor(found, layout.readings_socket, layout.status))


async def _run(sensor: Sensor) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal, nursery.cancel_scope)
        await sensor.run()


if __name__ == "__main__":
    command.main(prog_name="bsfg-sensor")
