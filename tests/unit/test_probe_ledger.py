# SPDX-License-Identifier: Apache-2.0
"""What the agent tells of its ledger, and what the watchdog makes of it; a ledger that somebody forges is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance.boundary.claims import IdClaims
from appliance.boundary.confirmed import ConfirmedCheck
from appliance.boundary.errors import BsfgError, IntegrityError
from appliance.boundary.messages import parse_produced
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import START, FetchRequest, Position, Receipt
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, ZonePolicy
from appliance.boundary.reasons import Reason
from appliance.boundary.source import Source
from appliance.boundary.store import StoreBuffer
from appliance.node.status import Problem, StatusDocument
from appliance.watchdog.probes.ledger import CODES, LedgerProbe
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import SUSPICIONS, Code, Response
from tests.fakes.keys import FakeKeys
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeDisk, FakeLogs, Faults
from tests.produced import PLANT, produced

HUB = ZoneId("enterprise")
AUDIT = Category("audit")


class Zone:
    """The plant's facts in memory, three of which the hub has confirmed."""

    def __init__(self) -> None:
        both = PeerPolicy(frozenset([AUDIT]), frozenset([AUDIT]))
        self.policy = ZonePolicy(PLANT, {AUDIT: CategoryPolicy()}, {HUB: both})
        self.ledger, self.keys = FakeLedger(), FakeKeys(HUB, [PLANT, HUB])
        self.logs = FakeLogs(PLANT, FakeDisk(), Faults(random.Random(0)))
        self.source = self._opened()

    def _opened(self) -> Source:
        self.store = StoreBuffer(PLANT, AUDIT, self.logs, self.ledger, IdClaims(), note=lambda _: None)
        keys = FakeKeys(PLANT, [PLANT, HUB])
        return Source(self.policy, {AUDIT: self.store}, self.ledger, keys, note=lambda _: None)

    async def confirm(self, first: int = 0) -> Receipt:
        """Three facts, served and confirmed."""
        for n in range(first, first + 3):
            message = parse_produced(produced(f"m-{n}", n=n))
            await self.store.commit([[message]])
        page = await self.source.fetch_page(HUB, FetchRequest(AUDIT, b"", START, 100, 1 << 20, 0))
        unsigned = Receipt(PLANT, HUB, AUDIT, page.epoch, page.through, 1)
        receipt = replace(unsigned, signature=await self.keys.sign(unsigned.statement()))
        await self.source.confirm_receipt(HUB, receipt)
        return receipt

    async def found(self) -> dict[str, BsfgError]:
        """What the check finds after a restart."""
        self.source = self._opened()
        check = ConfirmedCheck(self.source, self.policy)
        await check.look()
        return check.contradictions


def other_content(zone: Zone) -> None:
    """A fact's digest is another one, and the chain fits again."""
    for account in zone.ledger._accounts.values():
        account.rows[1] = replace(account.rows[1], digest=bytes(32))


def hidden(zone: Zone) -> None:
    """A fact is gone from the account."""
    for account in zone.ledger._accounts.values():
        del account.rows[1]


def to_somebody_else(zone: Zone) -> None:
    """A fact is said to have been for another zone."""
    for account in zone.ledger._accounts.values():
        account.rows[1] = replace(account.rows[1], to="plant-b")


@pytest.mark.parametrize("forge", [other_content, hidden, to_somebody_else])
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


def document(*problems: Problem) -> StatusDocument:
    """What an agent says."""
    return StatusDocument("agent", PLANT, "1", 7, True, "normal", 0, 0, 0, "tpm", problems=problems)


@dataclass(frozen=True)
class LedgerTampering:
    """One thing the agent says. :param response: what the watchdog does by itself."""

    reason: Reason
    where: str
    code: Code
    response: Response


LEDGER_TAMPERINGS = (
    LedgerTampering(Reason.PRODUCER_SUSPENDED, "producer press-4", Code.PRODUCER_CONFLICT, Response.SUSPEND),
    LedgerTampering(Reason.LOG_DAMAGED, "push audit", Code.STREAM_BROKEN, Response.STOP),
    LedgerTampering(Reason.CHAIN_BROKEN, "pull audit", Code.STREAM_BROKEN, Response.STOP),
    LedgerTampering(Reason.LEDGER_DAMAGED, "start", Code.STREAM_BROKEN, Response.STOP),
    LedgerTampering(Reason.LEDGER_FORGED, "audit enterprise", Code.LEDGER_FORGED, Response.QUARANTINE),
)


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
