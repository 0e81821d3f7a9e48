# SPDX-License-Identifier: Apache-2.0
"""Tables for people, from the trials of a run. Pure: text out of figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.bench.catchup import NATIVE, PULL, PULL_SINGLE, PUSH, PUSH_SINGLE, Crossed
from tests.bench.figures import Spread, percentile, ratios
from tests.bench.intake import AGENT_WAY, DIRECT_WAY, PRODUCERS, TakenIn
from tests.bench.latency import RATE, Delays

PROCESSES = ("source nats", "target nats", "agent", "hub")
RATIOS = ((PUSH, PUSH_SINGLE), (PUSH, NATIVE), (PULL, PULL_SINGLE), (PULL, NATIVE))

CrossedRound = Mapping[str, Crossed | None]
TakenInRound = Mapping[tuple[str, int], TakenIn | None]
DelaysRound = Mapping[str, Delays | None]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns side by side: the first to the left, numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


# -- catching up -------------------------------------------------------------------------------------------------------


def catchup_round(found: CrossedRound) -> str:
    """One round: rates, CPU by process, memory by process."""
    head = ["", "facts", "seconds", "facts/s", "CPU s per 100k:", *PROCESSES, "sum", "peak MiB:", *PROCESSES]
    rows = []
    for way, trial in found.items():
        if trial is None:
            rows.append([way, *("failed" if column == 0 else "" for column in range(len(head) - 1))])
            continue
        cpu = [f"{trial.cpu[name]:.2f}" if name in trial.cpu else "" for name in PROCESSES]
        peak = [f"{trial.peak_mib[name]:.0f}" if name in trial.peak_mib else "" for name in PROCESSES]
        facts = f"{trial.facts}" if trial.complete else f"{trial.facts} (stopped)"
        rate = [facts, f"{trial.seconds:.2f}", f"{trial.rate:,.0f}"]
        rows.append([way, *rate, "", *cpu, f"{sum(trial.cpu.values()):.2f}", "", *peak])
    return table(head, rows)


def catchup_summary(rounds: Sequence[CrossedRound]) -> str:
    """All rounds: rates, CPU, and the ratios, each from the two trials of one round."""
    ways = list(rounds[0])
    rows = []
    for way in ways:
        trials = [trial for found in rounds if (trial := found.get(way))]
        if trials:
            cpu = Spread.of([sum(trial.cpu.values()) for trial in trials])
            rows.append([way, Spread.of([trial.rate for trial in trials]).text(), cpu.text(".2f")])
    text = table(["median (lowest - highest)", "facts/s", "CPU s per 100k facts, all processes"], rows)
    quotients = []
    for ours, theirs in RATIOS:
        if ours in ways and theirs in ways:
            found = ratios(*([_rate(one.get(way)) for one in rounds] for way in (ours, theirs)))
            quotients.append([f"{ours} / {theirs}", *_quotient(found)])
    return f"{text}\n\n{table(['ratio of facts/s, round by round', 'median (lowest - highest)', 'rounds'], quotients)}"


def _rate(trial: Crossed | TakenIn | None) -> float | None:
    return None if trial is None else trial.rate


def _quotient(found: Sequence[float]) -> list[str]:
    if not found:
        return ["none", ""]
    return [Spread.of(found).text(".2f"), "  ".join(f"{value:.2f}" for value in found)]


# -- intake ------------------------------------------------------------------------------------------------------------


def intake_round(found: TakenInRound) -> str:
    """One round."""
    head = ["producers", "", "facts/s", "ack p50 ms", "p99 ms", "CPU s per 100k:", "nats", "agent", "producers"]
    rows = []
    for (way, producers), trial in found.items():
        if trial is None:
            rows.append([f"{producers}", way, "failed", "", "", "", "", "", ""])
            continue
        cpu = [f"{trial.cpu[name]:.2f}" for name in ("nats", "agent", "producers")]
        waits = [f"{trial.wait_p50_ms:.2f}", f"{trial.wait_p99_ms:.2f}"]
        rows.append([f"{producers}", way, f"{trial.rate:,.0f}", *waits, "", *cpu])
    return table(head, rows)


def intake_summary(rounds: Sequence[TakenInRound]) -> str:
    """All rounds: rates and ratios."""
    rows = []
    for producers in PRODUCERS:
        columns = []
        for way in (AGENT_WAY, DIRECT_WAY):
            rates = [trial.rate for found in rounds if (trial := found.get((way, producers)))]
            columns.append(Spread.of(rates).text() if rates else "none")
        found = ratios(*([_rate(one.get((way, producers))) for one in rounds] for way in (AGENT_WAY, DIRECT_WAY)))
        rows.append([f"{producers}", *columns, *_quotient(found)])
    return table(["producers", f"{AGENT_WAY}, facts/s", f"{DIRECT_WAY}, facts/s", "ratio", "rounds"], rows)


# -- latency -----------------------------------------------------------------------------------------------------------


def latency_round(found: DelaysRound) -> str:
    """One round."""
    head = ["", "ack p50 ms", "p99 ms", "there p50 ms", "p99 ms", "CPU % of a core:", *PROCESSES]
    rows = []
    for way, trial in found.items():
        if trial is None:
            rows.append([way, "failed", *("" for _ in head[2:])])
            continue
        (ack_50, there_50), (ack_99, there_99) = trial.at(0.5), trial.at(0.99)
        cpu = [f"{trial.cpu_percent[name]:.0f}" if name in trial.cpu_percent else "" for name in PROCESSES]
        rows.append([way, *(f"{value:.2f}" for value in (ack_50, ack_99, there_50, there_99)), "", *cpu])
    return table(head, rows)


def latency_summary(rounds: Sequence[DelaysRound]) -> str:
    """All rounds: the percentiles' medians over rounds."""
    rows = []
    for way in rounds[0]:
        trials = [trial for found in rounds if (trial := found.get(way))]
        if trials:
            there = [[percentile(trial.seen_ms, share) for trial in trials] for share in (0.5, 0.99)]
            rows.append([way, *(Spread.of(values).text(".2f") for values in there)])
    return table([f"{RATE} facts/s, published to there, ms", "p50", "p99"], rows)
