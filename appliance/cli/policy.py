# SPDX-License-Identifier: Apache-2.0
"""``bsfg policy``: what opens a box's boundary key, computed from its key file alone."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.output import output_option, print_json, print_table


@click.group()
def policy() -> None:
    """See what opens a box's boundary key."""


@policy.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@output_option("table", "json")
def show(file: Path, output: str) -> None:
    """Compute the policy of the boundary key in FILE (boundary-key.json), and refuse a file that does not have it."""
    from appliance.keys.tpm.identity import BoundaryIdentity

    try:
        identity = BoundaryIdentity.parse(file.read_bytes())
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{file}: {error}") from error
    parts = {
        "device": identity.policy.device.hex(),
        "image key": identity.policy.image_name.hex(),
        **{f"operator {place}": name.hex() for place, name in enumerate(identity.policy.operators.names, start=1)},
        "birth counter": str(identity.birth_counter),
        **{f"birth PCR {pcr}": value.hex() for pcr, value in sorted(identity.birth_pcrs.items())},
        "X(birth)": identity.birth.hex(),
        "Y": identity.policy.y.hex(),
        "authPolicy": identity.policy.auth_policy(identity.birth).hex(),
    }
    if output == "json":
        print_json(parts)
        return
    print_table(("part", "value"), [[part, value] for part, value in parts.items()])
