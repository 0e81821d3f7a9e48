# SPDX-License-Identifier: Apache-2.0
"""``bsfg release``: let a quarantined box use its boundary key again, by the signatures of two operators.

``request`` and ``import`` run on the box and speak to its keeper. The others run on an operator's machine, without a
network and without a TPM, on files.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.documents import format_of
from appliance.cli.files import FILE, read, write
from appliance.cli.output import output_option, print_json
from appliance.cli.passphrase import passphrase, passphrase_option

if TYPE_CHECKING:
    from appliance.keys.enrolled_box import EnrolledBox
    from appliance.keys.release import Release, ReleaseRequest

REQUEST_HELP: Final = "The request of the box: a file, or the text of its QR code."
KEEPER_HELP: Final = "The keeper's socket on the box (or the variable BSFG_KEEPER)."


@click.group()
def release() -> None:
    """Release a box from quarantine: the box requests, two operators sign, the box imports."""


@release.command()
@click.argument("request_file", metavar="REQUEST", type=FILE)
@click.option("--keeper", "socket", required=True, envvar="BSFG_KEEPER", type=FILE, help=KEEPER_HELP)
@click.option("--evidence", required=True, type=FILE, help="The signed evidence that operators are to read.")
@output_option("text", "json")
def request(request_file: Path, socket: Path, evidence: Path, output: str) -> None:
    """On the box: write a request for release to REQUEST, with the counter as the TPM certifies it."""
    import trio

    from appliance.cli.release_keeper import make_request
    from appliance.keys.tpm.public import sha256

    made = trio.run(make_request, socket, sha256(read(evidence)))
    write(request_file, made.render())
    from appliance.cli.release_text import request_values

    _print({**request_values(made, None), "file": str(request_file)}, output)


@release.command()
@click.argument("release_file", metavar="RELEASE", type=FILE)
@click.option("--box", "box_file", required=True, type=FILE, help="The box file, kept since enrolment.")
@click.option("--request", "requests", required=True, multiple=True, metavar="REQUEST", help=REQUEST_HELP)
@click.option("--key", required=True, type=FILE, help="Your release key.")
@passphrase_option()
@click.option("--evidence", type=FILE, help="The evidence you have read; it must be the one of the request.")
@click.option("--accept-pcrs", is_flag=True, help="Sign although PCRs changed since enrolment: you know why.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Check and show everything; open no key, write nothing.")
@output_option("text", "json")
def sign(
    release_file: Path,
    box_file: Path,
    requests: tuple[str, ...],
    key: Path,
    passphrase_file: Path | None,
    evidence: Path | None,
    accept_pcrs: bool,
    yes: bool,
    dry_run: bool,
    output: str,
) -> None:
    """On your own machine: check the request, show it, and add your signature to RELEASE.

    The first operator makes RELEASE, the second one adds to it. REQUEST is a file, or the text of the QR code that the
    box shows (BSFG:R1:...); where it shows several, each is given by an option of its own.
    """
    from appliance.cli.release_text import release_values, request_values
    from appliance.keys.operators import load_operator_key
    from appliance.keys.release import Release, add_signature, new_release
    from appliance.keys.tpm.public import sha256

    box = _box(box_file)
    asked = _request(requests, box)
    if evidence is not None and sha256(read(evidence)) != asked.evidence:
        raise DeniedError(Reason.BAD_EVIDENCE, f"{evidence} is not the evidence of the request")
    begun = Release.parse(read(release_file)) if release_file.exists() else None
    _show(request_values(asked, box), err=True)
    fresh = new_release(box, asked, accept_pcrs=accept_pcrs)
    if dry_run:
        click.echo("dry run: the request is in order; nothing was signed", err=True)
        _print({**release_values(begun or fresh, box), "file": str(release_file)}, output)
        return
    _confirm(box, yes=yes)
    opened = load_operator_key(key, passphrase(passphrase_file))
    signed = add_signature(box, asked, begun or fresh, opened, accept_pcrs=accept_pcrs)
    write(release_file, signed.render())
    _print({**release_values(signed, box), "file": str(release_file)}, output)


@release.command()
@click.argument("file", type=FILE)
@click.option("--box", "box_file", type=FILE, help="The box file; without it, signatures are not checked.")
@output_option("text", "json")
def show(file: Path, box_file: Path | None, output: str) -> None:
    """Say in plain words what FILE is: a request, a release, or a box file.

    A request as a text (BSFG:R1:...) needs the box file.
    """
    from appliance.cli.release_text import box_values, release_values, request_values
    from appliance.keys.code_parts import is_code
    from appliance.keys.enrolled_box import BOX_FORMAT, EnrolledBox
    from appliance.keys.release import FORMAT, REQUEST_FORMAT, Release, ReleaseRequest

    data, box = read(file), None if box_file is None else _box(box_file)
    if box is not None and is_code(_text(data)):
        _print(request_values(_request([str(file)], box), box), output)
        return
    named = format_of(data)
    if named == BOX_FORMAT:
        values = box_values(EnrolledBox.parse(data))
    elif named == FORMAT:
        values = release_values(_of(box, Release.parse(data)), box)
    elif named == REQUEST_FORMAT:
        values = request_values(ReleaseRequest.parse(data), box)
    else:
        raise RefusedError(Reason.BAD_INPUT, f"{file} is neither a request, nor a release, nor a box file")
    _print(values, output)


@release.command()
@click.argument("release_file", metavar="RELEASE", type=FILE)
@click.option("--box", "box_file", required=True, type=FILE, help="The box file, kept since enrolment.")
@click.option(
    "--request", "requests", multiple=True, metavar="REQUEST", help="Also check that it answers this request."
)
@output_option("text", "json")
@click.pass_context
def verify(ctx: click.Context, release_file: Path, box_file: Path, requests: tuple[str, ...], output: str) -> None:
    """Check every signature of RELEASE. Exit code 0: complete; 3: good, but an operator is missing; 4: bad."""
    from dataclasses import replace

    from appliance.cli.release_text import release_values
    from appliance.keys.release import Release, new_release

    box = _box(box_file)
    found = _of(box, Release.parse(read(release_file)))
    if requests:
        wanted = new_release(box, _request(requests, box), accept_pcrs=True)
        if replace(found, signatures=()) != wanted:
            raise DeniedError(Reason.BAD_RELEASE, "the release does not answer this request")
    values = release_values(found, box)
    _print(values, output)
    if not values["complete"]:
        if len(values["signed_by"]) > 1 or any(not part["good"] for part in values["signed_by"]):
            raise DeniedError(Reason.BAD_RELEASE, "a signature is not an operator's of this box, or stands twice")
        ctx.exit(ExitCode.NOT_READY)


@release.command("import")
@click.argument("release_file", metavar="RELEASE", type=FILE)
@click.option("--keeper", "socket", required=True, envvar="BSFG_KEEPER", type=FILE, help=KEEPER_HELP)
@output_option("text", "json")
def import_(release_file: Path, socket: Path, output: str) -> None:
    """On the box: hand RELEASE to the keeper. The TPM decides whether it opens the key."""
    import trio

    from appliance.cli.release_keeper import hand_in
    from appliance.keys.release import Release

    data = read(release_file)
    Release.parse(data)
    status = trio.run(hand_in, socket, data)
    if output == "json":
        print_json({"zone": status.zone, "state": status.state, "counter": status.counter})
        return
    click.echo(f"imported; the keeper of {status.zone} says: {status.state}, counter {status.counter}")


def _box(path: Path) -> EnrolledBox:
    from appliance.keys.enrolled_box import EnrolledBox

    return EnrolledBox.parse(read(path))


def _request(given: Sequence[str], box: EnrolledBox) -> ReleaseRequest:
    """The request: one file with it, or its text, in parts or not, as it is given or in files.

    :raises RefusedError: ``bad_document``: it is none. :raises DeniedError: ``bad_evidence``: it does not fit the box.
    """
    from appliance.keys.code_parts import is_code
    from appliance.keys.release import ReleaseRequest
    from appliance.keys.release_code import ReleaseCode

    found = [each.encode() if is_code(each) else read(Path(each)) for each in given]
    if len(found) == 1 and not is_code(_text(found[0])):
        return ReleaseRequest.parse(found[0])
    return ReleaseCode.parse("\n".join(_text(each) for each in found)).request(box)


def _text(data: bytes) -> str:
    return data.decode("ascii", errors="replace")


def _of(box: EnrolledBox | None, found: Release) -> Release:
    if box is not None and found.device != box.policy.device:
        raise DeniedError(Reason.BAD_RELEASE, "it is of another box, or of a former key of this one")
    return found


def _confirm(box: EnrolledBox, *, yes: bool) -> None:
    """Say what a signature does, and ask. :raises RefusedError: ``not_confirmed``."""
    meaning = "can use its boundary key again, until the next quarantine"
    click.echo(f"With a second operator's signature, box {box.zone} {meaning}.", err=True)
    if yes:
        return
    try:
        agreed = click.confirm("Did you read the evidence, and do you sign?", default=False, err=True)
    except click.Abort:
        agreed = False
    if not agreed:
        raise RefusedError(Reason.NOT_CONFIRMED, "nothing was signed")


def _print(values: Mapping[str, Any], output: str) -> None:
    if output == "json":
        print_json(values)
        return
    _show(values)


def _show(values: Mapping[str, Any], *, err: bool = False) -> None:
    from appliance.cli.release_text import words

    lines = words(values)
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        click.echo(f"{name.ljust(width)}  {text}", err=err, file=sys.stderr if err else None)
