# SPDX-License-Identifier: Apache-2.0
"""An in-memory ledger. The object itself is what survives a simulated crash.

It passes the same contract suite as the real ledger (``tests/contracts/ledger.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from appliance.boundary.names import EVERYONE, Category, MessageId, ProducerId, ZoneId
from appliance.boundary.pages import Gap, Position, Receipt, Signature
from appliance.boundary.records import STORED, Incident, KnownId, LedgerLog, LedgerRow, LogId
from tests.fakes.logs import Faults

Key = tuple[ProducerId, MessageId]


@dataclass(slots=True)
class _Account:
    state: LedgerLog
    rows: list[LedgerRow] = field(default_factory=list)


class FakeLedger:
    """See :class:`appliance.boundary.ports.LedgerPort`. Without faults every call succeeds."""

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults
        self._accounts: dict[LogId, _Account] = {}
        self._gaps: dict[tuple[LogId, ZoneId], list[Gap]] = {}
        self._receipts: dict[tuple[LogId, ZoneId], list[tuple[Receipt, Signature | None]]] = {}
        self._ids: dict[tuple[ZoneId, Key], tuple[LogId, int, bytes]] = {}
        self.incidents: list[Incident] = []

    def copy(self) -> FakeLedger:
        """A backup of everything as it is now."""
        other = FakeLedger(self._faults)
        other._accounts = {log: _Account(held.state, list(held.rows)) for log, held in self._accounts.items()}
        other._gaps = {key: list(gaps) for key, gaps in self._gaps.items()}
        other._receipts = {key: list(held) for key, held in self._receipts.items()}
        other._ids = copy.copy(self._ids)
        other.incidents = list(self.incidents)
        return other

    def restore(self, backup: FakeLedger) -> None:
        """Become a copy of a backup."""
        fresh = backup.copy()
        self._accounts, self._gaps, self._receipts = fresh._accounts, fresh._gaps, fresh._receipts
        self._ids, self.incidents = fresh._ids, fresh.incidents

    async def _before(self, what: str) -> bool:
        return True if self._faults is None else await self._faults.before(what)

    async def _after(self, late: bool) -> None:
        if self._faults is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._faults.after(late)

    async def log(self, log: LogId) -> LedgerLog | None:
        """See the port."""
        late = await self._before("ledger.log")
        account = self._accounts.get(log)
        await self._after(late)
        return account.state if account else None

    async def logs(self, origin: ZoneId, category: Category) -> list[LedgerLog]:
        """See the port."""
        late = await self._before("ledger.logs")
        found = [a.state for log, a in self._accounts.items() if (log.origin, log.category) == (origin, category)]
        await self._after(late)
        return found

    async def record(self, log: LogId, rows: Sequence[LedgerRow], through: Position, seq: int) -> None:
        """See the port."""
        late = await self._before("ledger.record")
        account = self._accounts.setdefault(log, _Account(LedgerLog(log, Position(), 0)))
        fresh = {row.offset for row in rows}
        if account.rows and rows and rows[0].offset <= account.rows[-1].offset:
            account.rows = sorted([old for old in account.rows if old.offset not in fresh] + list(rows), key=_offset)
        else:
            account.rows += rows
        account.state = replace(account.state, through=through, seq=seq)
        for row in rows:
            if row.outcome == STORED and not self._live(log.origin, (row.producer, row.message_id)):
                self._ids[log.origin, (row.producer, row.message_id)] = (log, row.offset, row.digest)
        await self._after(late)

    def _live(self, origin: ZoneId, key: Key) -> bool:
        held = self._ids.get((origin, key))
        if held is None:
            return False
        kept = self._accounts[held[0]].state.kept
        return kept is None or held[1] <= kept

    async def truncate(self, log: LogId, through: Position, seq: int) -> None:
        """See the port."""
        late = await self._before("ledger.truncate")
        account = self._accounts[log]
        account.rows = [row for row in account.rows if row.offset <= through.offset]
        account.state = replace(account.state, through=through, seq=seq)
        self._ids = {key: held for key, held in self._ids.items() if held[0] != log or held[1] <= through.offset}
        await self._after(late)

    async def retire(self, log: LogId, kept: int) -> None:
        """See the port."""
        late = await self._before("ledger.retire")
        account = self._accounts[log]
        account.state = replace(account.state, kept=kept)
        await self._after(late)

    async def known(self, origin: ZoneId, keys: Sequence[Key]) -> dict[Key, KnownId]:
        """See the port."""
        late = await self._before("ledger.known")
        found = {}
        for key in keys:
            if (held := self._ids.get((origin, key))) is not None:
                found[key] = KnownId(held[2], held[0], held[1], self._live(origin, key))
        await self._after(late)
        return found

    async def rows(self, log: LogId, after: int, limit: int, reader: ZoneId | None = None) -> list[LedgerRow]:
        """See the port."""
        late = await self._before("ledger.rows")
        account = self._accounts.get(log)
        rows = account.rows if account else []
        wanted = [r for r in rows if r.offset > after and (reader is None or r.to in (reader, EVERYONE))]
        await self._after(late)
        return wanted[:limit]

    async def served_gaps(self, log: LogId, reader: ZoneId) -> list[Gap]:
        """See the port."""
        late = await self._before("ledger.served_gaps")
        gaps = list(self._gaps.get((log, reader), []))
        await self._after(late)
        return gaps

    async def put_served_gaps(self, log: LogId, reader: ZoneId, after: int, gaps: Sequence[Gap]) -> None:
        """See the port."""
        late = await self._before("ledger.put_served_gaps")
        kept = [gap for gap in self._gaps.get((log, reader), []) if gap.last <= after]
        self._gaps[log, reader] = [*kept, *gaps]
        await self._after(late)

    async def put_receipt(self, receipt: Receipt, countersignature: Signature | None) -> None:
        """See the port."""
        late = await self._before("ledger.put_receipt")
        log = LogId(receipt.origin, receipt.category, receipt.epoch)
        held = self._receipts.setdefault((log, receipt.receiver), [])
        held[:] = [entry for entry in held if entry[0].through != receipt.through]
        held.append((receipt, countersignature))
        await self._after(late)

    async def last_receipt(self, log: LogId, receiver: ZoneId) -> Receipt | None:
        """See the port."""
        late = await self._before("ledger.last_receipt")
        held = self._receipts.get((log, receiver))
        await self._after(late)
        return held[-1][0] if held else None

    async def note(self, incident: Incident) -> None:
        """See the port."""
        late = await self._before("ledger.note")
        self.incidents.append(incident)
        await self._after(late)


def _offset(row: LedgerRow) -> int:
    return row.offset
