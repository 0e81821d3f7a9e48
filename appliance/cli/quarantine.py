# SPDX-License-Identifier: Apache-2.0
"""``bsfg quarantine``: how this box stands, put it into quarantine, and hand in the release of both operators.

All of it asks the watchdog, on its own socket: nothing here cuts or locks anything by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.files import FILE
from appliance.cli.output import F, output_option, print_json

SOCKET: Final = Path("/run/bsfg/watchdog/watchdog.sock")
_FREE: Final = "none"
_HEADLINES: Final = {
    "none": "NOT IN QUARANTINE",
    "quarantined": "IN QUARANTINE: nothing leaves this box; local producers and consumers go on",
    "in_doubt": "IN DOUBT: nothing leaves this box until the TPM has answered; local producers and consumers go on",
    "released": "RELEASED: nothing leaves this box until it is started again; local producers and consumers go on",
}


def socket_option() -> Callable[[F], F]:
    """The option ``--socket``."""
    return click.option(
        "--socket",
        default=SOCKET,
        show_default=True,
        envvar="BSFG_WATCHDOG",
        type=FILE,
        help="The watchdog's socket (or the variable BSFG_WATCHDOG).",
    )


@click.group()
def quarantine() -> None:
    """See whether this box is in quarantine, put it there, and release it."""


@quarantine.command()
@socket_option()
@output_option("text", "json")
def status(socket: Path, output: str) -> None:
    """Say whether this box is in quarantine: why, since when, what was done, and what to do next.

    Ends with 0 when it is not, and with 5 when nothing may leave it: in quarantine, in doubt, or released and not yet
    started again.
    """
    _show(_ask(socket, op="status"), output)


@quarantine.command()
@click.option("--reason", required=True, help="Why, in one line; it stands in the evidence.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
@socket_option()
@output_option("text", "json")
def enter(reason: str, yes: bool, dry_run: bool, socket: Path, output: str) -> None:
    """Put this box into quarantine: its uplink goes dark and the TPM locks its boundary key.

    Only two operators can undo it, and only at the box. Local producers and consumers go on.
    """
    if dry_run:
        values = _ask(socket, op="status")
        click.echo(f"dry run: {_consequence(values)}; nothing was done", err=True)
        _show(values, output)
        return
    _confirm(yes=yes)
    _show(_ask(socket, op="enter", reason=reason), output)


@quarantine.command()
@click.argument("release_file", metavar="RELEASE", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check what can be checked here, and hand nothing in.")
@socket_option()
@output_option("text", "json")
def release(release_file: Path, dry_run: bool, socket: Path, output: str) -> None:
    """Hand in RELEASE, which two operators have signed over the evidence of this quarantine; "-" is standard input.

    The watchdog compares evidence and counter, the TPM checks the signatures. Then the box waits to be started again,
    and speaks when everything is proven anew.
    """
    from appliance.keys.release import MAXIMUM_BYTES, Release

    try:
        with click.open_file(str(release_file), "rb") as file:
            data = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{release_file}: {error.strerror}") from error
    found = Release.parse(data)
    if dry_run:
        values = _ask(socket, op="status")
        _compare(found.evidence.hex(), found.counter, len(found.signatures), values["quarantine"])
        click.echo("dry run: it is for this quarantine; the TPM has not checked the signatures", err=True)
        _show(values, output)
        return
    _show(_ask(socket, op="release", document=data.decode("ascii")), output)


def _ask(socket: Path, **request: str) -> dict[str, Any]:
    import trio

    from appliance.watchdog.desk import ask

    async def asked() -> dict[str, Any]:
        return await ask(socket, **request)

    return trio.run(asked)


def _confirm(*, yes: bool) -> None:
    """Say what it does, and ask. :raises RefusedError: ``not_confirmed``."""
    click.echo("The uplink goes dark and the TPM locks the boundary key. Only two operators can undo it.", err=True)
    if yes:
        return
    try:
        agreed = click.confirm("Put this box into quarantine?", default=False, err=True)
    except click.Abort:
        agreed = False
    if not agreed:
        raise RefusedError(Reason.NOT_CONFIRMED, "nothing was done")


def _consequence(values: Mapping[str, Any]) -> str:
    phase = values["quarantine"]["phase"]
    return "the uplink would go dark and the TPM would lock the key" if phase == _FREE else f"it is {phase} already"


def _compare(evidence: str, counter: int, signatures: int, stands: Mapping[str, Any]) -> None:
    """:raises RefusedError, DeniedError: the release is not for this quarantine."""
    if stands["phase"] != "quarantined":
        raise RefusedError(Reason.NOT_QUARANTINED, f"it is {stands['phase']}")
    if stands["evidence"] != evidence:
        raise DeniedError(Reason.BAD_RELEASE, f"over evidence {evidence[:16]}, not {stands['evidence'][:16] or 'any'}")
    if stands["counter"] != counter:
        raise DeniedError(Reason.BAD_RELEASE, f"it is for counter {counter}; here it is {stands['counter']}")
    if signatures != 2:
        raise DeniedError(Reason.BAD_RELEASE, f"{signatures} of 2 operators have signed")


def _show(values: Mapping[str, Any], output: str) -> None:
    stands = values["quarantine"]
    if output == "json":
        print_json({**stands, "state": values["state"], "notes": values["notes"], "problems": values["problems"]})
    else:
        click.echo("\n".join(_lines(stands)))
        for note in values["notes"]:
            click.echo("\n".join(_note(note)))
    if stands["phase"] != _FREE:
        raise click.exceptions.Exit(ExitCode.QUARANTINED)


def _lines(stands: Mapping[str, Any]) -> Iterator[str]:
    from appliance.console.page import moment, span

    yield _HEADLINES.get(stands["phase"], stands["phase"])
    if stands.get("code"):
        detail = f" ({stands['detail']})" if stands["detail"] else ""
        yield f"  why       {stands['code']}: {stands['cause']}{detail}"
        if stands["since_unix_ms"]:
            since = stands["since_unix_ms"] / 1000
            yield f"  since     {moment(since)} UTC by this box's clock, {span(time.time() - since)} ago"
        yield f"  counter   {stands['counter'] if stands['counter'] is not None else 'not yet known'}"
        yield f"  evidence  {stands['evidence'] or 'not yet complete'}"
        if stands.get("request"):
            yield f"  request   {stands['request']}"
        for step in stands["steps"]:
            yield f"  {step['step']:<9} {_step(step)}"
    for name in ("cut_problem", "unwritten"):
        if stands.get(name):
            yield f"  problem   {stands[name]}"
    if stands.get("next_step"):
        yield f"  do        {stands['next_step']}"
    for step in stands.get("way_out", ()):
        yield f"            {step}"


def _step(step: Mapping[str, Any]) -> str:
    if step["done"]:
        return f"done in {step['took_us'] / 1000:.1f} ms" + (f", attempt {step['tries']}" if step["tries"] > 1 else "")
    return f"not yet: {step['problem']}, {step['tries']} attempts" if step.get("problem") else "not yet"


def _note(note: Mapping[str, Any]) -> Iterator[str]:
    from appliance.console.page import moment

    lasts = "" if note["lasts"] else ", over"
    detail = f" ({note['detail']})" if note["detail"] else ""
    since = moment(note["since_unix_ms"] / 1000)
    yield f"  note      {note['code']}: {note['cause']}{detail}, {note['count']} times since {since} UTC{lasts}"
    yield f"            {note['next_step']}"
