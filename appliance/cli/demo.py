# SPDX-License-Identifier: Apache-2.0
"""``bsfg demo``: the main job on an embedded default; ends by itself with a table of what happened."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from appliance.boundary.reasons import ExitCode
from appliance.cli.files import FOLDER
from appliance.cli.output import output_option, print_json


@click.command()
@click.option(
    "--dir",
    "folder",
    type=FOLDER,
    help="Put the two zones here and leave them running; by default they are temporary.",
)
@output_option("table", "json")
@click.pass_context
def demo(ctx: click.Context, folder: Path | None, output: str) -> None:
    """Watch facts cross between a plant and an enterprise zone, on this machine, in about a minute.

    Live readings of this machine go one way, orders the other. The link is cut and healed, ids are repeated and
    forged, processes are killed in mid-transfer, impostors dial, and the plant's box is locked and released. At the end
    both logs are compared. Everything runs on loopback. TPMs are software; their vendor, the boot and the link are
    simulated, as the table says again.
    """
    from appliance.dev.demo.show import as_document, as_table, play
    from appliance.dev.layout import Layout

    def tell(text: str) -> None:
        click.echo(text, err=output == "json")

    if folder is not None:
        report = play(Layout.at(folder), tell, keep=True)
    else:
        with tempfile.TemporaryDirectory(prefix="bsfg-demo-") as temporary:
            report = play(Layout.at(Path(temporary) / "zones"), tell, keep=False)
    if output == "json":
        print_json(as_document(report))
    else:
        click.echo("\n" + as_table(report))
    ctx.exit(ExitCode.OK if report.proven else ExitCode.FAILURE)
