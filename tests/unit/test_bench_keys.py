# SPDX-License-Identifier: Apache-2.0
"""The tables of what keys cost: ratios within a round, and trials that failed."""

from __future__ import annotations

from tests.bench.catchup import PULL, PUSH, Crossed
from tests.bench.keyed import KeyedCrossing
from tests.bench.keys_report import (
    HandshakesRound,
    IssuedRound,
    KeyedRound,
    handshakes_round,
    issued_round,
    keyed_round,
    keyed_summary,
    sessions_summary,
)
from tests.bench.sessions import FAST, SLOW, SOFTWARE, Handshakes, Issued


def crossing(way: str, rate: float) -> KeyedCrossing:
    """A trial of a thousand facts."""
    crossed = Crossed(PUSH, 1000, 1000, 1000 / rate, complete=True, cpu={"hub": 1.0}, peak_mib={}, digest="")
    return KeyedCrossing(way, crossed, 20, 1, 0.1)


def test_ratios_are_of_one_round() -> None:
    """A slow round is slow for all; a failed trial has no ratio."""
    rounds: list[KeyedRound] = [
        {(PUSH, SOFTWARE): crossing(SOFTWARE, 100), (PUSH, FAST): crossing(FAST, 50), (PUSH, SLOW): None},
        {(PUSH, SOFTWARE): crossing(SOFTWARE, 10), (PUSH, FAST): crossing(FAST, 10), (PUSH, SLOW): None},
        {(PUSH, SOFTWARE): None, (PUSH, FAST): crossing(FAST, 10), (PUSH, SLOW): None},
    ]
    lines = keyed_summary(rounds).splitlines()
    assert "0.75 (0.50 - 1.00)  0.50  1.00" in next(line for line in lines if line.startswith(PUSH) and FAST in line)
    assert all("none" in line for line in lines if line.startswith(PULL))
    assert keyed_round(rounds[0]).splitlines()[-1].split()[-1] == "failed"


def test_sessions_and_handshakes() -> None:
    """A second has a thousand milliseconds; a software key has no latch."""
    issued: list[IssuedRound] = [{SOFTWARE: Issued(SOFTWARE, (1.0, 1.0), 0), FAST: Issued(FAST, (20.0,), 13, 7.0, 9.0)}]
    shaken: list[HandshakesRound] = [{SOFTWARE: Handshakes(SOFTWARE, 100, 1.0), FAST: Handshakes(FAST, 50, 1.0)}]
    assert "1,000.0" in issued_round(issued[0])
    assert "50" in handshakes_round(shaken[0])
    text = sessions_summary(issued, shaken)
    assert "ratio of handshakes/s, sessions of swtpm / of a software key: 0.50" in text
    assert "7.0 (7.0 - 7.0)" in text
    assert "none" in sessions_summary([{SOFTWARE: None}], [{}])
