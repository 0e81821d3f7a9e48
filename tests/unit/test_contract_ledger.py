# SPDX-License-Identifier: Apache-2.0
"""The ledger on disk and the ledger in memory keep the same contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Receipt, Signature
from appliance.boundary.records import Incident, LogId
from appliance.factlog.ledger import SqliteLedger
from tests.contracts.ledger import Books, LedgerContract
from tests.fakes.ledger import FakeLedger


class TestSqliteLedger(LedgerContract):
    """On disk."""

    @pytest.fixture
    def books(self, tmp_path: Path) -> Iterator[Books]:
        """A new file."""
        ledger = SqliteLedger.open(tmp_path / "ledger.db")

        async def receipts(log: LogId, receiver: ZoneId) -> list[tuple[Receipt, Signature | None]]:
            return [held for held in await ledger.receipts(log) if held[0].receiver == receiver]

        async def incidents() -> list[Incident]:
            return [incident for _, incident in await ledger.incidents()]

        yield Books(ledger, receipts, incidents)
        ledger.close()


class TestFakeLedger(LedgerContract):
    """In memory."""

    @pytest.fixture
    def books(self) -> Books:
        """Without faults."""
        ledger = FakeLedger()

        async def receipts(log: LogId, receiver: ZoneId) -> list[tuple[Receipt, Signature | None]]:
            return ledger._receipts.get((log, receiver), [])

        async def incidents() -> list[Incident]:
            return ledger.incidents

        return Books(ledger, receipts, incidents)
