# SPDX-License-Identifier: Apache-2.0
"""``bsfg status``: both zones as their status documents tell it, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from appliance.boundary.errors import UnavailableError
from appliance.boundary.modes import Mode
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.output import age, dir_option, output_option, print_json, print_table

if TYPE_CHECKING:
    from appliance.node.status import CrossingReport, PeerStatus, StatusDocument

Documents = dict[ZoneId, "StatusDocument | UnavailableError"]

BOX_STATUS: Final = Path("/run/bsfg/status")
"""Where the services of a box tell how they are; on no other machine."""
_MODE_COLOURS = {Mode.NORMAL: "green", Mode.RECONCILING: "yellow", Mode.AUTONOMOUS: "yellow", Mode.QUARANTINED: "red"}


@click.command()
@dir_option(required=False)
@output_option("table", "json")
@click.pass_context
def status(ctx: click.Context, folder: Path | None, output: str) -> None:
    """Show how both zones are: mode, what has crossed and what waits, problems and what to do.

    On a box, where there is no --dir: how that box is, as `bsfg box status` shows it.

    Modes: normal (facts cross as they come), autonomous (the other side cannot be reached; local work goes on),
    reconciling (the backlog is being drained), quarantined. Ends with 3 when a zone is not ready, 5 when one is
    quarantined.
    """
    if folder is None:
        if not BOX_STATUS.is_dir():
            raise click.MissingParameter(ctx=ctx, param_hint="'--dir'", param_type="option")
        from appliance.cli.box import show

        show(Path("/"), "json" if output == "json" else "text")
        return
    documents = _read(folder)
    if output == "json":
        print_json({"zones": {zone: _as_json(document) for zone, document in documents.items()}})
    else:
        _print(documents)
    code = _exit_code(documents)
    if code is not ExitCode.OK:
        raise click.exceptions.Exit(code)


def _read(folder: Path) -> Documents:
    from appliance.dev.environment import Environment
    from appliance.dev.layout import NODE
    from appliance.dev.lock import is_running
    from appliance.dev.pids import ProcessIdentity
    from appliance.node.status import STALE_AFTER_S, StatusDocument

    environment = Environment.load(folder)
    layout = environment.layout
    documents: Documents = {}
    for zone in environment.zones:
        try:
            document = StatusDocument.read(layout.zone(zone).status_document)
            if document.age_s > STALE_AFTER_S:
                raise UnavailableError(Reason.NOT_READY, f"{NODE[zone]} last spoke {age(document.age_s)} ago")
            if ProcessIdentity.of(document.pid) is None:
                raise UnavailableError(Reason.NOT_READY, f"{NODE[zone]} (pid {document.pid}) has ended")
            documents[zone] = document
        except UnavailableError as error:
            # Nobody starts it again when there is no supervisor; then another hint is right.
            documents[zone] = error if is_running(layout) else UnavailableError(Reason.NOT_RUNNING, error.detail)
    return documents


def _exit_code(documents: Documents) -> ExitCode:
    found = [d for d in documents.values() if not isinstance(d, UnavailableError)]
    if any(document.mode == Mode.QUARANTINED for document in found):
        return ExitCode.QUARANTINED
    ready = len(found) == len(documents) and all(document.ready for document in found)
    return ExitCode.OK if ready else ExitCode.NOT_READY


def _as_json(document: StatusDocument | UnavailableError) -> dict[str, Any]:
    if isinstance(document, UnavailableError):
        error = {"reason": document.reason, "detail": document.detail, "hint": document.hint}
        return {"ready": False, "error": error}
    from dataclasses import asdict

    return asdict(document)


def _print(documents: Documents) -> None:
    rows = []
    for zone, document in documents.items():
        if isinstance(document, UnavailableError):
            rows.append([zone, click.style("not running", fg="red"), "", "", "", ""])
            continue
        broker = f"nats-server {document.broker.version}" if document.broker.connected else "not connected"
        rows.append(
            [
                zone,
                click.style(
                    document.mode, fg=_MODE_COLOURS.get(Mode(document.mode)) if document.mode in list(Mode) else None
                ),
                f"for {age(time.time() - document.mode_since_unix_ms / 1000)}",
                "ready" if document.ready else "starting",
                broker + (", durable" if document.broker.durable else ""),
                f"{document.name} {document.version}, {document.keys} keys",
            ]
        )
    print_table(["zone", "mode", "since", "state", "facts broker", "node"], rows)
    found = [d for d in documents.values() if not isinstance(d, UnavailableError)]
    _print_stores(found)
    _print_crossings(found)
    _print_boxes(found)
    _print_keys(found)
    _print_certificates(found)
    _print_problems(documents)


def _print_stores(documents: list[StatusDocument]) -> None:
    rows = [
        [d.zone, s.category, str(s.last_offset), str(s.stored), str(s.duplicate), str(s.conflict), str(s.invalid)]
        for d in documents
        for s in d.stores
    ]
    if rows:
        click.echo("\nfacts of each zone's own (counts since its node started)")
        headers = ["zone", "category", "last offset", "stored", "duplicate", "conflict", "invalid"]
        print_table(headers, rows, right=frozenset(headers[2:]))


def _print_crossings(documents: list[StatusDocument]) -> None:
    rows = [
        [*_direction(document.zone, crossing), crossing.category, *_progress(crossing)]
        for document in documents
        for crossing in document.crossings
    ]
    if rows:
        click.echo("\nfacts on their way between the zones")
        headers = [
            "from",
            "to",
            "category",
            "waiting",
            "crossed through",
            "confirmed through",
            "gaps",
            "peer",
            "last exchange",
        ]
        print_table(headers, rows, right=frozenset(headers[3:7]))


def _direction(zone: str, crossing: CrossingReport) -> tuple[str, str]:
    """From and to: the dialling side pulls what comes and pushes what goes."""
    return (crossing.peer, zone) if crossing.direction == "pull" else (zone, crossing.peer)


def _progress(crossing: CrossingReport) -> list[str]:
    last = crossing.last_exchange_unix_ms
    return [
        str(crossing.lag),
        str(crossing.offset),
        str(crossing.confirmed),
        str(crossing.gaps),
        "reached" if crossing.reachable else click.style("not reached", fg="yellow"),
        f"{age(time.time() - last / 1000)} ago" if last else "never",
    ]


def _print_boxes(documents: list[StatusDocument]) -> None:
    """What hubs know of their boxes."""
    rows = [
        [
            d.zone,
            p.zone,
            _heard(p),
            click.style(p.attestation, fg="green" if p.attestation == "fresh" else "red"),
            click.style(p.quarantine, fg="red" if p.quarantine == "quarantined" else "green") if p.quarantine else "-",
            p.quarantine_code or "-",
            p.evidence[:16] or "-",
        ]
        for d in documents
        for p in d.peers
        if p.attestation
    ]
    if rows:
        click.echo("\nboxes as their hub knows them")
        print_table(["hub", "zone", "last heard", "attestation", "quarantine", "reason", "evidence"], rows)


def _heard(peer: PeerStatus) -> str:
    if peer.silent_since_unix_ms:
        return click.style(f"silent for {age(time.time() - peer.silent_since_unix_ms / 1000)}", fg="yellow")
    last = peer.last_call_unix_ms
    return f"{age(time.time() - last / 1000)} ago" if last else "not yet"


def _print_keys(documents: list[StatusDocument]) -> None:
    rows = [
        [
            d.zone,
            d.keys,
            d.boundary.state if d.boundary.state == "ready" else click.style(d.boundary.state, fg="yellow"),
            d.boundary.time.replace("_", " "),
            str(d.boundary.counter) if d.boundary.counter is not None else "-",
            str(d.boundary.renewals),
            str(d.boundary.handshakes_accepted),
            _refused(d.boundary.handshakes_refused),
        ]
        for d in documents
    ]
    if not rows:
        return
    click.echo("\nwhat each zone can prove at the boundary (counts since its node started)")
    headers = ["zone", "keys", "state", "boundary time", "counter", "renewals", "handshakes", "refused"]
    print_table(headers, rows, right=frozenset(("counter", "renewals", "handshakes")))
    for notice in dict.fromkeys(d.boundary.notice for d in documents if d.boundary.notice):
        click.secho(notice, fg="yellow", bold=True)


def _refused(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "0"


def _print_certificates(documents: list[StatusDocument]) -> None:
    rows = [
        [
            d.zone,
            c.name,
            c.subject,
            _left(c.remaining_s),
            click.style(c.alarm, fg="red" if c.alarm == "ended" else "yellow") if c.alarm else "",
        ]
        for d in documents
        for c in d.certificates
    ]
    if rows:
        click.echo("\ncertificates")
        print_table(["zone", "certificate", "subject", "ends", "alarm"], rows)


def _left(remaining_s: int | None) -> str:
    if remaining_s is None:
        return "boundary time is not known"
    return f"in {age(remaining_s)}" if remaining_s > 0 else f"{age(-remaining_s)} ago"


def _print_problems(documents: Documents) -> None:
    problems: dict[tuple[str, str], list[str]] = {}
    for zone, document in documents.items():
        if isinstance(document, UnavailableError):
            problems[f"{zone}: {document}", document.hint] = []
            continue
        for p in document.problems:  # one cause often shows in many places
            problems.setdefault((f"{zone}: {p.reason} ({p.detail})", p.hint), []).append(p.where)
    click.echo("\nproblems" if problems else "\nno problems")
    for (text, hint), places in problems.items():
        where = ", ".join(place for place in places if place)
        click.echo(f"{text}{'; in ' + where if where else ''}\n  hint: {hint}")
