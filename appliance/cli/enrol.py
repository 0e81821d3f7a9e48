# SPDX-License-Identifier: Apache-2.0
"""``bsfg enrol``: make this box a zone of a hub, through the network or with files on a stick. Runs on the box."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.files import FILE, FOLDER, read, write
from appliance.cli.output import output_option, print_json

if TYPE_CHECKING:
    from appliance.boundary.errors import BsfgError
    from appliance.keys.enrolment.boxside import Papers
    from appliance.keys.enrolment.documents import Grant, Pending

F = TypeVar("F", bound=Callable[..., Any])


def keeper_option() -> Callable[[F], F]:
    """The option ``--keeper``."""
    return click.option(
        "--keeper",
        "socket",
        required=True,
        envvar="BSFG_KEEPER",
        type=FILE,
        help="The socket of this box's keeper (or the variable BSFG_KEEPER).",
    )


def pki_option() -> Callable[[F], F]:
    """The option ``--pki``."""
    return click.option(
        "--pki",
        required=True,
        type=FOLDER,
        help="This box's folder of certificates; the hub CA's certificate (hub-ca.pem) is in it already.",
    )


def papers_options() -> Callable[[F], F]:
    """The options ``--voucher`` and ``--release``."""

    def add(command: F) -> F:
        command = click.option("--release", type=FILE, help="A release, if this box was in quarantine.")(command)
        return click.option("--voucher", type=FILE, help="A voucher of an enrolment operator.")(command)

    return add


@click.group()
def enrol() -> None:
    """Make this box a zone of a hub: by network, or with files on a stick."""


@enrol.command()
@keeper_option()
@output_option("text", "json")
def fingerprint(socket: Path, output: str) -> None:
    """Show the fingerprint of this box's TPM, which vouchers and approvals name."""
    import trio

    from appliance.cli import enrol_keeper

    shown, certified = trio.run(enrol_keeper.fingerprint, socket)
    if output == "json":
        print_json({"fingerprint": shown, "certified": certified})
        return
    click.echo(shown)
    if not certified:
        click.echo("this TPM has no endorsement certificate: no hub will enrol it", err=True)


@enrol.command()
@keeper_option()
@pki_option()
@papers_options()
@click.option("--out", "out_file", required=True, type=FILE, help="The request to carry to the hub.")
@output_option("text", "json")
def request(socket: Path, pki: Path, voucher: Path | None, release: Path | None, out_file: Path, output: str) -> None:
    """Write a request for the stick. At the hub: 'bsfg hub answer'; back here: 'bsfg enrol answer'."""
    import trio

    from appliance.cli import enrol_keeper

    asked, document = trio.run(enrol_keeper.request, socket, _papers(voucher, release))
    write(pki / enrol_keeper.REQUEST_FILE, document)
    write(out_file, document)
    _say({"zone": asked.zone, "fingerprint": asked.fingerprint, "file": str(out_file)}, output)


@enrol.command()
@click.argument("file", type=FILE)
@keeper_option()
@pki_option()
@click.option("--out", "out_file", type=FILE, help="The proof to carry to the hub, if FILE is a challenge.")
@output_option("text", "json")
def answer(file: Path, socket: Path, pki: Path, out_file: Path | None, output: str) -> None:
    """Take the hub's answer in FILE: prove what it asks, or take what it grants."""
    import trio

    from appliance.cli import enrol_keeper
    from appliance.keys.enrolment.documents import Challenge, parse_answer
    from appliance.keys.folder import PkiFolder

    document = read(file)
    if isinstance(parse_answer(document), Challenge) and out_file is None:
        raise RefusedError(Reason.BAD_INPUT, "that is a challenge: say with --out where the proof shall go")
    asked = read(pki / enrol_keeper.REQUEST_FILE)
    outcome = trio.run(enrol_keeper.answer, socket, PkiFolder(pki), asked, document)
    if isinstance(outcome, bytes) and out_file is not None:
        write(out_file, outcome)
        _say({"state": "proof", "file": str(out_file)}, output)
    elif not isinstance(outcome, bytes):
        _end(outcome, output)


@enrol.command()
@keeper_option()
@pki_option()
@click.option("--hub", "hub_address", required=True, metavar="HOST:PORT", help="The hub's trust service.")
@click.option("--hub-zone", required=True, help="The hub's zone.")
@papers_options()
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Seconds to wait.")
@output_option("text", "json")
def run(
    socket: Path,
    pki: Path,
    hub_address: str,
    hub_zone: str,
    voucher: Path | None,
    release: Path | None,
    wait_s: float,
    output: str,
) -> None:
    """Enrol through the network. With --wait, ask again until the hub has decided, or the time is over."""
    import trio

    from appliance.cli import enrol_keeper
    from appliance.keys.folder import PkiFolder

    outcome = trio.run(
        enrol_keeper.run,
        socket,
        PkiFolder(pki),
        _address(hub_zone, hub_address),
        _papers(voucher, release),
        wait_s,
        lambda state: click.echo(_waiting(state), err=True),
    )
    _end(outcome, output)


@enrol.command()
@keeper_option()
@output_option("text", "json")
def status(socket: Path, output: str) -> None:
    """Say whether this box is enrolled, as its keeper knows it."""
    import trio

    from appliance.cli import enrol_keeper
    from appliance.keys.keeper.port import KeeperState

    found = trio.run(enrol_keeper.status, socket)
    outside = {KeeperState.NOT_ENROLLED, KeeperState.NOT_PROVISIONED}
    values = {"zone": found.zone, "keys": found.kind, "state": found.state.value, "problem": found.problem}
    _say({**values, "enrolled": "no" if found.state in outside else "yes"}, output)
    if found.state in outside:
        raise click.exceptions.Exit(ExitCode.NOT_READY)


def _end(outcome: Grant | Pending, output: str) -> None:
    """Print what came of it; waiting is not ready yet."""
    from appliance.keys.enrolment.documents import Pending

    if isinstance(outcome, Pending):
        _say({"state": "pending", "zone": outcome.zone, "waits for": outcome.waits.value}, output)
        click.echo(_waiting(outcome), err=True)
        raise click.exceptions.Exit(ExitCode.NOT_READY)
    _say({"state": "enrolled", "zone": outcome.zone, "hub": outcome.hub}, output)


def _waiting(state: Pending | BsfgError) -> str:
    from appliance.keys.enrolment.documents import Pending, Waits

    if not isinstance(state, Pending):
        return f"the hub cannot be asked now: {state}"
    if state.waits is Waits.AUTHORITY:
        return "approved; the hub waits for the site's PKI"
    return f"waits for an operator at the hub: bsfg hub approve {state.fingerprint}"


def _papers(voucher: Path | None, release: Path | None) -> Papers:
    from appliance.keys.enrolment.boxside import Papers

    return Papers(read(voucher) if voucher else b"", read(release) if release else b"")


def _address(zone: str, text: str) -> tuple[ZoneId, str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RefusedError(Reason.BAD_INPUT, f"--hub {text!r}: HOST:PORT")
    return parse_zone(zone), host.strip("[]"), int(port)


def _say(values: dict[str, Any], output: str) -> None:
    if output == "json":
        print_json(values)
        return
    width = max(map(len, values))
    for name, value in values.items():
        click.echo(f"{name.ljust(width)}  {value}")
