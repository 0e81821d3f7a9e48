# SPDX-License-Identifier: Apache-2.0
"""Tables of what keys cost, from the trials of a run. Pure: text out of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.figures import Spread, percentile, ratios
from tests.bench.keyed import DIRECTIONS, KeyedCrossing
from tests.bench.report import table
from tests.bench.sessions import FAST, SLOW, SOFTWARE, Handshakes, Issued

IssuedRound = Mapping[str, Issued | None]
HandshakesRound = Mapping[str, Handshakes | None]
KeyedRound = Mapping[tuple[str, str], KeyedCrossing | None]


def issued_round(found: IssuedRound) -> str:
    """One round."""
    head = ["", "sessions/s", "renewal p50 ms", "p99 ms", "TPM commands", "latch ms", "release ms"]
    rows = []
    for way, trial in found.items():
        if trial is None:
            rows.append([way, "failed", *("" for _ in head[2:])])
            continue
        times = [f"{percentile(trial.renewal_ms, share):.2f}" for share in (0.5, 0.99)]
        rare = ["" if value is None else f"{value:.1f}" for value in (trial.latch_ms, trial.release_ms)]
        rows.append([way, f"{trial.rate:,.1f}", *times, f"{trial.commands:.0f}", *rare])
    return table(head, rows)


def handshakes_round(found: HandshakesRound) -> str:
    """One round."""
    rows = [[way, f"{trial.rate:,.0f}" if trial else "failed"] for way, trial in found.items()]
    return table(["sessions of a", "handshakes/s"], rows)


def sessions_summary(issued: Sequence[IssuedRound], shaken: Sequence[HandshakesRound]) -> str:
    """All rounds."""
    rows = []
    for way in issued[0]:
        trials = [trial for found in issued if (trial := found.get(way))]
        if trials:
            renewal = Spread.of([percentile(trial.renewal_ms, 0.5) for trial in trials])
            latch = [trial.latch_ms for trial in trials if trial.latch_ms is not None]
            rate = Spread.of([trial.rate for trial in trials]).text(",.1f")
            rows.append([way, rate, renewal.text(".1f"), Spread.of(latch).text(".1f") if latch else ""])
    head = ["median (lowest - highest)", "sessions/s", "renewal p50 ms", "latch ms"]
    quotient = ratios(*([_rate(each.get(way)) for each in shaken] for way in (FAST, SOFTWARE)))
    words = Spread.of(quotient).text(".2f") if quotient else "none"
    rates = [one.rate for found in shaken if (one := found.get(FAST))]
    absolute = Spread.of(rates).text() if rates else "none"
    return (
        f"{table(head, rows)}\n\nhandshakes/s, both ends in one process: {absolute}\n"
        f"ratio of handshakes/s, sessions of {FAST} / of a {SOFTWARE}: {words}"
    )


def keyed_round(found: KeyedRound) -> str:
    """One round."""
    head = ["", "keys", "facts", "seconds", "facts/s", "CPU s per 100k", "TPM commands", "sessions", "their CPU s"]
    rows = []
    for (direction, way), trial in found.items():
        if trial is None:
            rows.append([direction, way, "failed", *("" for _ in head[3:])])
            continue
        one = trial.crossed
        times = [f"{one.facts}", f"{one.seconds:.2f}", f"{one.rate:,.0f}", f"{sum(one.cpu.values()):.2f}"]
        rows.append([direction, way, *times, f"{trial.commands}", f"{trial.renewals}", f"{trial.keys_cpu_s:.2f}"])
    return table(head, rows)


def keyed_summary(rounds: Sequence[KeyedRound]) -> str:
    """All rounds: rates, and the ratios to software keys, each from two trials of one round."""
    rows = []
    for direction in DIRECTIONS:
        base = [_rate(found.get((direction, SOFTWARE))) for found in rounds]
        for way in (SOFTWARE, FAST, SLOW):
            rates = [_rate(found.get((direction, way))) for found in rounds]
            good = [rate for rate in rates if rate is not None]
            absolute = Spread.of(good).text() if good else "none"
            quotients = [] if way == SOFTWARE else ratios(rates, base)
            each = "  ".join(f"{value:.2f}" for value in quotients)
            rows.append([direction, way, absolute, Spread.of(quotients).text(".2f") if quotients else "", each])
    return table(["median (lowest - highest)", "keys", "facts/s", f"ratio to {SOFTWARE}s", "rounds"], rows)


def _rate(trial: Handshakes | KeyedCrossing | None) -> float | None:
    return None if trial is None else trial.rate
