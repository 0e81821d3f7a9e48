# SPDX-License-Identifier: Apache-2.0
"""The store buffer of one category: the zone's own facts, appended once, in order, durable before they are confirmed.

Theory of operation: this object is the log's only writer. A batch is decided against the ledger (:func:`decide`, pure),
appended behind the expected sequence, entered into the ledger, and only then answered. Whatever goes wrong in between
leaves the object *unsettled*: before its next step it reads the log again and makes the ledger follow it. The log
decides what is stored; the ledger decides what an id means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from appliance.boundary.claims import IdClaims, Key, Signal
from appliance.boundary.errors import BsfgError, IntegrityError, PositionError, RefusedError, UnavailableError
from appliance.boundary.messages import Message
from appliance.boundary.names import Category, FactSubject, MessageId, ZoneId
from appliance.boundary.pages import (
    MAX_PAGE_BYTES,
    MAX_PAGE_FACTS,
    Gap,
    GapReason,
    Position,
    link_fact,
    link_gap,
)
from appliance.boundary.ports import LedgerPort, LogPort, LogsPort
from appliance.boundary.producing import AppendOutcome, AppendResult
from appliance.boundary.reasons import Reason
from appliance.boundary.records import (
    GONE,
    Incident,
    KnownId,
    LedgerLog,
    LedgerRow,
    LogId,
    LogState,
    gone_row,
    row_of,
    store_record,
)

_log = logging.getLogger(__name__)

_SETTLE_ATTEMPTS = 4
"""How often a batch is tried again when one of the zone's logs becomes doubtful before it is decided."""

Unit = Sequence[Message | AppendResult]
"""Facts that are stored all or not at all; an :class:`AppendResult` stands for one that was refused before."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A decision that ends in an offset: the fact is (or duplicates) the ``index``-th fact to be stored."""

    outcome: AppendOutcome
    index: int


Verdict = AppendResult | Placed


def decide(units: Sequence[Unit], known: Mapping[Key, KnownId]) -> tuple[list[list[Verdict]], list[Message]]:
    """What becomes of each fact of each unit, and which messages are to be stored, in order. Pure."""
    to_store: list[Message] = []
    taken: dict[Key, tuple[bytes, int]] = {}
    verdicts: list[list[Verdict]] = []
    for unit in units:
        additions: list[Message] = []
        added: dict[Key, tuple[bytes, int]] = {}
        unit_verdicts: list[Verdict] = []
        for fact in unit:
            if isinstance(fact, AppendResult):
                unit_verdicts.append(fact)
                continue
            verdict = _judge(fact, known, taken | added if added else taken)
            if verdict is None:
                added[fact.key] = (fact.digest, len(to_store) + len(additions))
                verdict = Placed(AppendOutcome.STORED, len(to_store) + len(additions))
                additions.append(fact)
            unit_verdicts.append(verdict)
        if any(_is_refusal(verdict) for verdict in unit_verdicts):
            unit_verdicts = [v if _is_refusal(v) else AppendResult(AppendOutcome.NOT_STORED) for v in unit_verdicts]
        else:
            to_store += additions
            taken |= added
        verdicts.append(unit_verdicts)
    return verdicts, to_store


def _judge(fact: Message, known: Mapping[Key, KnownId], taken: Mapping[Key, tuple[bytes, int]]) -> Verdict | None:
    """What an id already taken means for a fact; ``None`` when it is free."""
    if (pending := taken.get(fact.key)) is not None:
        if pending[0] == fact.digest:
            return Placed(AppendOutcome.DUPLICATE, pending[1])
        return _conflict(pending[0], fact.digest)
    if (old := known.get(fact.key)) is not None:
        if old.digest != fact.digest:
            return _conflict(old.digest, fact.digest)
        if old.log.category != fact.subject.category:
            return _refuse_conflict(f"the same fact is stored in category {old.log.category}")
        if old.live:
            return AppendResult(AppendOutcome.DUPLICATE, offset=old.offset)
    return None


def _conflict(stored: bytes, offered: bytes) -> AppendResult:
    return _refuse_conflict(f"stored sha256 {stored.hex()}, offered sha256 {offered.hex()}")


def _refuse_conflict(detail: str) -> AppendResult:
    return AppendResult(AppendOutcome.CONFLICT, reason=Reason.CONFLICTING_DUPLICATE, detail=detail)


def _is_refusal(verdict: Verdict) -> bool:
    return isinstance(verdict, AppendResult) and verdict.outcome in (AppendOutcome.CONFLICT, AppendOutcome.INVALID)


class StoreBuffer:
    """The zone's own facts of one category. Opened lazily: the first call settles it."""

    def __init__(
        self,
        zone: ZoneId,
        category: Category,
        logs: LogsPort,
        ledger: LedgerPort,
        claims: IdClaims,
        *,
        note: Callable[[Incident], None],
    ) -> None:
        self.zone = zone
        self.category = category
        self.changed = Signal()
        self.refusal: RefusedError | None = None
        """Set while producers must hear that the buffer is full of unconfirmed facts."""
        self._logs = logs
        self._ledger = ledger
        self._claims = claims
        self._note = note
        self._log: LogPort | None = None
        self._end = Position()
        self._damaged = False
        self._lock = trio.Lock()
        claims.logs.append(self)

    @property
    def is_settled(self) -> bool:
        """Whether log and ledger are level, or cannot be because the log is damaged."""
        return self._log is not None or self._damaged

    async def settled(self) -> LogPort:
        """The log, with the ledger level with it. :raises UnavailableError: the broker is away."""
        if self._log is None:
            async with self._lock:
                if self._log is None:
                    try:
                        await self._settle()
                    except IntegrityError:
                        self._damaged = True
                        raise
        log = self._log
        if log is None:  # lost again between the lock and here
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{self.category} is settling")
        return log

    @property
    def end(self) -> Position:
        """Offset and log chain of the last fact that is in log and ledger."""
        return self._end

    def log_id(self, epoch: bytes) -> LogId:
        """This category's log in an epoch."""
        return LogId(self.zone, self.category, epoch)

    def unsettle(self) -> None:
        """Something contradicted our idea of the log: read it again before the next step."""
        self._log, self._damaged = None, False

    async def commit(self, units: Sequence[Unit]) -> list[list[AppendResult]]:
        """Decide, append, enter, answer. At most :data:`MAX_PAGE_FACTS` messages in all.

        :raises UnavailableError: outcome unknown; the producers may send the same again.
        """
        keys = [fact.key for unit in units for fact in unit if isinstance(fact, Message)]
        for _ in range(_SETTLE_ATTEMPTS):
            log = await self.settled()
            await self._claims.settle()
            async with self._lock, self._claims.hold(self.zone, keys):
                if self._log is log and self._claims.are_settled:
                    return await self._decide(log, units, keys)
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{self.category} is settling")

    async def _decide(self, log: LogPort, units: Sequence[Unit], keys: Sequence[Key]) -> list[list[AppendResult]]:
        known = await self._ledger.known(self.zone, keys)
        verdicts, messages = decide(units, known)
        base = self._end.offset
        if messages:
            try:
                if self.refusal is not None:
                    raise self.refusal
                await self._append(log, messages)
            except RefusedError as refused:  # the log is full: nothing of the batch was stored
                return [_decide_full(unit, known, refused) for unit in units]
            except (BsfgError, trio.Cancelled):
                self.unsettle()
                raise
            self.changed.fire()
        return [[_place(verdict, base) for verdict in unit] for unit in verdicts]

    async def _append(self, log: LogPort, messages: Sequence[Message]) -> None:
        offset, head = self._end.offset, self._end.head
        records, rows = [], []
        for message in messages:
            offset += 1
            head = link_fact(head, offset, message.digest)
            records.append(store_record(message, head))
            rows.append(_row(message.subject, message.message_id, offset, message.digest, head))
        end = Position(offset, head)
        try:
            await log.append(records, self._end.offset)
        except PositionError as error:
            # Nothing was stored, but the log is not where we believed: the caller tries again after settling.
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"the log moved: {error}") from error
        await self._ledger.record(self.log_id(log.epoch), rows, end, offset)
        self._end = end

    async def _settle(self) -> None:
        log = await self._logs.open_store(self.category)
        state = await log.state()
        account = await self._ledger.log(self.log_id(log.epoch))
        if account is not None:
            agreed = await self._agreed(log, account, state.last)
            if account.retired or agreed < account.seq or await self._has_more(account, state):
                # The ledger was entered after the log was fsynced, so this log lost its end: an older copy came back.
                # So it was when a log comes back that had been replaced, or that went on in another way since.
                await self._retire(log.epoch, account.seq, kept=agreed)
                await log.roll_epoch(None)
                account = None
        others = [old for old in await self._ledger.logs(self.zone, self.category) if old.id.epoch != log.epoch]
        replaced = [old for old in others if not old.retired]
        if replaced and account is None and state.last:
            await log.roll_epoch(None)  # an older copy came back: its readers, too, must be told of what came after it
        for old in replaced:
            await self._retire(old.id.epoch, old.seq, kept=0)
        self._end = account.through if account is not None else Position()
        await self._follow(log, state.last)
        self._log, self._damaged = log, False
        self.changed.fire()

    async def _agreed(self, log: LogPort, account: LedgerLog, last: int) -> int:
        """Through which offset an account and the log are of one history, as far as the log can still tell."""
        offset = min(account.seq, last)
        records = await log.read(offset - 1, 1, MAX_PAGE_BYTES) if offset else []
        if not records or records[0].seq != offset:
            return offset
        rows = await self._ledger.rows(account.id, offset - 1, 1)
        return offset if rows and (rows[0].offset, rows[0].head) == (offset, records[0].chain) else 0

    async def _has_more(self, account: LedgerLog, state: LogState) -> bool:
        """Whether an account that was rebuilt knows less of a log's beginning than a copy that came back."""
        if not state.first <= min(account.seq, state.last):
            return False
        rows = await self._ledger.rows(account.id, state.first - 1, 1)
        return bool(rows) and (rows[0].offset != state.first or rows[0].outcome == GONE)

    async def _retire(self, epoch: bytes, last: int, kept: int) -> None:
        if kept < last:  # told first: after a crash in between it is told once more, and never forgotten
            incident = Incident(
                Reason.LOG_LOST,
                f"{self.category}: facts {kept + 1} to {last} of epoch {epoch.hex()[:8]} are no longer in the log",
                {"category": self.category, "epoch": epoch.hex(), "first": str(kept + 1), "last": str(last)},
            )
            _log.error("%s", incident.detail)
            await self._ledger.note(incident)
            self._note(incident)
        await self._ledger.retire(self.log_id(epoch), kept)

    async def _follow(self, log: LogPort, last: int) -> None:
        """Enter what the log holds behind the ledger's end, page by page; what is gone from it by now too."""
        while (after := self._end.offset) < last:
            records = await log.read(after, MAX_PAGE_FACTS, MAX_PAGE_BYTES)
            rows: list[LedgerRow] = []
            if records:
                # Each record carries the chain with it: a ledger can be rebuilt even if the log's start is gone.
                for record in records:
                    if record.seq > after + 1:
                        rows.append(gone_row(record.seq - 1, rows[-1].head if rows else self._end.head))
                    rows.append(row_of(record, record.chain))
                    after = record.seq
            else:
                first = (await log.state()).first
                if first <= last and after + 1 >= first:
                    raise IntegrityError(
                        Reason.LOG_DAMAGED, f"{self.category}: nothing readable behind {after} of {last}"
                    )
                # Retention emptied the log: its end is known, its content is gone.
                gap = Gap(after + 1, last, GapReason.RETENTION)
                rows.append(gone_row(last, link_gap(self._end.head, gap)))
            end = Position(rows[-1].offset, rows[-1].head)
            await self._ledger.record(self.log_id(log.epoch), rows, end, end.offset)
            self._end = end


def _row(subject: FactSubject, message_id: MessageId, offset: int, digest: bytes, head: bytes) -> LedgerRow:
    return LedgerRow(offset, offset, subject.to, subject.producer, message_id, digest, head)


def _decide_full(unit: Unit, known: Mapping[Key, KnownId], refused: RefusedError) -> list[AppendResult]:
    """When the log refused the batch: what is so without it stands, and nothing is said to be stored in it. Pure."""
    verdicts = [fact if isinstance(fact, AppendResult) else _judge(fact, known, {}) for fact in unit]
    if any(verdict is not None and _is_refusal(verdict) for verdict in verdicts):
        full = AppendResult(AppendOutcome.NOT_STORED)
        return [v if isinstance(v, AppendResult) and _is_refusal(v) else full for v in verdicts]
    full = AppendResult(AppendOutcome.INVALID, reason=refused.reason, detail=refused.detail)
    return [verdict if isinstance(verdict, AppendResult) else full for verdict in verdicts]


def _place(verdict: Verdict, base: int) -> AppendResult:
    if isinstance(verdict, AppendResult):
        return verdict
    return AppendResult(verdict.outcome, offset=base + verdict.index + 1)
