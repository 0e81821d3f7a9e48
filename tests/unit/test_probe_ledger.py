# SPDX-License-Identifier: Apache-2.0
"""What the agent tells of its ledger, and what the watchdog makes of it; a ledger that somebody forges is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.boundary.errors import IntegrityError
from appliance.boundary.pages import Position
from appliance.boundary.reasons import Reason
from appliance.node.status import Problem
from appliance.watchdog.probes.ledger import CODES, LedgerProbe
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import SUSPICIONS
from tests.fakes.ledger import FakeLedger
from tests.tampering_ledger import FORGERIES, LEDGER_TAMPERINGS, LedgerTampering, Zone, document


@pytest.mark.parametrize("forge", FORGERIES)
async def test_a_forged_ledger_is_found(autojump_clock: object, forge: Callable[[Zone], None]) -> None:
    """By what the peer signed and we countersigned; before it nothing is."""
    zone = Zone()
    await zone.confirm()
    assert await zone.found() == {}
    forge(zone)
    (error,) = (await zone.found()).values()
    assert isinstance(error, IntegrityError)
    assert (error.reason, "enterprise confirmed offset 3" in error.detail) == (Reason.LEDGER_FORGED, True)


async def test_what_a_disk_loses_is_no_forgery(autojump_clock: object) -> None:
    """A ledger from a copy, or made anew, or behind its log; a receipt that proves nothing."""
    zone = Zone()
    await zone.confirm()
    copy = zone.ledger.copy()
    receipt = await zone.confirm(3)
    zone.ledger.restore(copy)
    assert await zone.found() == {}
    zone.ledger.restore(FakeLedger())
    assert await zone.found() == {}
    false = replace(receipt, through=Position(3, bytes(32)))
    await zone.ledger.put_receipt(false, None)
    assert await zone.found() == {}


# -- the probe ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tampering", LEDGER_TAMPERINGS, ids=lambda each: each.reason)
def test_each_is_passed_on(tmp_path: Path, tampering: LedgerTampering) -> None:
    """Under its own code, for as long as the agent says so."""
    probe = LedgerProbe(tmp_path / "agent.json")
    other = Problem(Reason.LINK_DOWN, "no route", "", "uplink")
    document(other).write(tmp_path)
    assert probe.look().seen == ()
    document(other, Problem(tampering.reason, "what exactly", "", tampering.where)).write(tmp_path)
    (seen,) = probe.look().seen
    assert (seen.code, seen.detail) == (tampering.code, f"{tampering.where}: what exactly")
    assert SUSPICIONS[seen.code].response is tampering.response
    assert Reading.parse(probe.look().render()) == probe.look()
    document(other).write(tmp_path)
    assert probe.look().seen == ()


def test_an_agent_that_says_nothing_is_no_suspicion(tmp_path: Path) -> None:
    """Nor one that says nonsense: the gate knows of it."""
    probe = LedgerProbe(tmp_path / "agent.json")
    for text in (None, "", "{}", '{"problems": 7}'):
        if text is not None:
            (tmp_path / "agent.json").write_text(text)
        assert (probe.look().seen, probe.look().blind) == ((), "")


def test_every_code_of_the_ledger_has_a_reason() -> None:
    """Of the table of suspicions."""
    assert set(CODES.values()) == {code for code, each in SUSPICIONS.items() if each.probe is LedgerProbe.name}
