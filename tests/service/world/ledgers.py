# SPDX-License-Identifier: Apache-2.0
"""What the ledgers tell an auditor: receipts, and what happened to logs. Read-only, beside the process that writes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason


@dataclass(frozen=True, slots=True)
class SeenReceipt:
    """One receipt as it stands in a ledger."""

    origin: str
    category: str
    epoch: str
    receiver: str
    offset: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A range of an origin's log that an operator is told will never come; ``last`` open when nobody can know it."""

    origin: str
    category: str
    epoch: str
    first: int
    last: int | None
    reason: str


def receipts(ledger: Path) -> list[SeenReceipt]:
    """Every receipt a zone keeps, by rising offset."""
    rows = _query(ledger, "SELECT origin, category, hex(epoch), receiver, offset FROM receipts ORDER BY offset")
    return [
        SeenReceipt(origin, category, epoch.lower(), receiver, offset)
        for origin, category, epoch, receiver, offset in rows
    ]


_GAPS: Final = """
SELECT logs.origin, logs.category, hex(logs.epoch), gap.offset, gap.outcome,
       (SELECT max(before.offset) FROM facts AS before WHERE before.log = gap.log AND before.offset < gap.offset)
FROM facts AS gap JOIN logs ON logs.id = gap.log WHERE gap.outcome IN ('retention', 'log_lost')
"""


def ended(ledger: Path, zone: ZoneId) -> list[Ended]:
    """What a zone's operator is told will never come: gaps of its peers' logs, and logs that were lost."""
    found = [
        Ended(origin, category, epoch.lower(), (before or 0) + 1, last, reason)
        for origin, category, epoch, last, reason, before in _query(ledger, _GAPS)
    ]
    for reason, text in _query(ledger, "SELECT reason, facts FROM incidents ORDER BY id"):
        facts = json.loads(text)
        if reason == Reason.LOG_LOST:
            span = (int(facts["first"]), int(facts["last"]))
            found.append(Ended(zone, facts["category"], facts["epoch"], *span, reason))
        elif reason == Reason.LOG_DIVERGED and "ended" in facts:
            after = int(facts["after"])
            found.append(Ended(facts["peer"], facts["category"], facts["ended"], after + 1, None, reason))
    return found


def incidents(ledger: Path) -> list[str]:
    """The reasons of all incidents a zone keeps, oldest first."""
    return [reason for (reason,) in _query(ledger, "SELECT reason FROM incidents ORDER BY id")]


def _query(ledger: Path, query: str) -> list[Any]:
    if not ledger.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # it is just being made
            return []
        raise
