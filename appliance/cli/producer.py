# SPDX-License-Identifier: Apache-2.0
"""``bsfg producer``: who is not served for having sent two facts under one id, and letting them in again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from appliance.cli.files import FOLDER
from appliance.cli.output import output_option, print_json

STATE: Final = Path("/var/lib/bsfg/agent")

_state = click.option(
    "--state",
    type=FOLDER,
    default=STATE,
    show_default=True,
    help="The folder of the agent, or of a hub, as its configuration names it (state_dir).",
)


@click.group()
def producer() -> None:
    """Producers that are suspended: look, and lift."""


@producer.command("list")
@_state
@output_option("text", "json")
def list_(state: Path, output: str) -> None:
    """Who is suspended, since when, and for which fact."""
    from datetime import UTC, datetime

    from appliance.node.suspensions import FileSuspensions

    found = FileSuspensions(state).all()
    if output == "json":
        values = [{"producer": s.producer, "since_unix_ms": s.since_unix_ms, "detail": s.detail} for s in found]
        print_json({"suspended": values})
        return
    for each in found:
        since = datetime.fromtimestamp(each.since_unix_ms / 1000, UTC)
        click.echo(f"{each.producer}  since {since:%Y-%m-%d %H:%M:%S} UTC\n  {each.detail}")
    if not found:
        click.echo("nobody is suspended")


@producer.command()
@click.argument("name")
@_state
@output_option("text", "json")
def lift(name: str, state: Path, output: str) -> None:
    """Serve the producer NAME again. Look first: it may go on to use ids twice, and is suspended again then."""
    from appliance.boundary.names import parse_producer
    from appliance.node.suspensions import FileSuspensions, ask_to_lift

    known = FileSuspensions(state).of(parse_producer(name)) is not None
    if known:
        ask_to_lift(state, parse_producer(name))
    if output == "json":
        print_json({"producer": name, "asked": known})
        return
    click.echo(f"{name} is served again within a second" if known else f"{name} is not suspended")
