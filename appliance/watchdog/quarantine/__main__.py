# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.watchdog.quarantine``: dark before there is a network, on a box whose disk says quarantined.

The watchdog starts when keeper and agent run; until then address requests and the like could leave a box that is in
quarantine. This runs once, after the firewall and before the network, and decides by the same rules. It ends well on a
box that is in none.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from appliance.keys.time_store import BOOT_ID
from appliance.watchdog.nft import NftLease
from appliance.watchdog.quarantine.folder import FOLDER, CaseFolder
from appliance.watchdog.quarantine.resuming import DOUBT, Standing, start_of

_log = logging.getLogger(__name__)


@click.command(help="Make the uplink dark, if what is on the disk says that this box is in quarantine.")
@click.option("--state", type=click.Path(path_type=Path), default=FOLDER, help="Folder of the quarantine.")
def command(state: Path) -> None:
    """Once."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    start = start_of(CaseFolder(state).memory(BOOT_ID.read_text("ascii").strip(), None))
    if start.standing is Standing.FREE:
        return
    why = DOUBT if start.code is None else str(start.code)
    NftLease().dark(why)
    _log.critical("dark from the start: %s, %s", start.standing, why)


if __name__ == "__main__":
    command.main(prog_name="bsfg-dark")
