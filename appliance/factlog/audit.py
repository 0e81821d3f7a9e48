# SPDX-License-Identifier: Apache-2.0
"""The audit of a zone, offline: what the logs hold against what the ledger says, the chain, and the signed receipts.

Nothing is taken on trust: every fact is hashed, every chain link is computed anew, every receipt's signature is
checked with the registered key of its signer and its head compared with the chain at that offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import MAX_PAGE_BYTES, MAX_PAGE_FACTS, Gap, link_fact, link_gap
from appliance.boundary.ports import KeysPort, LogPort
from appliance.boundary.records import HEADER_GAP, STORED, LedgerLog, LedgerRow, StoredRecord, parse_gap
from appliance.factlog.jetstream import JetStreamLogs
from appliance.factlog.ledger import SqliteLedger


@dataclass(slots=True)
class LogAudit:
    """The findings for one log."""

    origin: str
    category: str
    epoch: str
    retired: bool = False
    facts: int = 0
    diverted: int = 0
    expired: int = 0
    gaps: int = 0
    receipts: int = 0
    countersigned: int = 0
    confirmed: int = 0
    findings: list[str] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether nothing contradicts anything."""
        return not self.findings


async def audit_zone(zone: ZoneId, logs: JetStreamLogs, ledger: SqliteLedger, keys: KeysPort) -> list[LogAudit]:
    """Audit every log the ledger knows. Damage is a finding, not an exception."""
    results = []
    for account in await ledger.all_logs():
        result = LogAudit(account.id.origin, account.id.category, account.id.epoch.hex(), account.retired)
        results.append(result)
        if account.retired:  # its facts are gone with the log; its account and receipts remain
            continue
        try:
            own = account.id.origin == zone
            log = await logs.existing(account.id)
            if log is None:
                result.findings.append("the log is not there")
                continue
            heads = await _LogAuditor(account, log, ledger, result).run()
            await _audit_receipts(account, ledger, keys, heads if not own else None, result)
        except BsfgError as error:
            result.findings.append(str(error))
    return results


class _LogAuditor:
    """Walks log and ledger of one account side by side."""

    def __init__(self, account: LedgerLog, log: LogPort, ledger: SqliteLedger, result: LogAudit) -> None:
        self._account, self._log, self._ledger, self._result = account, log, ledger, result
        self._head, self._at = b"", 0
        self._heads: dict[int, bytes] = {0: b""}
        self._records: dict[int, StoredRecord] = {}
        self._gaps: list[Gap] = []

    async def run(self) -> dict[int, bytes]:
        """The chain head at every offset."""
        first = (await self._log.state()).first
        seq = first - 1
        after = 0
        while True:
            rows = await self._ledger.rows(self._account.id, after, MAX_PAGE_FACTS)
            if not rows:
                break
            after = rows[-1].offset
            last_seq = max((row.seq for row in rows), default=0)
            while seq < last_seq and (records := await self._log.read(seq, MAX_PAGE_FACTS, MAX_PAGE_BYTES)):
                seq = records[-1].seq
                self._take(records)
            for row in rows:
                self._check(row, first)
        await self._rest(seq)
        if self._at == self._account.through.offset and self._head != self._account.through.head:
            self._result.findings.append("the chain does not end at the ledger's head")
        return self._heads

    async def _rest(self, seq: int) -> None:
        """What stands behind the last row: markers, and facts the ledger does not know."""
        while records := await self._log.read(seq, MAX_PAGE_FACTS, MAX_PAGE_BYTES):
            seq = records[-1].seq
            self._take(records)
        for gap in self._take_gaps(self._account.through.offset):
            self._link_gap(gap)
        unknown = [record.seq for record in self._records.values() if record.seq <= self._account.seq]
        if unknown:
            self._result.findings.append(
                f"{len(unknown)} facts in the log are not in the ledger, the first at {unknown[0]}"
            )

    def _take(self, records: Sequence[StoredRecord]) -> None:
        for record in records:
            if record.is_fact:
                self._records[record.seq] = record
            elif HEADER_GAP in record.headers:
                self._gaps.append(parse_gap(record.headers[HEADER_GAP]))

    def _take_gaps(self, before: int) -> Iterator[Gap]:
        while self._gaps and self._gaps[0].last <= before:
            yield self._gaps.pop(0)

    def _link_gap(self, gap: Gap) -> None:
        self._head, self._at = link_gap(self._head, gap), gap.last
        self._heads[gap.last] = self._head
        self._result.gaps += 1

    def _check(self, row: LedgerRow, first: int) -> None:
        result = self._result
        for gap in self._take_gaps(row.offset):
            self._link_gap(gap)
        computed = link_fact(self._head, row.offset, row.digest)
        if computed != row.head and self._at:
            result.findings.append(f"offset {row.offset}: the chain does not fit what stands before it")
        self._head, self._at = row.head, row.offset
        self._heads[row.offset] = row.head
        if row.outcome != STORED:
            result.diverted += 1
            return
        record = self._records.pop(row.seq, None)
        if record is None and row.seq < first:
            result.expired += 1
        elif record is None:
            result.findings.append(f"offset {row.offset}: the fact is missing from the log")
        elif sha256(record.payload).digest() != row.digest or record.digest != row.digest:
            result.findings.append(f"offset {row.offset}: the fact was altered")
        elif record.origin_offset != row.offset:
            result.findings.append(f"offset {row.offset}: the log names offset {record.origin_offset}")
        else:
            result.facts += 1


async def _audit_receipts(
    account: LedgerLog, ledger: SqliteLedger, keys: KeysPort, heads: dict[int, bytes] | None, result: LogAudit
) -> None:
    """Check signatures, and heads where this zone can compute them (``heads``: the receiver's chain)."""
    for receipt, countersignature in await ledger.receipts(account.id):
        result.receipts += 1
        result.confirmed = max(result.confirmed, receipt.through.offset)
        statement = receipt.statement()
        if receipt.signature is None or not keys.verify(receipt.receiver, statement, receipt.signature):
            result.findings.append(f"receipt at {receipt.through.offset}: not signed by {receipt.receiver}")
        if heads is not None and heads.get(receipt.through.offset) != receipt.through.head:
            result.findings.append(f"receipt at {receipt.through.offset}: another chain head")
        if countersignature is None:
            continue
        if not keys.verify(receipt.origin, statement, countersignature):
            result.findings.append(f"receipt at {receipt.through.offset}: not countersigned by {receipt.origin}")
        result.countersigned += 1
