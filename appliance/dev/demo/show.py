# SPDX-License-Identifier: Apache-2.0
"""Plays the demo in an environment of its own and shows its report as a plain table or as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import trio

from appliance.boundary.errors import BsfgError, first_error
from appliance.dev.audit import audit
from appliance.dev.demo.boxes import LatchAct, ZoneKeys
from appliance.dev.demo.story import SESSION_S, Report, Story, Tell, ZoneAudit
from appliance.dev.layout import ZONES, KeysChoice, Layout, ProcessName
from appliance.dev.lifecycle import bring_down, start_detached

KEY_COLUMNS = ("zone", "boundary key in", "certified", "handshakes", "refused", "renewals")
COLUMNS = ("direction", "sent", "stored", "duplicate", "rejected", "lost", "doubled", "digests", "lag")


def play(layout: Layout, tell: Tell, *, keep: bool) -> Report:
    """Bring two zones up, play the story, bring them down again; ``keep`` leaves the folder and the zones as they are.

    :raises BsfgError: the environment could not be started, or did not come to rest.
    """
    tell(f"starting two zones on this machine, {len(ProcessName)} processes, everything on loopback")
    tell(f"keys: {KeysChoice.SWTPM.about}; each zone's box is made, enrolled and given its certificate now")
    environment = start_detached(layout, lambda progress: None, KeysChoice.SWTPM, SESSION_S)
    try:
        report = _told(Story(environment, tell))
        audits = tuple(ZoneAudit.of(zone, trio.run(audit, environment, zone)) for zone in ZONES)
        return replace(report, audits=audits)
    finally:
        if not keep:
            bring_down(layout, remove=True)


def _told(story: Story) -> Report:
    """The report of a story. :raises BsfgError: what went wrong, not in the groups of its tasks."""
    failed: BsfgError | None = None
    try:
        return asyncio.run(story.run())
    except* BsfgError as errors:
        failed = first_error(errors)
    raise failed  # not in the clause above: what is raised there comes out as a group


def as_document(report: Report) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "proven": report.proven,
        "directions": [dict(zip(COLUMNS, row, strict=True)) for row in _rows(report)],
        "mode_changes": [{"at_s": round(at, 1), "mode": mode} for at, mode in report.modes],
        "processes_killed": report.kills,
        "conflicting_duplicate": report.conflict,
        "catch_up_s": round(report.catch_up_s, 1),
        "audit": {
            zone.zone: {
                "facts": zone.facts,
                "receipts": zone.receipts,
                "countersigned": zone.countersigned,
                "intact": zone.intact,
                "findings": list(zone.findings),
            }
            for zone in report.audits
        },
        "seconds": round(report.seconds, 1),
        "keys": {
            keys.zone: {
                "held_by": keys.held_by,
                "boundary_key_certified": keys.certified,
                "tpm_vendor": keys.vendor,
                "counter_at_enrolment": keys.counter,
                "sessions_renewed": keys.renewals,
                "handshakes_accepted": keys.accepted,
                "handshakes_refused": keys.refused,
            }
            for keys in report.keys
        },
        "impostors": [asdict(attempt) for attempt in report.impostors],
        "latch": asdict(report.latched),
        "nats_server": report.broker,
    }


def as_table(report: Report) -> str:
    """The report as a plain table for people."""
    lines = _table(COLUMNS, _rows(report))
    modes = ", ".join(f"{mode} at {at:.1f} s" for at, mode in report.modes)
    digests = {d.name: d.comparison.own.digest for d in report.directions}
    lines += [
        "",
        *(f"sha256 over {name}, both logs: {digest[:32]}…" for name, digest in digests.items()),
        f"mode changes of plant-a: {modes}",
        f"processes killed (-9) in mid-transfer: {report.kills}; caught up {report.catch_up_s:.1f} s after the cut",
        *(line for zone in report.audits for line in _audit_lines(zone)),
        "",
        *_table(KEY_COLUMNS, [_key_row(keys) for keys in report.keys]),
        "",
        "certified: the TPM's attestation key certified the boundary key, and the hub checked that at enrolment",
        *(f"TPM of {keys.zone}, on the hub's record: made by {keys.vendor}" for keys in report.keys),
        *(f"impostor with {attempt.who}: {attempt.verdict}" for attempt in report.impostors),
        _latch_line(report.latched),
        f"keys: {KeysChoice.SWTPM.about}; simulated: TPM vendor, boot, link; nats-server {report.broker}",
        f"{'everything held' if report.proven else 'SOMETHING DID NOT HOLD'}, in {report.seconds:.0f} s",
    ]
    return "\n".join(lines)


def _table(columns: Sequence[str], cells: Sequence[Sequence[str | int]]) -> list[str]:
    """Plain text; the first column stands left, numbers and words of the others right."""
    rows = [tuple(columns), *(tuple(str(cell) for cell in row) for row in cells)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _key_row(keys: ZoneKeys) -> tuple[str | int, ...]:
    certified = "yes" if keys.certified else "NO"
    return (keys.zone, keys.held_by, certified, keys.accepted, keys.refused, keys.renewals)


def _latch_line(act: LatchAct) -> str:
    if not act.held:
        return "latch: DID NOT HOLD"
    return (
        f"latch: silent {act.silent_s:.1f} s after the TPM refused the key, {act.stored} readings stored meanwhile,"
        f" all crossed {act.back_s:.1f} s after the release by two operators"
    )


def _audit_lines(zone: ZoneAudit) -> list[str]:
    """What the audit of a zone says, from its own logs, ledger and keys alone."""
    receipts = f"{zone.receipts} receipts verified ({zone.countersigned} countersigned)"
    verdict = "intact" if zone.intact else "NOT INTACT"
    summary = f"audit of {zone.zone}: {zone.facts} facts re-hashed, {receipts}: {verdict}"
    return [summary, *(f"  {finding}" for finding in zone.findings)]


def _rows(report: Report) -> list[tuple[str | int, ...]]:
    return [
        (
            direction.name,
            direction.sent,
            direction.stored,
            direction.duplicate,
            direction.rejected,
            direction.comparison.lost,
            direction.comparison.doubled,
            "equal" if direction.comparison.equal else "DIFFER",
            direction.lag,
        )
        for direction in report.directions
    ]
