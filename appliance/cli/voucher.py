# SPDX-License-Identifier: Apache-2.0
"""``bsfg operator voucher``: let one TPM enrol for one zone, once; signed offline with an operator's key."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from appliance.boundary.names import parse_zone
from appliance.cli.files import FILE, write
from appliance.cli.output import output_option, print_json
from appliance.cli.passphrase import passphrase, passphrase_option

DAYS: Final = 14.0
_DAY_MS: Final = 86_400_000


@click.command()
@click.argument("file", type=FILE)
@click.option("--zone", required=True, help="The zone that the box is to be.")
@click.option("--fingerprint", required=True, help="Of the box's TPM, as 'bsfg enrol fingerprint' shows it: 64 digits.")
@click.option("--days", type=click.FloatRange(min=0.01, max=366), default=DAYS, show_default=True, help="How long.")
@click.option("--key", required=True, type=FILE, help="Your enrolment key.")
@passphrase_option()
@output_option("text", "json")
def voucher(
    file: Path, zone: str, fingerprint: str, days: float, key: Path, passphrase_file: Path | None, output: str
) -> None:
    """Sign a voucher into FILE: the hub lets the TPM with this fingerprint be that zone, once, without asking you."""
    from appliance.keys.enrolment.voucher import new_voucher
    from appliance.keys.operators import load_operator_key

    opened = load_operator_key(key, passphrase(passphrase_file))
    expires = time.time_ns() // 1_000_000 + int(days * _DAY_MS)
    made = new_voucher(opened, parse_zone(zone), fingerprint.lower(), expires)
    write(file, made.render())
    if output == "json":
        print_json({"file": str(file), "zone": made.zone, "serial": made.serial, "expires_unix_ms": expires})
        return
    click.echo(f"voucher  {file}\nzone     {made.zone}\nserial   {made.serial}")
