# SPDX-License-Identifier: Apache-2.0
"""Retention: only what is confirmed is trimmed, never the newest; only unconfirmed facts fill the buffer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.records import LogState
from appliance.boundary.retention import FULL_SHARE, HOLD_BACK_SHARE, Plan, plan

MAX = 1_000_000
EACH = 1_000


def state(first: int, last: int) -> LogState:
    """A log of records of equal size."""
    return LogState(first, last, (last - first + 1) * EACH)


@pytest.mark.parametrize(
    ("held", "confirmed", "expected"),
    [
        pytest.param(state(1, 0), 0, Plan(), id="empty"),
        pytest.param(state(1, 400), 400, Plan(), id="confirmed, but within the hold-back"),
        pytest.param(state(1, 700), 700, Plan(before=201), id="confirmed beyond the hold-back"),
        pytest.param(state(1, 700), 100, Plan(before=101), id="trimmed no further than confirmed"),
        pytest.param(state(1, 700), 0, Plan(), id="nothing confirmed, not yet full"),
        pytest.param(state(1, 801), 0, Plan(full=True), id="full of unconfirmed facts"),
        pytest.param(state(1, 900), 200, Plan(before=201), id="much is held, little is unconfirmed"),
        pytest.param(state(501, 1200), 1200, Plan(before=701), id="trimmed before"),
    ],
)
def test_plan(held: LogState, confirmed: int, expected: Plan) -> None:
    """One decision per situation."""
    assert plan(held, confirmed, MAX) == expected


@given(
    first=st.integers(1, 10_000),
    held=st.integers(0, 3_000),
    confirmed=st.integers(0, 13_000),
    size=st.integers(0, 3 * MAX),
)
def test_never_trims_what_is_unconfirmed_or_newest(first: int, held: int, confirmed: int, size: int) -> None:
    """Whatever the log looks like: not beyond what is confirmed, not the newest fact, not below the hold-back."""
    at = LogState(first, first + held - 1, size if held else 0)
    decided = plan(at, confirmed, MAX)
    if decided.before:
        assert first < decided.before <= min(confirmed + 1, at.last)
        kept = (at.last - decided.before + 1) * at.size / held
        assert kept >= MAX * HOLD_BACK_SHARE - at.size / held
    if decided.full:
        assert min(held, at.last - confirmed) * max(1.0, at.size / held) > MAX * FULL_SHARE
