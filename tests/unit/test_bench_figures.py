# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' arithmetic, their facts, and what a failed trial does to a report."""

from __future__ import annotations

import pytest

from appliance.boundary.messages import parse_produced
from appliance.boundary.names import ZoneId
from appliance.boundary.producing import ProducedFact
from tests.bench import report
from tests.bench.__main__ import parse, plan_of
from tests.bench.catchup import NATIVE, PULL, PULL_SINGLE, PUSH, PUSH_SINGLE, Crossed
from tests.bench.facts import SIZE, FactFactory, Stock, digest
from tests.bench.figures import Spread, percentile, ratios

FACTORY = FactFactory(ZoneId("plant-a"), ZoneId("enterprise"), "run", 1_790_000_000_000)


def test_a_spread_is_median_and_range() -> None:
    """Of an odd and of an even number of values."""
    assert Spread.of([3.0, 9.0, 4.0]) == Spread(4.0, 3.0, 9.0)
    assert Spread.of([3.0, 5.0]) == Spread(4.0, 3.0, 5.0)
    assert Spread.of([1234.4, 1000.0, 2000.0]).text() == "1,234 (1,000 - 2,000)"


def test_ratios_are_of_one_round() -> None:
    """Not of medians of different rounds; a round with a failed trial has none."""
    assert ratios([10.0, 40.0, None, 8.0], [5.0, 10.0, 3.0, None]) == [2.0, 4.0]
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_percentiles_are_values_that_occurred(share: float, value: float) -> None:
    """By nearest rank, whatever the order of the values."""
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value


def test_facts_are_what_the_intake_stores() -> None:
    """Of their size, accepted, and canonical as they are written: the intake stores these very bytes."""
    for number in (1, 99_999_999):
        payload = FACTORY.payload(number)
        message = parse_produced(ProducedFact(FACTORY.subject(number), payload))
        assert len(payload) == SIZE
        assert message.canonical == payload


def test_the_digest_sees_order_loss_and_doubling() -> None:
    """It is what makes a trial fail."""
    payloads = list(Stock.make(FACTORY, 4).payloads)
    swapped = [payloads[1], payloads[0], *payloads[2:]]
    cut = [payloads[0] + payloads[1], *payloads[2:]]
    wrong = [swapped, payloads[:3], [*payloads, payloads[3]], cut]
    assert len({digest(payloads), *map(digest, wrong)}) == 5
    assert digest(Stock.make(FACTORY, 9).first(4).payloads) == digest(payloads)


def crossed(way: str, seconds: float) -> Crossed:
    """A trial of 1000 facts."""
    return Crossed(way, 1000, 1000, seconds, True, {"agent": 1.5, "hub": 2.0}, {"agent": 60.0, "hub": 61.0}, "")


def test_a_failed_trial_is_shown_and_left_out() -> None:
    """Its round has no ratio, and the other rounds keep theirs."""
    ways = (PUSH, PUSH_SINGLE, NATIVE, PULL, PULL_SINGLE)
    good = {way: crossed(way, 0.1 if way in (PUSH, PULL) else 0.5) for way in ways}
    bad = good | {NATIVE: None}
    assert "failed" in report.catchup_round(bad)
    lines = report.catchup_summary([good, bad]).splitlines()
    native = next(line for line in lines if line.startswith(f"{PUSH} / {NATIVE}"))
    assert native.split()[-1] == "5.00"
    assert native.count("5.00") == 4  # median, lowest, highest, and one round
    single = next(line for line in lines if line.startswith(f"{PUSH} / {PUSH_SINGLE}"))
    assert single.count("5.00") == 5


def test_the_slow_ways_are_given_fewer_facts() -> None:
    """And the options of the command line win over what is usual."""
    usual, quick = plan_of(parse([])), plan_of(parse(["--quick", "--rounds", "2", "catchup"]))
    assert (usual.rounds, usual.size.facts, usual.limit_s) == (3, 100_000, 900.0)
    assert usual.size.singles < usual.size.native < usual.size.facts
    assert (quick.rounds, list(quick.benchmarks), quick.limit_s) == (2, ["catchup"], 240.0)


@pytest.mark.parametrize("arguments", [["--facts", "10"], ["--rounds", "0"], ["speed"], ["--dir", "/no/such/folder"]])
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2, before anything is started."""
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err
