# SPDX-License-Identifier: Apache-2.0
"""What a check found, in words: for the terminal, for the file that goes with the box, for programs. Pure."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from appliance.firmware.check import Finding, Status
from appliance.firmware.facts import Machine
from appliance.firmware.profile import Profile

WIDTH: Final = 100


def summary(findings: Sequence[Finding]) -> str:
    """One line: how many of each kind."""
    count = Counter(finding.status for finding in findings)
    words = {
        Status.DIFFERS: "to change",
        Status.UNKNOWN: "not checkable",
        Status.ASK: "to look at",
        Status.OK: "as they should be",
    }
    return ", ".join(f"{count[status]} {word}" for status, word in words.items() if count[status])


def differing(findings: Sequence[Finding]) -> str:
    """The names of what keeps the box from being accepted; empty: nothing does."""
    return ", ".join(finding.setting for finding in findings if not finding.good)


def advice(finding: Finding) -> list[str]:
    """What to do about one finding, line by line; empty: nothing."""
    if finding.status is Status.OK:
        return []
    lines = []
    if finding.status is Status.ASK:
        lines += _part("look", finding.demand.question or "is it as wanted?")
    if finding.status is Status.UNKNOWN:
        lines += _part("look", finding.demand.question or "run this as root on the box itself, then check again")
    lines += _part("do" if finding.status is Status.DIFFERS else "if not", finding.demand.change)
    if finding.status is Status.DIFFERS:
        lines += _part("why", finding.demand.why)
    return lines


def render(profile: Profile, machine: Machine, findings: Sequence[Finding], when: datetime) -> str:
    """The report for a file: everything, with room for the answers of whoever stood before the box."""
    lines = [
        "Firmware of a box, compared with its profile",
        "",
        f"machine   {machine.vendor} {machine.product}".rstrip(),
        f"firmware  {machine.firmware}".rstrip(),
        f"profile   {profile.name}: {profile.title}",
        f"          {f'tried on: {profile.verified}' if profile.verified else 'a template, not tried on hardware'}",
        f"when      {when:%Y-%m-%d %H:%M} UTC",
        f"result    {summary(findings)}",
    ]
    for finding in findings:
        lines += ["", f"[{finding.status}] {finding.setting}: {finding.wanted}"]
        if finding.found:
            lines += _part("found", finding.found)
        lines += advice(finding)
        if finding.status in {Status.ASK, Status.UNKNOWN}:
            lines.append("  answer  ______________________________")
    lines += ["", "looked at by ______________________________   on ______________________________"]
    return "\n".join(lines) + "\n"


def document(profile: Profile, machine: Machine, findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "profile": profile.name,
        "template": profile.template,
        "machine": {"vendor": machine.vendor, "product": machine.product, "firmware": machine.firmware},
        "good": all(finding.good for finding in findings),
        "settings": [
            {
                "setting": finding.setting,
                "status": finding.status,
                "wanted": finding.wanted,
                "found": finding.found,
                "why": finding.demand.why,
                "change": finding.demand.change,
                "question": finding.demand.question,
            }
            for finding in findings
        ],
    }


def _part(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {name:6}  ", subsequent_indent=" " * 10)
