# SPDX-License-Identifier: Apache-2.0
"""Since when something is so, where nobody else says: since this page saw it first."""

from __future__ import annotations

from dataclasses import replace

from appliance.console.judgement import Judgement
from appliance.console.model import Box


class Memory:
    """Fills in moments that a judgement lacks. What was there at the first look has no beginning that is known."""

    def __init__(self) -> None:
        self._first: dict[str, float | None] = {}
        """By code: uptime when it was seen first."""
        self._looked = False

    def complete(self, box: Box, judgement: Judgement) -> Judgement:
        """The judgement, with the moments that this page knows."""
        codes = {f"state {judgement.overall}", *(finding.code for finding in judgement.findings)}
        begun = box.uptime_s if self._looked else None
        self._first = {code: self._first.get(code, begun) for code in codes}
        self._looked = True

        def since(code: str, known: float | None) -> float | None:
            first = self._first[code]
            return known if known is not None or first is None else box.now_unix_s - (box.uptime_s - first)

        return replace(
            judgement,
            since_unix_s=since(f"state {judgement.overall}", judgement.since_unix_s),
            findings=tuple(
                replace(finding, since_unix_s=since(finding.code, finding.since_unix_s))
                for finding in judgement.findings
            ),
        )
