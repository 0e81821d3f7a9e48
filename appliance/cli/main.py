# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``bsfg``: its commands, and the one place where errors become text and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click

import appliance
from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import ExitCode
from appliance.cli.output import OUTPUT_KEY, print_error

COMMANDS: Final = {
    "audit": ("appliance.cli.audit", "Prove what crossed."),
    "box": ("appliance.cli.box", "Look at the box this runs on."),
    "credential": ("appliance.cli.credential", "Hand out and revoke credentials of local applications."),
    "demo": ("appliance.cli.demo", "Watch facts cross between two zones, on this machine."),
    "dev": ("appliance.cli.dev", "Run a two-zone environment on this machine."),
    "enrol": ("appliance.cli.enrol", "Make this box a zone of a hub."),
    "evidence": ("appliance.cli.evidence", "Read and check what a quarantined box has to show."),
    "fact": ("appliance.cli.fact", "Append facts to a zone, and read the facts a zone has."),
    "firmware": ("appliance.cli.firmware", "Make Secure Boot keys; check the firmware of a box."),
    "hub": ("appliance.cli.hub", "Decide which boxes are which zones."),
    "image": ("appliance.cli.image", "Check a release image, and write it to a disk."),
    "operator": ("appliance.cli.operator", "Make the keys of operators."),
    "policy": ("appliance.cli.policy", "Show the policy of a boundary key."),
    "producer": ("appliance.cli.producer", "Let suspended producers in again."),
    "quarantine": ("appliance.cli.quarantine", "See whether this box is in quarantine, put it there, release it."),
    "release": ("appliance.cli.release", "Release a box from quarantine: two operators sign."),
    "site": ("appliance.cli.site", "Write, check, sign and take the site configuration of a box."),
    "status": ("appliance.cli.status", "Show how both zones are, and what waits to cross."),
}
"""Each command: the module that has it under its own name, and what it is for; only the one that is called is imported.
"""
INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it."""


class BsfgGroup(click.Group):
    """The root of all commands: finds them late, and ends the process by the rules of this product."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command when it is asked for."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error of the product becomes text and exit code."""
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()
        except BsfgError as error:
            print_error(error, as_json=ctx.meta.get(OUTPUT_KEY) == "json")
            ctx.exit(error.text.exit)
        # The next two are click's to handle as well, but less quietly.
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:  # whoever read our output has enough
            if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:  # what its buffer still has must go away
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(ExitCode.OK)
        return outcome

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002, FBT001, FBT002, RUF100 - click's signature
        **extra: Any,
    ) -> NoReturn:
        """Run to the end of the process."""
        try:
            outcome = super().main(args, prog_name or "bsfg", complete_var, standalone_mode=False, **extra)
        except click.UsageError as error:
            _print_usage_error(error)
            sys.exit(ExitCode.USAGE)
        except click.ClickException as error:
            click.echo(f"error: {error.format_message()}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(INTERRUPTED)
        sys.exit(outcome if isinstance(outcome, int) else ExitCode.OK)


def _print_usage_error(error: click.UsageError) -> None:
    click.echo(f"error: usage: {error.format_message()}", err=True)
    if error.ctx is not None:
        click.echo(f"hint: {error.ctx.get_usage().removeprefix('Usage: ')}", err=True)
        click.echo(f"hint: '{error.ctx.command_path} --help' explains it", err=True)


@click.group(cls=BsfgGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(appliance.__version__, prog_name="bsfg")
def cli() -> None:
    """Facts cross between zones: durable, outbound only, never lost, never doubled.

    Exit codes: 0 ok, 1 failure, 2 usage, 3 not ready, 4 denied, 5 quarantined.
    """


def main() -> None:
    """The console script."""
    cli()
