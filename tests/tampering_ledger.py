# SPDX-License-Identifier: Apache-2.0
"""What can be done to a zone's ledger, and what an agent may say of it; what the watchdog must then say: tables.

Logs, ledger and keys are in memory; everything that judges them is real. ``tests/service/test_box_alone.py`` forges the
SQLite ledger of a whole box.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from appliance.boundary.claims import IdClaims
from appliance.boundary.confirmed import ConfirmedCheck
from appliance.boundary.errors import BsfgError
from appliance.boundary.messages import parse_produced
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import START, FetchRequest, Receipt
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, ZonePolicy
from appliance.boundary.reasons import Reason
from appliance.boundary.source import Source
from appliance.boundary.store import StoreBuffer
from appliance.node.status import Problem, StatusDocument
from appliance.watchdog.suspicions import Code, Response
from tests.fakes.keys import FakeKeys
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeDisk, FakeLogs, Faults
from tests.produced import PLANT, produced

HUB: Final = ZoneId("enterprise")
AUDIT: Final = Category("audit")


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


FORGERIES: Final[tuple[Callable[[Zone], None], ...]] = (other_content, hidden, to_somebody_else)


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
