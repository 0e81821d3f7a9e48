# SPDX-License-Identifier: Apache-2.0
"""``bsfg policy``: what opens a box's boundary key, computed from a file alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.documents import format_of
from appliance.cli.files import FILE, read
from appliance.cli.output import output_option, print_json, print_table

if TYPE_CHECKING:
    from appliance.keys.enrolment.birth import BirthPolicy


@click.group()
def policy() -> None:
    """See what opens a box's boundary key."""


@policy.command()
@click.argument("file", type=FILE)
@output_option("table", "json")
def show(file: Path, output: str) -> None:
    """Compute the policy of the boundary key in FILE, and refuse a file whose key does not have it.

    FILE is a box's key file (boundary-key.json), or the box file that an operator keeps.
    """
    born = _birth(file, read(file))
    policy, birth = born.policy, born.policy.x(born.counter, born.pcrs)
    parts = {
        "device": policy.device.hex(),
        "image key": policy.image_name.hex(),
        **{f"operator {place}": name.hex() for place, name in enumerate(policy.operators.names, start=1)},
        "release index": f"{policy.release_index:08x}",
        "birth counter": str(born.counter),
        **{f"birth PCR {pcr}": value.hex() for pcr, value in sorted(born.pcrs.items())},
        "X(birth)": birth.hex(),
        "Y": policy.y.hex(),
        "authPolicy": born.auth_policy.hex(),
    }
    if output == "json":
        print_json(parts)
        return
    print_table(("part", "value"), [[part, value] for part, value in parts.items()])


def _birth(file: Path, data: bytes) -> BirthPolicy:
    """Policy, counter and PCRs of birth. :raises RefusedError: ``bad_input``: the file is neither of the two."""
    from appliance.keys.enrolled_box import BOX_FORMAT, EnrolledBox
    from appliance.keys.enrolment.birth import BirthPolicy
    from appliance.keys.tpm.identity import FORMAT, BoundaryIdentity

    if format_of(data) == FORMAT:
        return BirthPolicy.of(BoundaryIdentity.parse(data))
    if format_of(data) == BOX_FORMAT:
        return EnrolledBox.parse(data).birth
    raise RefusedError(Reason.BAD_INPUT, f"{file} is neither a key file (boundary-key.json) nor a box file")
