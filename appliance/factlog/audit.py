# SPDX-License-Identifier: Apache-2.0
"""The audit of a zone, offline: what the logs hold against what the ledger says, the chain, and the signed receipts.

Nothing is taken on trust: every fact is hashed, every chain link is computed anew, every receipt's signature is
checked with the registered key of its signer and its head compared with the chain at that offset. What is gone from a
log must be gone for a reason: the category drops its oldest facts, or every peer confirmed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from appliance.boundary.errors import BsfgError, IntegrityError
from appliance.boundary.pages import (
    MAX_PAGE_BYTES,
    MAX_PAGE_FACTS,
    START,
    Gap,
    GapReason,
    link_fact,
    link_gap,
)
from appliance.boundary.policy import CategoryPolicy, WhenFull, ZonePolicy
from appliance.boundary.ports import KeysPort, LogPort
from appliance.boundary.reasons import Reason
from appliance.boundary.records import (
    GAPS,
    GONE,
    HEADER_GAP,
    STORED,
    LedgerLog,
    LedgerRow,
    LogId,
    StoredRecord,
    parse_gap,
    row_of,
)
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


async def audit_zone(policy: ZonePolicy, logs: JetStreamLogs, ledger: SqliteLedger, keys: KeysPort) -> list[LogAudit]:
    """Audit every log the ledger knows, and every receipt. Damage is a finding, not an exception.

    :raises UnavailableError: ``broker_unavailable``: it went away meanwhile.
    """
    results = []
    for account in await ledger.all_logs():
        result = LogAudit(account.id.origin, account.id.category, account.id.epoch.hex(), account.retired)
        results.append(result)
        try:
            heads = None
            if not account.retired:  # the facts of a replaced log are gone with it; account and receipts remain
                heads = await _audit_log(policy, account, logs, ledger, result)
            await _audit_receipts(account.id, ledger, keys, heads, result)
        except BsfgError as error:
            if error.reason is Reason.BROKER_UNAVAILABLE:
                raise
            result.findings.append(str(error))
    for view in await ledger.views():  # a reader that diverged confirms under an epoch of its own
        result = LogAudit(view.origin, view.category, view.epoch.hex())
        results.append(result)
        await _audit_receipts(view, ledger, keys, None, result)
    return results


async def _audit_log(
    policy: ZonePolicy, account: LedgerLog, logs: JetStreamLogs, ledger: SqliteLedger, result: LogAudit
) -> dict[int, bytes] | None:
    """Audit the facts of one log; the chain heads by offset, where receipts name the heads of this very chain."""
    log = await logs.existing(account.id)
    if log is None:
        if account.through != START:  # else it was announced, and nothing came yet
            result.findings.append("the log is not there")
        return None
    own = account.id.origin == policy.zone
    auditor = _LogAuditor(account, log, ledger, result, own=own)
    heads = await auditor.run()
    category = policy.categories.get(account.id.category, CategoryPolicy())
    if auditor.expired and category.when_full is WhenFull.REJECT and not category.max_age_s:
        confirmed = await _confirmed_by_all(policy, account.id, ledger) if own else 0
        if unexplained := [row.offset for row in auditor.expired if row.offset > confirmed]:
            result.findings.append(
                f"offsets {unexplained[0]} to {unexplained[-1]} are gone from the log, and not confirmed by all"
            )
    return heads if not own else None  # a peer's receipt is over what that peer was served


async def _confirmed_by_all(policy: ZonePolicy, log: LogId, ledger: SqliteLedger) -> int:
    readers = [zone for zone, peer in policy.peers.items() if log.category in peer.fetch]
    return min([await ledger.confirmed(log, reader) for reader in readers], default=0)


class _LogAuditor:
    """Walks log and ledger of one account side by side."""

    def __init__(self, account: LedgerLog, log: LogPort, ledger: SqliteLedger, result: LogAudit, *, own: bool) -> None:
        self.expired: list[LedgerRow] = []
        self._account, self._log, self._ledger, self._result, self._own = account, log, ledger, result, own
        self._head, self._at = b"", 0
        self._linked = True
        self._said = START
        self._heads: dict[int, bytes] = {0: b""}
        self._records: dict[int, StoredRecord] = {}
        self._gaps: dict[int, Gap] = {}
        self._missing: list[LedgerRow] = []

    async def run(self) -> dict[int, bytes]:
        """The chain head at every offset."""
        seq = (await self._log.state()).first - 1
        after, through = 0, self._account.through.offset
        while after < through:
            rows = await self._ledger.rows(self._account.id, after, MAX_PAGE_FACTS)
            rows = [row for row in rows if row.offset <= through]  # what came while we look is no part of this
            if not rows:
                break
            after = rows[-1].offset
            last_seq = max((row.seq for row in rows), default=0)
            while seq < last_seq and (records := await self._log.read(seq, MAX_PAGE_FACTS, MAX_PAGE_BYTES)):
                seq = records[-1].seq
                self._take(records)
            for row in rows:
                self._check(row)
        while records := await self._log.read(seq, MAX_PAGE_FACTS, MAX_PAGE_BYTES):
            seq = records[-1].seq
            self._take(records)
        self._check_end()
        self._check_rest()
        await self._check_missing()
        return self._heads

    def _find(self, text: str) -> None:
        self._result.findings.append(text)

    # -- the log's side ----------------------------------------------------------------------------------------------

    def _take(self, records: Sequence[StoredRecord]) -> None:
        for record in records:
            try:
                self._take_one(record)
            except (IntegrityError, ValueError):
                self._find(f"record {record.seq} was not written by this zone")

    def _take_one(self, record: StoredRecord) -> None:
        if not self._own:
            position = record.position
            if record.seq <= self._account.seq:
                self._said = position
        if record.is_fact:
            row_of(record, record.chain)  # headers that this zone writes can be read
            self._records[record.seq] = record
        elif self._own:
            raise IntegrityError(Reason.LOG_DAMAGED, "a log of own facts holds nothing else")
        elif HEADER_GAP in record.headers:
            gap = parse_gap(record.headers[HEADER_GAP])
            self._gaps[gap.last] = gap

    def _check_rest(self) -> None:
        """Facts in the log without a row. Behind the ledger's end they are what it would follow next."""
        unknown = [record.seq for record in self._records.values() if record.seq <= self._account.seq]
        if unknown:
            self._find(f"{len(unknown)} facts in the log are not in the ledger, the first at {unknown[0]}")
        if unknown := [gap.first for gap in self._gaps.values() if gap.last <= self._account.through.offset]:
            self._find(f"{len(unknown)} gaps in the log are not in the ledger, the first from offset {unknown[0]}")
        head = self._account.through.head
        for record in self._records.values():
            if record.seq <= self._account.seq:
                continue
            head = link_fact(head, record.seq, record.digest)
            if sha256(record.payload).digest() != record.digest:
                self._find(f"record {record.seq}: the fact was altered")
            elif self._own and record.chain != head:
                self._find(f"record {record.seq}: the chain does not fit what stands before it")

    async def _check_missing(self) -> None:
        """What retention took meanwhile is not missing."""
        first = await self._first_fact() if self._missing else 0
        for row in self._missing:
            if row.seq >= first:
                self._find(f"offset {row.offset}: the fact is missing from the log")
            else:
                self.expired.append(row)
                self._result.expired += 1

    async def _first_fact(self) -> int:
        """Where the first fact stands that is still in the log; markers in front of it outlive retention."""
        state = await self._log.state()
        seq = state.first - 1
        while records := await self._log.read(seq, MAX_PAGE_FACTS, MAX_PAGE_BYTES):
            if facts := [record.seq for record in records if record.is_fact]:
                return facts[0]
            seq = records[-1].seq
        return state.last + 1

    # -- the ledger's side -------------------------------------------------------------------------------------------

    def _stand_at(self, offset: int, head: bytes) -> None:
        self._head, self._at = head, offset
        self._heads[offset] = head

    def _check(self, row: LedgerRow) -> None:
        if row.outcome in GAPS:
            self._check_gap(row)
            return
        if row.outcome == GONE:  # it stood in front of what the ledger was rebuilt from
            gap = Gap(self._at + 1, row.offset, GapReason.RETENTION)
            self._linked = row.head == link_gap(self._head, gap)
            self._result.expired += gap.last - gap.first + 1
            self._stand_at(row.offset, row.head)
            return
        # A rebuilt account of received facts begins where its log began at the time.
        begins_late = not self._own and self._at == 0 and row.seq > 1
        if self._linked and not begins_late and link_fact(self._head, row.offset, row.digest) != row.head:
            self._find(f"offset {row.offset}: the chain does not fit what stands before it")
        self._linked = True
        self._stand_at(row.offset, row.head)
        if row.outcome == STORED:
            self._check_fact(row)
        else:
            self._result.diverted += 1

    def _check_gap(self, row: LedgerRow) -> None:
        gap = Gap(self._at + 1, row.offset, GapReason(row.outcome))
        marker = self._gaps.pop(row.offset, gap)
        begins_late = self._at == 0 and row.seq > 1
        if marker != gap and not begins_late:
            self._find(f"offset {row.offset}: the log names another gap, from {marker.first}")
        elif self._linked and link_gap(self._head, marker) != row.head and not begins_late:
            self._find(f"offset {row.offset}: the chain does not fit what stands before it")
        self._linked = True
        self._stand_at(row.offset, row.head)
        self._result.gaps += 1

    def _check_fact(self, row: LedgerRow) -> None:
        record = self._records.pop(row.seq, None)
        if record is None:
            self._missing.append(row)
        elif sha256(record.payload).digest() != row.digest or record.digest != row.digest:
            self._find(f"offset {row.offset}: the fact was altered")
        elif record.origin_offset != row.offset:
            self._find(f"offset {row.offset}: the log names offset {record.origin_offset}")
        elif (record.chain if self._own else record.position.head) != row.head:
            self._find(f"offset {row.offset}: the log names another chain head")
        else:
            self._result.facts += 1

    def _check_end(self) -> None:
        through = self._account.through
        if self._at == through.offset:
            if self._head != through.head:
                self._find("the chain does not end at the ledger's head")
        elif self._own or self._said != through:  # a position marker may stand for what left no row
            self._find(f"the ledger's rows end at {self._at}, its account at {through.offset}")


async def _audit_receipts(
    log: LogId, ledger: SqliteLedger, keys: KeysPort, heads: dict[int, bytes] | None, result: LogAudit
) -> None:
    """Check signatures, and heads where this zone can compute them (``heads``: the receiver's chain)."""
    for receipt, countersignature in await ledger.receipts(log):
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
