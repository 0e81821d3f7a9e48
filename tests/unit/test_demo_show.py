# SPDX-License-Identifier: Apache-2.0
"""The demo's report: what must hold for 'everything held', as a table and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from appliance.dev.demo.boxes import LatchAct, ZoneKeys
from appliance.dev.demo.compare import Comparison, LogContent
from appliance.dev.demo.impostor import Attempt
from appliance.dev.demo.show import as_document, as_table
from appliance.dev.demo.story import Direction, Report, ZoneAudit
from appliance.dev.layout import ENTERPRISE, PLANT
from appliance.factlog.audit import LogAudit

CONTENT = LogContent(("a",), (b"{}",))
SAME = Comparison(CONTENT, CONTENT, 0, 0, 0)
DIRECTIONS = (
    Direction("plant-a -> enterprise telemetry", 5, 3, 1, 1, SAME, 0),
    Direction("enterprise -> plant-a operational", 2, 2, 0, 0, SAME, 0),
)
AUDITS = (ZoneAudit(PLANT, 9, 4, 3, ()), ZoneAudit(ENTERPRISE, 9, 4, 4, ()))
KEYS = tuple(ZoneKeys(zone, "swtpm", "CN=vendor", True, 1, 6, 5, 2) for zone in (PLANT, ENTERPRISE))
ATTEMPTS = (
    Attempt("a key of another CA", "bad_certificate", "x"),
    Attempt("a key never enrolled", "unknown_peer", "y"),
)
GOOD = Report(
    DIRECTIONS,
    ((0.0, "normal"), (4.0, "autonomous"), (10.2, "reconciling"), (11.3, "normal")),
    4,
    "conflicting_duplicate: stored sha256 …",
    1.5,
    38.0,
    KEYS,
    ATTEMPTS,
    LatchAct(counter=2, silent_s=9.2, stored=390, back_s=2.1),
    "2.15.1",
    AUDITS,
)


def bad_direction(**changes: Any) -> tuple[Direction, ...]:
    """The directions, one of them changed."""
    return (DIRECTIONS[0], replace(DIRECTIONS[1], **changes))


def bad_audit(**changes: Any) -> tuple[ZoneAudit, ...]:
    """The audits, one of them changed."""
    return (AUDITS[0], replace(AUDITS[1], **changes))


def bad_keys(**changes: Any) -> tuple[ZoneKeys, ...]:
    """The keys, those of one zone changed."""
    return (KEYS[0], replace(KEYS[1], **changes))


def test_everything_held() -> None:
    """And is said so, with what is simulated."""
    assert GOOD.proven
    table = as_table(GOOD)
    assert "everything held" in table
    assert "audit of plant-a: 9 facts re-hashed, 4 receipts verified (3 countersigned): intact" in table
    assert "audit of enterprise: 9 facts re-hashed, 4 receipts verified (4 countersigned): intact" in table
    assert "keys: swtpm (software TPM: development only); simulated: TPM vendor, boot, link" in table
    assert ["plant-a", "swtpm", "yes", "5", "2", "6"] in [line.split() for line in table.splitlines()]
    assert "impostor with a key of another CA: refused, bad_certificate (x)" in table
    assert "390 readings stored meanwhile" in table
    assert "reconciling at 10.2 s" in table
    lines = table.splitlines()
    assert lines[0].split() == [
        "direction",
        "sent",
        "stored",
        "duplicate",
        "rejected",
        "lost",
        "doubled",
        "digests",
        "lag",
    ]
    assert lines[2].split()[-8:] == ["5", "3", "1", "1", "0", "0", "equal", "0"]


@pytest.mark.parametrize(
    "changes",
    [
        {"directions": bad_direction(comparison=replace(SAME, lost=1))},
        {"directions": bad_direction(comparison=replace(SAME, doubled=1))},
        {"directions": bad_direction(comparison=replace(SAME, altered=1))},
        {"directions": bad_direction(comparison=replace(SAME, received=LogContent()))},
        {"directions": bad_direction(lag=1)},
        {"conflict": ""},
        {"conflict": "bad_name: x"},
        {"modes": ((0.0, "normal"),)},
        {"modes": ((0.0, "autonomous"),)},
        {"keys": ()},
        {"keys": KEYS[:1]},
        {"keys": bad_keys(certified=False)},
        {"keys": bad_keys(vendor="")},
        {"keys": bad_keys(renewals=0)},
        {"impostors": ()},
        {"impostors": (ATTEMPTS[0], Attempt("a key never enrolled", "", ""))},
        {"latched": LatchAct()},
        {"latched": LatchAct(counter=2, silent_s=1, stored=0, back_s=1)},
        {"audits": ()},
        {"audits": AUDITS[:1]},
        {"audits": (AUDITS[0], AUDITS[0])},
        {"audits": bad_audit(findings=("plant-a audit: offset 5: the fact was altered",))},
        {"audits": bad_audit(facts=0)},
        {"audits": bad_audit(receipts=0)},
    ],
)
def test_each_promise_counts(changes: dict[str, Any]) -> None:
    """What did not hold is not glossed over."""
    report = replace(GOOD, **changes)
    assert not report.proven
    assert "SOMETHING DID NOT HOLD" in as_table(report)
    assert as_document(report)["proven"] is False


def test_findings_are_shown() -> None:
    """Below the line of their zone."""
    table = as_table(replace(GOOD, audits=bad_audit(findings=("plant-a audit: x",))))
    assert "(4 countersigned): NOT INTACT\n  plant-a audit: x\n" in table


def test_as_json() -> None:
    """The same for programs."""
    document = json.loads(json.dumps(as_document(GOOD)))
    assert document["proven"] is True
    assert document["directions"][0]["sent"] == 5
    assert document["keys"]["plant-a"]["boundary_key_certified"] is True
    assert [attempt["reason"] for attempt in document["impostors"]] == ["bad_certificate", "unknown_peer"]
    assert document["latch"]["stored"] == 390
    assert document["directions"][1]["digests"] == "equal"
    assert [change["mode"] for change in document["mode_changes"]] == ["normal", "autonomous", "reconciling", "normal"]
    expected = {"facts": 9, "receipts": 4, "countersigned": 3, "intact": True, "findings": []}
    assert document["audit"]["plant-a"] == expected


def test_the_audit_of_a_zone_is_the_sum_over_its_logs() -> None:
    """With every finding, and where it was found."""
    logs = [
        LogAudit("plant-a", "audit", "00", facts=3, receipts=1, countersigned=1),
        LogAudit("enterprise", "audit", "01", facts=4, receipts=2, findings=["one", "two"]),
    ]
    assert ZoneAudit.of(PLANT, logs) == ZoneAudit(PLANT, 7, 3, 1, ("enterprise audit: one", "enterprise audit: two"))
