# SPDX-License-Identifier: Apache-2.0
"""``bsfg operator``: what an operator does on a machine of their own, without a TPM and without a network."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.output import output_option, print_json


@click.group()
def operator() -> None:
    """Make and keep an operator's key, on a machine of your own."""


@operator.group()
def keys() -> None:
    """The operator's release key."""


@keys.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the first line of this file instead of asking.",
)
@output_option("text", "json")
def new(file: Path, passphrase_file: Path | None, output: str) -> None:
    """Make a release key: the encrypted private half in FILE, the public half in FILE.pub."""
    from appliance.keys.operators import new_operator_key
    from appliance.keys.tpm.public import ecdsa_public_of, name_of

    if passphrase_file is None:
        passphrase = str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True))
    else:
        try:
            passphrase = passphrase_file.read_text("utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise RefusedError(Reason.BAD_INPUT, f"{passphrase_file}: {error}") from error
    name = name_of(ecdsa_public_of(new_operator_key(file, passphrase))).hex()
    if output == "json":
        print_json({"private": str(file), "public": f"{file}.pub", "name": name})
        return
    click.echo(f"private  {file} (encrypted)\npublic   {file}.pub\nname     {name}")
