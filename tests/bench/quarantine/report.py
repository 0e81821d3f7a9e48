# SPDX-License-Identifier: Apache-2.0
"""What came out: a table for people, raw figures, and the distribution as a picture."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from tests.bench.figures import percentile
from tests.bench.quarantine.trials import Trial

K = TypeVar("K")
T = TypeVar("T")
STOPPED_MS: Final = 6_000.0
_WIDTH, _HEIGHT, _MARGIN = 720, 300, 48


@dataclass(frozen=True, slots=True)
class Stopped:
    """A watchdog that was stopped. :param how: killed, stopped (SIGSTOP), ended (SIGTERM); or what of it hangs.

    :param before: leased frames of the healthy box. :param last_ms: until the last frame that needs the lease.
    """

    how: str
    before: int
    last_ms: float


def report(trials: Sequence[Trial], stopped: Sequence[Stopped], file: Path, plot: Path | None) -> int:
    """Print everything; the exit code: 1 if a trial was not as it must be."""
    bad = [each for each in trials if not each.good]
    print(machine())
    print(f"\n{len(trials) + len(stopped)} injections: {len(stopped)} watchdogs stopped, ", end="")
    print(f"{len(trials)} trials of {len({(each.expected, each.kind) for each in trials})} kinds, ", end="")
    print(f"{len({each.expected for each in trials})} codes; found for what they are, and silent afterwards: ", end="")
    print(f"{len(trials) - len(bad)}; frames later than 1 ms after the cut: {sum(each.after for each in trials)}\n")
    for line in table(trials):
        print(line)
    for how, found in sorted(_by(stopped, lambda each: each.how).items()):
        times = [each.last_ms for each in found]
        print(f"watchdog: {how:14} {len(found):4} times: last leased frame after {max(times):7.0f} ms at most")
    for each in bad[:20]:
        print(f"NOT AS IT MUST BE: {each}")
    raw = {"trials": [asdict(each) for each in trials], "stopped": [asdict(each) for each in stopped]}
    file.write_text(json.dumps({"machine": machine(), **raw}, indent=1) + "\n", "utf-8")
    if plot is not None:
        plot.write_text(picture(trials, stopped), "utf-8")
    return 1 if bad or any(not each.before or each.last_ms > STOPPED_MS for each in stopped) else 0


def machine() -> str:
    """Where it was."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, load {load}, {platform.system()} {platform.release()}, {time.strftime('%Y-%m-%d')}"


def table(trials: Sequence[Trial]) -> list[str]:
    """One line for each code, then one for each way of seeing."""
    head = f"{'code':26} {'seen by':7} {'done':9} {'trials':>6} {'p50 ms':>8} {'p99 ms':>8} {'most ms':>8}"
    lines = [head, "-" * len(head)]
    for (code, event, real), found in sorted(_by(trials, lambda each: (each.expected, each.event, each.real)).items()):
        lines.append(_line(code, "event" if event else "asking", "really" if real else "simulated", found))
    for event, found in sorted(_by(trials, lambda each: each.event).items(), reverse=True):
        lines.append(_line("ALL", "event" if event else "asking", "", found))
    return lines


def _line(code: str, way: str, done: str, found: Sequence[Trial]) -> str:
    times = [each.last_ms for each in found if each.last_ms is not None]
    if not times:
        return f"{code:26} {way:7} {done:9} {len(found):6} not found"
    figures = (percentile(times, 0.5), percentile(times, 0.99), max(times))
    return f"{code:26} {way:7} {done:9} {len(found):6} " + " ".join(f"{each:8.0f}" for each in figures)


def picture(trials: Sequence[Trial], stopped: Sequence[Stopped] = ()) -> str:
    """How many trials had gone silent after how long, as an SVG; the time is on a logarithmic scale, 1 ms to 20 s."""
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
            'font-size="12">'
        ),
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "<title>From tampering to the last frame on the uplink</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for share in (0.0, 0.5, 0.99, 1.0):
        y = _y(share)
        lines.append(f'<line x1="{_MARGIN}" x2="{_WIDTH - 16}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        if share != 0.99:
            lines.append(f'<text x="{_MARGIN - 6}" y="{y + 4:.0f}" text-anchor="end">{share:.0%}</text>')
    for ms, label in ((1, "1 ms"), (10, "10 ms"), (100, "100 ms"), (500, "500 ms"), (1000, "1 s"), (10_000, "10 s")):
        x = _x(ms)
        lines.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="16" y2="{_HEIGHT - 32}" stroke="#ddd"/>')
        lines.append(f'<text x="{x:.0f}" y="{_HEIGHT - 14}" text-anchor="middle">{label}</text>')
    told = [each.last_ms for each in trials if each.event and each.last_ms is not None]
    asked = [each.last_ms for each in trials if not each.event and each.last_ms is not None]
    lines += _curve(told, "#06c", "told by the kernel", 0)
    lines += _curve(asked, "#c60", "asked for", 1)
    lines += _curve([each.last_ms for each in stopped], "#666", "watchdog dead or hung", 2)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _curve(found: Sequence[float], colour: str, label: str, row: int) -> list[str]:
    """What share had gone silent after how long."""
    if not found:
        return []
    points = [(_x(max(1.0, each)), _y((number + 1) / len(found))) for number, each in enumerate(sorted(found))]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    text = f"{label}: {len(found)} trials"
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        f'<text x="{_MARGIN + 12}" y="{36 + 18 * row}" fill="{colour}">{text}</text>',
    ]


def _x(ms: float) -> float:
    return _MARGIN + (math.log10(ms) / math.log10(20_000)) * (_WIDTH - 16 - _MARGIN)


def _y(share: float) -> float:
    return _HEIGHT - 32 - share * (_HEIGHT - 48)


def _by(values: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    found: dict[K, list[T]] = defaultdict(list)
    for each in values:
        found[key(each)].append(each)
    return found
