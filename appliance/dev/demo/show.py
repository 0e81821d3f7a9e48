# SPDX-License-Identifier: Apache-2.0
"""Plays the demo in an environment of its own and shows its report as a plain table or as JSON."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import trio

from appliance.dev.audit import audit
from appliance.dev.demo.story import Report, Story, Tell, ZoneAudit
from appliance.dev.layout import ZONES, Layout
from appliance.dev.lifecycle import bring_down, start_detached

COLUMNS = ("direction", "sent", "stored", "duplicate", "rejected", "lost", "doubled", "digests", "lag")


def play(layout: Layout, tell: Tell, *, keep: bool) -> Report:
    """Bring two zones up, play the story, bring them down again; ``keep`` leaves the folder and the zones as they are.

    :raises BsfgError: the environment could not be started, or did not come to rest.
    """
    tell("starting two zones on this machine: six processes, everything on loopback")
    environment = start_detached(layout, lambda progress: None)
    try:
        report = asyncio.run(Story(environment, tell).run())
        audits = tuple(ZoneAudit.of(zone, trio.run(audit, environment, zone)) for zone in ZONES)
        return replace(report, audits=audits)
    finally:
        if not keep:
            bring_down(layout, remove=True)


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
        "keys": report.keys,
        "nats_server": report.broker,
    }


def as_table(report: Report) -> str:
    """The report as a plain table for people."""
    rows = [COLUMNS, *(tuple(str(cell) for cell in row) for row in _rows(report))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    modes = ", ".join(f"{mode} at {at:.1f} s" for at, mode in report.modes)
    digests = {d.name: d.comparison.own.digest for d in report.directions}
    lines += [
        "",
        *(f"sha256 over {name}, both logs: {digest[:32]}…" for name, digest in digests.items()),
        f"mode changes of plant-a: {modes}",
        f"processes killed (-9) in mid-transfer: {report.kills}; caught up {report.catch_up_s:.1f} s after the cut",
        *(line for zone in report.audits for line in _audit_lines(zone)),
        f"keys: {report.keys} (files of a development CA, not a TPM); link: simulated; nats-server {report.broker}",
        f"{'everything held' if report.proven else 'SOMETHING DID NOT HOLD'}, in {report.seconds:.0f} s",
    ]
    return "\n".join(lines)


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
