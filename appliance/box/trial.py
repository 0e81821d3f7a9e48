# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.trial``: see whether a new site configuration brings contact with the hub.

Runs while one is on trial. If it brings none in its time, the one before is in force again, and the box is started
anew, for that is when a configuration is applied. Local facts wait on disk meanwhile.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from appliance.boundary.errors import BsfgError
from appliance.box.layout import BoxLayout
from appliance.box.options import layout_of, root_option, run_program
from appliance.box.site import say_again
from appliance.box.states import EnrolState
from appliance.node.status import StatusDocument
from appliance.site.store import SiteStore

LOOK_EVERY_S: Final = 5.0
REBOOT: Final = ("systemctl", "--no-block", "reboot")

_log = logging.getLogger("appliance.box.trial")


@click.command(help="Watch a new site configuration until it is proven, or taken back.")
@root_option()
def command(root: Path) -> None:
    """Run until the trial is over."""
    run_program(lambda: watch(layout_of(root), SiteStore(layout_of(root).site), _reboot))


def watch(
    layout: BoxLayout, store: SiteStore, reboot: Callable[[], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Return when nothing is on trial any more. :raises BsfgError: ``bad_site``: nothing can be read."""
    while store.trial() is not None:
        if store.tick(contact=had_contact(layout)):
            _log.error("no contact with the hub: the configuration of before is back, and the box starts anew")
            reboot()
            return
        say_again(layout)
        sleep(LOOK_EVERY_S)
    say_again(layout)


def had_contact(layout: BoxLayout) -> bool:
    """Whether the hub was heard since this boot, by the word of agent or enrolment; their documents die with a boot."""
    try:
        enrolment = json.loads(layout.status_document("enrol").read_bytes())
        if enrolment.get("state") in (EnrolState.WAITING, EnrolState.REFUSED):
            return True
    except (OSError, ValueError, AttributeError):
        pass
    try:
        agent = StatusDocument.read(layout.status_document("agent"))
    except BsfgError:
        return False
    return agent.boundary.time == "hub_token" or any(each.last_exchange_unix_ms for each in agent.crossings)


def _reboot() -> None:
    subprocess.run(REBOOT, check=False, timeout=30)


if __name__ == "__main__":
    command.main(prog_name="bsfg-trial")
