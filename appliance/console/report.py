# SPDX-License-Identifier: Apache-2.0
"""The page for programs: the same model and judgement, as values for JSON."""

from __future__ import annotations

from typing import Any, Final

from appliance.boundary.reasons import ExitCode
from appliance.console.codes import Overall
from appliance.console.documents import as_json
from appliance.console.judgement import Finding, Judgement
from appliance.console.model import Box
from appliance.console.steps import next_steps
from appliance.console.texts import Texts

SCHEMA: Final = 1

EXIT_CODES: Final = {
    Overall.QUARANTINED: ExitCode.QUARANTINED,
    Overall.RELEASED: ExitCode.QUARANTINED,
    Overall.NOT_CONFIGURED: ExitCode.NOT_READY,
    Overall.STARTING: ExitCode.NOT_READY,
    Overall.STOPPED: ExitCode.NOT_READY,
    Overall.TROUBLE: ExitCode.FAILURE,
    Overall.REFUSED: ExitCode.DENIED,
    Overall.WAITING: ExitCode.NOT_READY,
    Overall.NOT_ENROLLED: ExitCode.NOT_READY,
    Overall.ON_ITS_OWN: ExitCode.OK,
    Overall.CATCHING_UP: ExitCode.OK,
    Overall.AIR_GAPPED: ExitCode.OK,
    Overall.WORKING: ExitCode.OK,
}
"""A box that works on its own does what it is there for."""


def report(box: Box, judgement: Judgement, texts: Texts) -> dict[str, Any]:
    """Everything that is known; moments in Unix milliseconds, ``null`` where they are not known."""
    return {
        "schema": SCHEMA,
        "state": judgement.overall,
        "since_unix_ms": _ms(judgement.since_unix_s),
        "zone": box.zone,
        "do": " ".join(next_steps(box, judgement, texts)),
        "steps": list(next_steps(box, judgement, texts)),
        "works": list(judgement.works),
        "stopped": list(judgement.stopped),
        "unknown": list(judgement.unknown),
        "problems": [_problem(finding, texts) for finding in judgement.findings],
        "box": as_json(box),
    }


def _problem(finding: Finding, texts: Texts) -> dict[str, Any]:
    text = texts.finding(finding.code, quarantines=finding.quarantines)
    return {
        "reason": finding.code,
        "rank": finding.rank.name.lower(),
        "what": text.what,
        "detail": finding.detail,
        "do": text.do,
        "sources": list(finding.sources),
        "count": finding.count,
        "since_unix_ms": _ms(finding.since_unix_s),
    }


def _ms(moment: float | None) -> int | None:
    return None if moment is None else int(moment * 1000)
