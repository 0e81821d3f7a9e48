# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.watchdog``: run the watchdog until SIGTERM or SIGINT.

The options are for tests; on a box none is given.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final

import click
import trio

from appliance.factlog.signals import end_on_signal
from appliance.keys.keeper.client import KeeperClient
from appliance.watchdog.assembling import Choices, Parts, assemble
from appliance.watchdog.nft import LeaseSet

_DEFAULT: Final = Choices()


@click.command(help="Run the watchdog in the foreground: it lets packets out while keys, ledger and broker are proven.")
@click.option("--status", type=click.Path(path_type=Path), default=_DEFAULT.status, help="Folder of status documents.")
@click.option("--keeper", type=click.Path(path_type=Path), default=_DEFAULT.keeper, help="The keeper's socket.")
@click.option("--element", default=LeaseSet().element, help="What stands in the firewall's set while it is open.")
@click.option("--state", type=click.Path(path_type=Path), default=_DEFAULT.state, help="Folder of the quarantine.")
@click.option("--run", "run_dir", type=click.Path(path_type=Path), default=_DEFAULT.run, help="Folder of the sockets.")
@click.option("--node", type=click.Path(path_type=Path), default=_DEFAULT.node, help="The node's configuration.")
@click.option("--pki", type=click.Path(path_type=Path), default=_DEFAULT.pki, help="Folder of certificates.")
@click.option("--root", type=click.Path(path_type=Path), default=_DEFAULT.root, help="The root of the image.")
@click.option("--boot-id", type=click.Path(path_type=Path), default=_DEFAULT.boot_id, help="Names this boot.")
@click.option("--without", multiple=True, help="A probe that does not look, and is not waited for; once for each.")
@click.option("--user", "users", type=int, multiple=True, help="Who may ask the watchdog; once for each.")
@click.option("--sensor-user", type=int, default=_DEFAULT.sensor_user, help="Whose process the sensor is.")
def command(
    status: Path,
    keeper: Path,
    element: str,
    state: Path,
    run_dir: Path,
    node: Path,
    pki: Path,
    root: Path,
    boot_id: Path,
    without: tuple[str, ...],
    users: tuple[int, ...],
    sensor_user: int,
) -> None:
    """Run until told to end."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    choices = Choices(
        status,
        keeper,
        element,
        state,
        run_dir,
        node,
        pki,
        frozenset(without),
        frozenset(users) or _DEFAULT.users,
        sensor_user,
        root,
        boot_id,
    )
    trio.run(_run, assemble(choices, KeeperClient(keeper)))


async def _run(parts: Parts) -> None:
    parts.watchdog.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal, nursery.cancel_scope)
        await parts.run()


if __name__ == "__main__":
    command.main(prog_name="bsfg-watchdog")
