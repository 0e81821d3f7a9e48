# SPDX-License-Identifier: Apache-2.0
"""``bsfg evidence``: what a quarantined box has to show: carry it away, read it, and check it without a network.

``export`` runs on the box. The others run anywhere, on files: neither a hub nor a TPM is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.documents import format_of
from appliance.cli.files import FILE, FOLDER, read
from appliance.cli.output import output_option, print_json

if TYPE_CHECKING:
    from appliance.watchdog.evidence.store import Kept

ON_THE_BOX: Final = Path("/var/lib/bsfg/watchdog/evidence")


@click.group()
def evidence() -> None:
    """Read and check what a quarantined box has to show."""


@evidence.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--from", "source", default=ON_THE_BOX, show_default=True, type=FOLDER, help="The box's folder of evidence."
)
@click.option("--all", "every", is_flag=True, help="Everything that is kept; without it, the newest alone.")
@output_option("text", "json")
def export(folder: Path, source: Path, every: bool, output: str) -> None:
    """On the box: copy the newest evidence and its seal into FOLDER, such as that of a USB stick.

    Nothing that is there is written over. What an earlier call began is completed.
    """
    from appliance.watchdog.evidence.store import EvidenceStore

    try:
        kept = EvidenceStore(source).all()
        found = kept if every else kept[-1:]
        if not found:
            raise RefusedError(Reason.BAD_INPUT, f"{source} holds no evidence: the box was never in quarantine")
        rows = [_export(each, folder) for each in found]
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{error.filename or source}: {error.strerror}") from error
    if output == "json":
        print_json(rows)
        return
    for row in rows:
        _show({name: str(value) for name, value in row.items()})
    click.echo("next: ask for a release with 'bsfg release request --evidence FILE'")


@evidence.command()
@click.argument("file", type=FILE)
@output_option("text", "json")
def show(file: Path, output: str) -> None:
    """Say in plain words what stands in FILE, evidence or a seal. Nothing is checked: that is what verify does."""
    from appliance.cli.evidence_text import bundle_values, seal_values
    from appliance.watchdog.evidence.bundle import FORMAT, SEAL_FORMAT, Bundle, Seal

    data = read(file)
    named = format_of(data)
    if named == FORMAT:
        values = bundle_values(Bundle.parse(data), data)
    elif named == SEAL_FORMAT:
        values = seal_values(Seal.parse(data))
    else:
        raise RefusedError(Reason.BAD_INPUT, f"{file} is neither evidence nor a seal")
    if output == "json":
        print_json(values)
        return
    from appliance.cli.evidence_text import words

    _lines(words(values))


@evidence.command()
@click.argument("file", type=FILE)
@click.option("--seal", "seal_file", type=FILE, help="The seal; without it, the .seal.json beside FILE.")
@click.option("--box", "box_file", required=True, type=FILE, help="The box file, kept since enrolment.")
@click.option("--measurements", "measurements_file", type=FILE, help="The builder's measurements, to name the image.")
@output_option("text", "json")
@click.pass_context
def verify(
    ctx: click.Context, file: Path, seal_file: Path | None, box_file: Path, measurements_file: Path | None, output: str
) -> None:
    """Check that FILE is evidence of this box, sealed by its TPM and unchanged; say what that proves.

    Exit code 0: proven, and the box is as it was enrolled; 1: proven, and something differs, which is told; 4: it is
    not this box's evidence, or was changed.
    """
    from appliance.cli.evidence_text import report_values, report_words
    from appliance.keys.attestation.measurements import Measurements
    from appliance.keys.enrolled_box import EnrolledBox
    from appliance.watchdog.evidence import verifying

    bundle, seal = read(file), read(seal_file or seal_beside(file))
    measurements = None if measurements_file is None else Measurements.parse(read(measurements_file))
    report = verifying.verify(bundle, seal, EnrolledBox.parse(read(box_file)), measurements)
    if output == "json":
        print_json(report_values(report))
    else:
        _lines(report_words(report))
    if report.findings:
        ctx.exit(ExitCode.FAILURE)


def seal_beside(file: Path) -> Path:
    """Where the seal of a bundle is, by the names that export gives them.

    :raises RefusedError: ``bad_input``: the name says nothing.
    """
    if not file.name.endswith(".evidence.json"):
        raise RefusedError(Reason.BAD_INPUT, f"{file}: give its seal with --seal")
    return file.with_name(file.name.removesuffix(".evidence.json") + ".seal.json")


def _export(kept: Kept, folder: Path) -> dict[str, Any]:
    """Copy one bundle and its seal. The bundle last: where it is, its seal is too."""
    from appliance.watchdog.evidence.bundle import Bundle, digest_of

    bundle, seal = kept.read()
    shown = Bundle.parse(bundle)
    name = f"{shown.zone}-{kept.number:04}-{kept.short}"
    file = folder / f"{name}.evidence.json"
    copied = [_copy(seal_beside(file), seal), _copy(file, bundle)]
    return {
        "file": str(file),
        "seal": str(seal_beside(file)),
        "sha256": digest_of(bundle).hex(),
        "why": shown.opened.code.value,
        "copied": any(copied),
    }


def _copy(path: Path, data: bytes) -> bool:
    """Write a file that is whole or not there; whether it was not there before.

    :raises RefusedError: ``bad_input``: another file has its name.
    """
    from appliance.keys.files import add_file

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return add_file(path, data)
    except FileExistsError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{path} is there and is another file; it is not written over") from error


def _show(values: Mapping[str, str]) -> None:
    _lines(list(values.items()))


def _lines(lines: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        click.echo(f"{name.ljust(width)}  {text}".rstrip())
