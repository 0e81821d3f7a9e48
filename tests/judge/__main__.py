# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.judge HISTORY.jsonl...``: judge recorded histories and print a plain table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.judge.codec import load
from tests.judge.events import HistoryError
from tests.judge.judge import check
from tests.judge.verdict import Invariant, Verdict

SHOWN = 20
"""How many violations of one invariant are printed."""


def render(verdict: Verdict, places: Sequence[str]) -> str:
    """The verdict as plain text; ``places`` names the place of each event."""
    counts = verdict.counts
    rows: list[tuple[str, object]] = [
        ("events", counts.events),
        ("facts", counts.facts),
        ("calls", counts.appended),
        ("  acknowledged", counts.acked),
        ("  of them duplicates", counts.duplicates),
        *((f"  refused {reason}", number) for reason, number in counts.refused.items()),
        ("  outcome unknown", counts.info),
        *((f"read in {zone}", number) for zone, number in counts.read.items()),
        ("lost", counts.lost),
        ("doubled", counts.doubled),
        ("gap records", counts.gaps),
        ("dead letters", counts.dead_letters),
        ("receipts", counts.confirms),
        ("snapshots", counts.snapshots),
        ("faults", counts.faults),
        ("disasters", counts.disasters),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value:>9}" for name, value in rows]
    lines.append("")
    for invariant in Invariant:
        total = verdict.totals.get(invariant, 0)
        lines.append(f"{invariant:<4} {invariant.meaning:<38} {f'{total} VIOLATIONS' if total else 'holds'}")
    for invariant in Invariant:
        found = [v for v in verdict.violations if v.invariant is invariant][:SHOWN]
        for violation in found:
            where = ", ".join(places[line - 1] for line in violation.lines)
            lines.append(f"{invariant}: {violation.text} [{where}]")
        more = verdict.totals.get(invariant, 0) - len(found)
        if more > 0:
            lines.append(f"{invariant}: and {more} more")
    lines.extend(f"not proven: {text}" for text in verdict.unproven)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge and print. Exit code 0: all holds. 1: a violation. 2: cannot be judged, or unproven without --partial."""
    parser = argparse.ArgumentParser(prog="python -m tests.judge", description="Judge recorded histories.")
    parser.add_argument("history", nargs="+", type=Path, help="JSON Lines files of one run; merged by time")
    parser.add_argument("--partial", action="store_true", help="accept a history that leaves something unproven")
    options = parser.parse_args(arguments)
    try:
        placed = load(options.history)
        verdict = check(item.event for item in placed)
    except (HistoryError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"the history cannot be judged: {error}\n")
        return 2
    sys.stdout.write(render(verdict, [item.place for item in placed]) + "\n")
    if not verdict.ok:
        return 1
    return 2 if verdict.unproven and not options.partial else 0


if __name__ == "__main__":
    raise SystemExit(main())
