# SPDX-License-Identifier: Apache-2.0
"""How agent and hub run as processes: command line, logging, signals, readiness, one way to end."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import click
import trio

from appliance.boundary.errors import BsfgError, first_error
from appliance.factlog.signals import end_on_signal
from appliance.node.config import NodeConfig


class Node(Protocol):
    """A node's main loop."""

    async def run(self) -> None:
        """Run until cancelled."""
        ...


def main(role: str, make: Callable[[NodeConfig], Node]) -> None:
    """Parse the command line and run one node until SIGTERM or SIGINT; errors end with reason, hint and exit code."""

    @click.command(help=f"Run the BSFG {role} in the foreground.")
    @click.option(
        "--config", "path", required=True, type=click.Path(path_type=Path), help="The node's configuration (TOML)."
    )
    def command(path: Path) -> None:
        logging.basicConfig(
            level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        failed: BsfgError | None = None
        _calm_garbage_collection()
        try:
            trio.run(_run, make, path)
        except* BsfgError as group:
            failed = first_error(group)
        if failed is not None:  # not in the clause above: what is raised there comes out as a group, SystemExit too
            click.echo(f"error: {failed}\nhint: {failed.hint}", err=True)
            sys.exit(failed.text.exit)

    command.main(prog_name=f"bsfg-{role}")


def _calm_garbage_collection() -> None:
    """A page is thousands of short-lived objects without cycles: looking through all modules for them buys nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _run(make: Callable[[NodeConfig], Node], path: Path) -> None:
    config = NodeConfig.load(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal, nursery.cancel_scope)
        await make(config).run()
