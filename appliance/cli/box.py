# SPDX-License-Identifier: Apache-2.0
"""``bsfg box``: what a box itself can tell of itself."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from appliance.boundary.reasons import ExitCode
from appliance.cli.output import output_option, print_json

if TYPE_CHECKING:
    from appliance.console.judgement import Judgement
    from appliance.console.model import Box, Looker

EVERY_S: Final = 2.0


@click.group()
def box() -> None:
    """Look at the box this runs on."""


@box.command()
@click.option(
    "--root",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="The file system to look at.",
)
@click.option("--watch", is_flag=True, help="Show it again every 2 s, until Ctrl-C.")
@output_option("text", "json")
def status(root: Path, watch: bool, output: str) -> None:
    """Show how this box is: what its status page shows, and what there is no room for there.

    Ends with 0 while local work goes on and nothing needs hands, 3 when the box is not ready, not configured or not let
    in yet, 1 when something needs hands, 4 when the hub refuses it, 5 in quarantine.
    """
    show(root, output, watch=watch)


def show(root: Path, output: str, *, watch: bool = False) -> None:
    """Show how the box is whose file system this is. :raises Exit: with the exit code of its state."""
    from appliance.console.model import Looker

    looker = Looker(root)
    code = _watch(looker, output) if watch else _once(looker, output)
    if code is not ExitCode.OK:
        raise click.exceptions.Exit(code)


def _once(looker: Looker, output: str) -> ExitCode:
    from appliance.console.judgement import judge
    from appliance.console.page import render
    from appliance.console.report import EXIT_CODES
    from appliance.console.texts import load

    found = looker.look()
    judgement = judge(found)
    if output == "json":
        print_json(_report(found, judgement))
    else:
        click.echo("\n".join(render(found, judgement, load(), whole=True)))
    return EXIT_CODES[judgement.overall]


def _watch(looker: Looker, output: str) -> ExitCode:
    """Until Ctrl-C, which is how this ends in good order."""
    from appliance.console.judgement import judge
    from appliance.console.memory import Memory
    from appliance.console.page import render
    from appliance.console.report import EXIT_CODES
    from appliance.console.screen import Screen, kind_of
    from appliance.console.texts import load

    memory, texts, code = Memory(), load(), ExitCode.OK
    screen = None if output == "json" else Screen(1, kind_of(1, os.environ.get("TERM", "")))
    try:
        while True:
            found = looker.look()
            judgement = memory.complete(found, judge(found))
            code = EXIT_CODES[judgement.overall]
            if screen is None:
                click.echo(json.dumps(_report(found, judgement)))
                sys.stdout.flush()
            else:
                screen.show(render(found, judgement, texts))
            time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return code
    finally:
        if screen is not None:
            screen.close()


def _report(found: Box, judgement: Judgement) -> dict[str, Any]:
    from appliance.console.report import report
    from appliance.console.texts import load

    return report(found, judgement, load())
