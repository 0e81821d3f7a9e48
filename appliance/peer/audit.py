# SPDX-License-Identifier: Apache-2.0
"""Every call leaves an audit record: who, what, how it ended (DESIGN: the contract)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
CANCELLED: Final = "cancelled"
"""The caller went away, or the server stopped, before there was an answer."""

_log = logging.getLogger("bsfg.audit")


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One call.

    ``caller`` is the proven zone or producer, or empty; ``outcome`` is ``ok``, ``cancelled`` or the stable reason of
    the refusal; ``facts`` counts those that came in or went out; ``ms`` is the time from request to answer.
    """

    caller: str
    method: str
    outcome: str
    facts: int
    ms: float


AuditHook = Callable[[AuditRecord], None]
"""Takes each record; must not block nor raise."""


def log_audit(record: AuditRecord) -> None:
    """Write a record to the logger ``bsfg.audit``, the record itself in its ``audit`` attribute."""
    _log.info(
        "%s by %s: %s, %d facts, %.1f ms",
        record.method,
        record.caller or "nobody known",
        record.outcome,
        record.facts,
        record.ms,
        extra={"audit": record},
    )
