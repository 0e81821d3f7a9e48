# SPDX-License-Identifier: Apache-2.0
"""Passphrases of key files: asked for on the terminal, or the first line of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

F = TypeVar("F", bound=Callable[..., Any])


def passphrase_option() -> Callable[[F], F]:
    """The option ``--passphrase-file``."""
    return click.option(
        "--passphrase-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Take the first line of this file instead of asking.",
    )


def passphrase(file: Path | None, *, twice: bool = False) -> str:
    """The passphrase. :param twice: it is a new one, and asked for twice.

    :raises RefusedError: ``bad_input``: the file cannot be read.
    """
    if file is None:
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=twice, err=True))
    try:
        return file.read_text("utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{file}: {error}") from error
