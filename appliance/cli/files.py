# SPDX-License-Identifier: Apache-2.0
"""Files that a user names on the command line: read whole, written whole, and a refusal that says which one it was."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

FILE: Final = click.Path(dir_okay=False, path_type=Path)
FOLDER: Final = click.Path(file_okay=False, path_type=Path)


def read(file: Path) -> bytes:
    """A file's bytes. :raises RefusedError: ``bad_input``."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{file}: {error.strerror}") from error


def write(file: Path, data: bytes) -> None:
    """Write a file whole, for everybody to read. :raises RefusedError: ``bad_input``."""
    from appliance.keys.files import PUBLIC, write_atomically

    try:
        write_atomically(file, data, PUBLIC)
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{file}: {error.strerror}") from error
