# SPDX-License-Identifier: Apache-2.0
"""``bsfg operator``: what an operator does on a machine of their own, without a TPM and without a network."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.cli.files import FILE
from appliance.cli.output import output_option, print_json
from appliance.cli.passphrase import passphrase, passphrase_option
from appliance.cli.voucher import voucher


@click.group()
def operator() -> None:
    """Make and keep an operator's key, on a machine of your own."""


@operator.group()
def keys() -> None:
    """The operator's release key."""


@keys.command()
@click.argument("file", type=FILE)
@passphrase_option()
@output_option("text", "json")
def new(file: Path, passphrase_file: Path | None, output: str) -> None:
    """Make a release key: the encrypted private half in FILE, the public half in FILE.pub."""
    from appliance.keys.operators import new_operator_key
    from appliance.keys.tpm.public import ecdsa_public_of, name_of

    key = new_operator_key(file, passphrase(passphrase_file, twice=True))
    name = name_of(ecdsa_public_of(key)).hex()
    if output == "json":
        print_json({"private": str(file), "public": f"{file}.pub", "name": name})
        return
    click.echo(f"private  {file} (encrypted)\npublic   {file}.pub\nname     {name}")


operator.add_command(voucher)
