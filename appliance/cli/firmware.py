# SPDX-License-Identifier: Apache-2.0
"""``bsfg firmware``: Secure Boot keys, and whether the firmware of a box is set up as its profile says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.files import FILE, write
from appliance.cli.firmware_keys import folder_option, keys
from appliance.cli.output import output_option, print_json

if TYPE_CHECKING:
    from appliance.firmware.check import Finding
    from appliance.firmware.facts import Machine
    from appliance.firmware.profile import Profile

GENERIC: Final = "generic-x86"
"""The profile of a machine that none was written for."""
IMAGE_KEYS: Final = "usr/lib/bsfg/firmware/keys"
"""Where an image has the public part of its keys."""
_COLOURS: Final = {"ok": "green", "differs": "red", "not checkable": "red", "ask": "yellow"}


@click.group()
def firmware() -> None:
    """Make Secure Boot keys; check a box's firmware against its profile."""


firmware.add_command(keys)


@firmware.command("vars")
@click.argument("file", type=FILE)
@folder_option()
@click.option(
    "--template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="An empty variable store of OVMF: OVMF_VARS_4M.fd.",
)
def vars_(file: Path, folder: Path, template: Path) -> None:
    """Write FILE, a variable store for a virtual machine, with the keys in it and Secure Boot on."""
    from appliance.firmware.keys import SecureBootKeys
    from appliance.firmware.varstore import make_vars

    if file.exists():
        raise RefusedError(Reason.BAD_INPUT, f"{file} exists")
    make_vars(template, SecureBootKeys.load(folder), file)
    click.echo(f"variable store  {file}")


@firmware.command()
@click.option("--profile", "chosen", help="A profile that comes with this version, by name, or a file of your own.")
@click.option(
    "--keys",
    "keys_folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What the variables should hold: a folder of keys, or its *.esl files. Without it: the image's.",
)
@click.option("--report", type=FILE, help="Also write a report for the papers of the box into this file.")
@click.option(
    "--sysroot",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    help="Look at a copy of a box's /sys below this folder, not at this machine.",
)
@output_option("text", "json")
def check(chosen: str | None, keys_folder: Path | None, report: Path | None, sysroot: Path, output: str) -> None:
    """Compare this box's firmware with its profile, and say what to change. Changes nothing.

    Exit code 0: nothing is to be changed, as far as can be seen. 3: something differs, or could not be read.
    """
    from appliance.firmware import check as checking
    from appliance.firmware import report as reporting
    from appliance.firmware.keys import known_contents
    from appliance.firmware.sysfs import SysfsFacts, adapter_wakes

    facts = SysfsFacts(sysroot, wakes=adapter_wakes if sysroot == Path("/") else None)
    machine = facts.machine()
    profile = _profile(chosen, machine)
    folder = keys_folder or (sysroot / IMAGE_KEYS if (sysroot / IMAGE_KEYS).is_dir() else None)
    findings = checking.check(profile, facts, known_contents(folder) if folder else None)
    if report is not None:
        write(report, reporting.render(profile, machine, findings, datetime.now(UTC)).encode())
    if output == "json":
        print_json(reporting.document(profile, machine, findings))
    else:
        _print(profile, machine, findings)
    if differing := reporting.differing(findings):
        raise RefusedError(Reason.FIRMWARE_DIFFERS, differing)


def _profile(chosen: str | None, machine: Machine) -> Profile:
    from appliance.firmware.profile import find_profile, load_profile, shipped_profiles

    if chosen is not None:
        return load_profile(find_profile(chosen))
    fitting = [one for one in shipped_profiles() if one.fits(machine.vendor, machine.product)]
    return fitting[0] if fitting else load_profile(find_profile(GENERIC))


def _print(profile: Profile, machine: Machine, findings: tuple[Finding, ...]) -> None:
    from appliance.firmware.report import advice, summary

    click.echo(f"machine  {machine.vendor} {machine.product}, firmware {machine.firmware}")
    click.echo(f"profile  {profile.name}: {profile.title}")
    if profile.template:
        click.secho("         a template: nobody has tried it on this hardware", fg="yellow")
    click.echo()
    for finding in findings:
        label = click.style(f"{finding.status:13}", fg=_COLOURS[finding.status])
        found = f"  {finding.found}" if finding.found else ""
        click.echo(f"{label}  {finding.setting:16}  {finding.wanted:12}{found}".rstrip())
        for line in advice(finding):
            click.echo(line)
    click.echo(f"\n{summary(findings)}")
