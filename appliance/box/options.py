# SPDX-License-Identifier: Apache-2.0
"""The command lines of the box's programs. On a box none of these options is given; tests and development give them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from appliance.boundary.errors import BsfgError, RefusedError, first_error
from appliance.boundary.reasons import Reason
from appliance.box.configs import BoxChoices
from appliance.box.layout import CONTROL_PORT, FACTS_PORT, INTAKE_PORT, BoxLayout
from appliance.keys.keeper.config import SESSION_S

F = TypeVar("F", bound=Callable[..., Any])
ROOT: Final = Path("/")


def root_option() -> Callable[[F], F]:
    """The option ``--root``: all paths are below it."""
    return click.option(
        "--root",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=ROOT,
        help="Development: the folder in whose place / is.",
    )


def choices_options() -> Callable[[F], F]:
    """What a box chooses by itself, and development otherwise."""

    def add(command: F) -> F:
        for option in (
            click.option("--tcti", default=BoxChoices().tcti, help="Development: where the TPM is."),
            click.option("--simulated-boot", is_flag=True, help="Development: PCRs of a software TPM are made up."),
            click.option("--facts-port", default=FACTS_PORT, help="Development: nats-facts on loopback."),
            click.option("--control-port", default=CONTROL_PORT, help="Development: nats-control on loopback."),
            click.option("--intake-port", default=INTAKE_PORT, help="Development: AppendFact on loopback."),
            click.option("--one-user", type=int, help="Development: the uid that all services run as."),
            click.option("--hub-host", default="", help="Development: the address that is dialled."),
            click.option("--session-s", default=SESSION_S, help="Development: seconds of a session certificate."),
        ):
            command = option(command)
        return command

    return add


def choices(root: Path, **given: Any) -> BoxChoices:
    """What was given. :raises RefusedError: ``bad_input``: a box must not be told otherwise."""
    made = BoxChoices(names=root == ROOT, **given)
    if root == ROOT and made != BoxChoices():
        raise RefusedError(Reason.BAD_INPUT, "these options are for development in a folder (--root)")
    return made


def layout_of(root: Path) -> BoxLayout:
    """The box below a root."""
    return BoxLayout(root.absolute())


def run_program(work: Callable[[], None]) -> None:
    """Set logging up and do the work; errors end with reason, hint and exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    failed: BsfgError | None = None
    try:
        work()
    except* BsfgError as group:
        failed = first_error(group)
    if failed is not None:  # not in the clause above: what is raised there comes out as a group, SystemExit too
        click.echo(f"error: {failed}\nhint: {failed.hint}", err=True)
        sys.exit(failed.text.exit)
