# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.watchdog``: run the watchdog until SIGTERM or SIGINT.

The options are for tests; on a box none is given.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Final

import click
import trio

from appliance.keys.keeper.client import KeeperClient
from appliance.watchdog.looking import AgentLook, KeeperLook
from appliance.watchdog.nft import LeaseSet, NftLease
from appliance.watchdog.watchdog import Watchdog

STATUS_DIR: Final = Path("/run/bsfg/status")
KEEPER: Final = Path("/run/bsfg/keeper/keeper.sock")


@click.command(help="Run the watchdog in the foreground: it lets packets out while keys, ledger and broker are proven.")
@click.option("--status", type=click.Path(path_type=Path), default=STATUS_DIR, help="Folder of status documents.")
@click.option("--keeper", type=click.Path(path_type=Path), default=KEEPER, help="The keeper's socket.")
@click.option("--element", default=LeaseSet().element, help="What stands in the firewall's set while it is open.")
def command(status: Path, keeper: Path, element: str) -> None:
    """Run until told to end."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    looks = (KeeperLook(KeeperClient(keeper)), AgentLook(status / "agent.json"))
    trio.run(_run, Watchdog(NftLease(LeaseSet(element=element)), looks, status))


async def _run(watchdog: Watchdog) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_on_signal, nursery.cancel_scope)
        await watchdog.run()


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


if __name__ == "__main__":
    command.main(prog_name="bsfg-watchdog")
