# SPDX-License-Identifier: Apache-2.0
"""The side that wants the facts: commits pages at the frontier, exactly once, and answers with receipts.

Theory of operation: one forward buffer per (origin, category, epoch), one writer. A page must start at the frontier,
which is read from the log alone. :mod:`appliance.boundary.judging` decides what of it is stored and what is diverted; a
diverted fact is *consumed*: it never stops the facts behind it. Order of writing: dead letters, diverted rows of the
ledger, log (facts and position in one batch), the whole page in the ledger, answer. A crash between any two repeats the
same decisions and changes nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from appliance.boundary.claims import IdClaims, Signal
from appliance.boundary.errors import BsfgError, DeniedError, PositionError, RefusedError
from appliance.boundary.judging import Judged, check_facts, judge
from appliance.boundary.messages import Message
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import (
    MAX_PAGE_BYTES,
    MAX_PAGE_FACTS,
    START,
    Countersigned,
    Page,
    PageAnswer,
    Position,
    Receipt,
)
from appliance.boundary.policy import ZonePolicy
from appliance.boundary.ports import KeysPort, LedgerPort, LogPort, LogsPort
from appliance.boundary.reasons import Reason
from appliance.boundary.records import (
    Incident,
    LogId,
    StoredRecord,
    position_marker,
    received_row,
)

_log = logging.getLogger(__name__)

MAX_EPOCHS = 64
"""Epochs of one origin's category that are accepted before an operator must look."""
FULL_RETRY_MS = 5000
"""How long a sender waits when our buffer is full."""
RECEIPT_EVERY_FACTS = 10_000
RECEIPT_EVERY_S = 10.0


class ForwardBuffer:
    """The facts received from one epoch of an origin's log. Settles itself from log and ledger."""

    def __init__(self, log_id: LogId, me: ZoneId, logs: LogsPort, ledger: LedgerPort, claims: IdClaims) -> None:
        self.log_id = log_id
        self.lock = trio.Lock()
        self.frontier = START
        self.receipted: Receipt | None = None
        self.receipted_at = -RECEIPT_EVERY_S
        self.seq = 0
        self._marked = START
        self._me = me
        self._logs = logs
        self._ledger = ledger
        self._claims = claims
        self._log: LogPort | None = None

    @property
    def is_settled(self) -> bool:
        """Whether log and ledger are level."""
        return self._log is not None

    async def settled(self) -> LogPort:
        """The log with frontier and ledger level with it; call with :attr:`lock` held."""
        if self._log is None:
            log = await self._logs.open_forward(self.log_id)
            await self._settle(log)
            self.receipted = await self._ledger.last_receipt(self.log_id, self._me)
            if self.receipted is not None and self.receipted.through.offset > self.frontier.offset:
                self.receipted = None  # this copy is older than what was confirmed: confirm anew from here
            self._log = log
        return self._log

    def unsettle(self) -> None:
        """The outcome of a write is unknown: read the log again before the next step."""
        self._log, self._marked = None, START

    async def commit(self, page: Page) -> Judged:
        """Commit a page that starts at the frontier; call with :attr:`lock` held."""
        log = await self.settled()
        checked = check_facts(self.log_id, self._me, page)
        keys = [content.key for content in checked.values() if isinstance(content, Message)]
        async with self._claims.hold(self.log_id.origin, keys):
            known = await self._ledger.known(self.log_id.origin, keys)
            judged = judge(self.log_id, page, checked, known, self.seq)
            try:
                for letter in judged.dead:
                    await self._logs.keep_dead_letter(letter)
                if diverted := [row for row in judged.rows if row.seq == 0]:
                    # The log will not hold these; without them nobody could compute its chain again after a crash.
                    await self._ledger.record(self.log_id, diverted, self.frontier, self.seq)
                seq = await log.append(judged.records, self.seq) if judged.records else self.seq
                await self._ledger.record(self.log_id, judged.rows, judged.through, seq)
            except RefusedError:
                raise  # nothing was stored
            except (BsfgError, trio.Cancelled):
                self.unsettle()
                raise
        self.seq, self.frontier = seq, judged.through
        return judged

    async def mark_idle(self) -> None:
        """Leave a position marker, so that the position outlives the facts; call with :attr:`lock` held."""
        log = await self.settled()
        if self.frontier in (START, self._marked):
            return
        last = await log.last()
        if last is not None and not last.is_fact and last.position == self.frontier:
            self._marked = self.frontier
            return
        await self.mark()

    async def mark(self) -> None:
        """Leave a position marker. Nothing that was sent to the log before, and is late, can be stored behind it."""
        log = await self.settled()
        try:
            self.seq = await log.append([position_marker(self.frontier)], self.seq)
            await self._ledger.record(self.log_id, [], self.frontier, self.seq)
            self._marked = self.frontier
        except (BsfgError, trio.Cancelled):
            self.unsettle()
            raise

    async def _settle(self, log: LogPort) -> None:
        state, last = await log.state(), await log.last()
        account = await self._ledger.log(self.log_id)
        at, seq = (account.through, account.seq) if account is not None else (START, 0)
        if seq > state.last:
            # The log is an older copy: what it does not hold was not received, and its ids are free again.
            at, seq = (last.position if last is not None else START), state.last
            await self._ledger.truncate(self.log_id, at, seq)
        if not await self._is_of(log, at, seq, last):
            # The log was restored and then went on in another way: only what it holds now was received.
            at, seq = START, 0
            await self._ledger.truncate(self.log_id, at, seq)
        while seq < state.last:
            records = await log.read(seq, MAX_PAGE_FACTS, MAX_PAGE_BYTES)
            if not records:
                break
            rows = [row for record in records if (row := received_row(record)) is not None]
            at, seq = records[-1].position, records[-1].seq
            await self._ledger.record(self.log_id, rows, at, seq)
        if await self._ledger.rows(self.log_id, at.offset, 1):
            await self._ledger.truncate(self.log_id, at, seq)  # diverted facts of a page that did not get into the log
        self.frontier, self.seq = at, state.last

    async def _is_of(self, log: LogPort, at: Position, seq: int, last: StoredRecord | None) -> bool:
        """Whether a position at a sequence belongs to this log, as far as what is left of it can tell."""
        if last is None or seq == 0:
            return True
        if last.seq == seq:
            return last.position == at
        if last.seq < seq:  # retention has dropped what stood there: what stands before must be in the account
            rows = await self._ledger.rows(self.log_id, last.position.offset - 1, 1)
            return not rows or rows[0].offset != last.position.offset or rows[0].head == last.position.head
        for record in await log.read(seq - 1, 1, MAX_PAGE_BYTES):
            return record.position == at or (record.seq > seq and record.position.offset > at.offset)
        return True


class Sink:
    """Takes pages from other zones; implements :class:`~appliance.boundary.ports.SinkPort`."""

    def __init__(
        self,
        policy: ZonePolicy,
        logs: LogsPort,
        ledger: LedgerPort,
        keys: KeysPort,
        claims: IdClaims,
        *,
        wall_clock_ms: Callable[[], int],
        note: Callable[[Incident], None],
    ) -> None:
        self.changed = Signal()
        self._policy = policy
        self._logs = logs
        self._ledger = ledger
        self._keys = keys
        self._claims = claims
        self._wall_clock_ms = wall_clock_ms
        self._note = note
        self._buffers: dict[LogId, ForwardBuffer] = {}
        self._current: dict[tuple[ZoneId, Category], bytes] = {}
        self._relocated: set[tuple[ZoneId, Category]] = set()
        self._back: dict[tuple[ZoneId, Category], bytes] = {}
        self._ended: set[tuple[bytes, int]] = set()
        self._levelled: set[tuple[ZoneId, Category]] = set()
        self._opening = trio.Lock()

    async def append_page(self, sender: ZoneId, page: Page, countersigned: Countersigned | None = None) -> PageAnswer:
        """See :class:`~appliance.boundary.ports.SinkPort`."""
        self._policy.check_append(sender, page.category)
        if page.origin != sender:
            raise DeniedError(Reason.ZONE_MISMATCH, f"{sender} sent a page of {page.origin}")
        if countersigned is not None:
            await self._take_countersigned(sender, countersigned)
        if page.epoch and (sender, page.category) not in self._current:
            # Between two lives an older copy may have been restored: a transfer must start from what is here now.
            raise PositionError(Reason.OUT_OF_ORDER, "ask for the newest epoch first")
        if page.is_probe:
            return await self._frontier(LogId(sender, page.category, page.epoch))
        buffer = await self._buffer(LogId(sender, page.category, page.epoch), page)
        async with buffer.lock:
            await buffer.settled()
            if page.after != buffer.frontier:
                raise self._out_of_order(buffer, page)
            try:
                judged = await buffer.commit(page)
            except RefusedError as refused:
                if refused.reason is not Reason.BUFFER_FULL:
                    raise
                # Nothing of it was stored, and nothing is wrong with it: the sender waits, and asks with one fact.
                return PageAnswer(page.epoch, buffer.frontier, credit_facts=0, retry_after_ms=FULL_RETRY_MS)
            await self._report(buffer, judged)
            receipt = await self._receipt(buffer, idle=False)
        self.changed.fire()
        return PageAnswer(page.epoch, buffer.frontier, receipt=receipt)

    async def _frontier(self, log: LogId) -> PageAnswer:
        """Answer a probe: how far a log was received; without an epoch, the newest one known."""
        epochs = await self._logs.forward_epochs(log.origin, log.category)
        if not log.epoch:
            self._current[log.origin, log.category] = epochs[-1] if epochs else b""
            self._relocated.add((log.origin, log.category))
            if not epochs:
                return PageAnswer(b"", START)
            log = LogId(log.origin, log.category, epochs[-1])
        async with self._opening:
            await self._level(log.origin, log.category)
            await self._change_to(log, epochs)
        if log.epoch not in epochs:
            return PageAnswer(log.epoch, START)
        buffer = self._buffers.setdefault(log, self._new_buffer(log))
        async with buffer.lock:
            await buffer.settled()
            await buffer.mark_idle()
            return PageAnswer(log.epoch, buffer.frontier, receipt=await self._receipt(buffer, idle=True))

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _buffer(self, log: LogId, page: Page) -> ForwardBuffer:
        async with self._opening:
            await self._level(log.origin, log.category)
            if log in self._buffers and log.epoch == self._current[log.origin, log.category]:
                return self._buffers[log]
            epochs = await self._logs.forward_epochs(log.origin, log.category)
            if log.epoch not in epochs and page.after != START:
                raise PositionError(Reason.OUT_OF_ORDER, "this epoch starts at 0", epoch=log.epoch)
            await self._change_to(log, epochs)
            return self._buffers.setdefault(log, self._new_buffer(log))

    async def _level(self, origin: ZoneId, category: Category) -> None:
        """Make the ledger follow every log of an origin's category, also those that have ended.

        What an ended log holds was received, and what it lost (or a log that is gone) was not: the ids must say so
        before a page is judged.
        """
        if (origin, category) not in self._levelled:
            epochs = await self._logs.forward_epochs(origin, category)
            for account in await self._ledger.logs(origin, category):
                if account.id.epoch not in epochs and account.seq:
                    await self._ledger.truncate(account.id, START, 0)
            for epoch in epochs:
                log = LogId(origin, category, epoch)
                self._buffers.setdefault(log, self._new_buffer(log))
            self._levelled.add((origin, category))
        for log, buffer in list(self._buffers.items()):
            if (log.origin, log.category) == (origin, category) and not buffer.is_settled:
                async with buffer.lock:
                    await buffer.settled()

    async def _change_to(self, log: LogId, epochs: Sequence[bytes]) -> None:
        """When a transfer goes on with another log than it was told, the one before has ended: that is said once.

        To a log that is known here it can only go back after it asked anew where to go on, and then it keeps asking for
        it; anything else is an old request that was late.
        """
        transfer = (log.origin, log.category)
        current = self._current[transfer]
        if log.epoch == current:
            self._back.pop(transfer, None)
            return
        known = [account.id.epoch for account in await self._ledger.logs(log.origin, log.category)]
        is_known = log.epoch in known or log.epoch in epochs
        if is_known and (transfer not in self._relocated or self._back.get(transfer) != log.epoch):
            self._back[transfer] = log.epoch  # the second request in a row is no stray one
            return
        if not is_known and max(len(known), len(epochs)) >= MAX_EPOCHS:
            raise PositionError(Reason.TOO_MANY_EPOCHS, f"{len(known)} of {log.origin} {log.category}")
        if current in epochs:
            await self._diverged(log, current)
        if not is_known:
            await self._ledger.record(log, [], START, 0)
        self._current[transfer] = log.epoch
        self._relocated.discard(transfer)

    def _new_buffer(self, log: LogId) -> ForwardBuffer:
        return ForwardBuffer(log, self._policy.zone, self._logs, self._ledger, self._claims)

    async def _diverged(self, log: LogId, previous: bytes) -> None:
        """A log was replaced: through where it was received is all that anybody will ever get of it."""
        buffer = self._buffers[LogId(log.origin, log.category, previous)]
        async with buffer.lock:
            await buffer.mark()
        ended = buffer.frontier.offset
        if (previous, ended) in self._ended:
            return
        incident = Incident(
            Reason.LOG_DIVERGED,
            f"{log.origin} {log.category}: epoch {previous.hex()[:8]} ended at {ended}, epoch {log.epoch.hex()[:8]} "
            "begins",
            {
                "peer": log.origin,
                "category": log.category,
                "epoch": log.epoch.hex(),
                "ended": previous.hex(),
                "after": str(ended),
            },
        )
        _log.warning("%s", incident.detail)
        await self._ledger.note(incident)
        self._note(incident)
        self._ended.add((previous, ended))

    def _out_of_order(self, buffer: ForwardBuffer, page: Page) -> PositionError:
        return PositionError(
            Reason.OUT_OF_ORDER,
            f"frontier {buffer.frontier.offset}, page after {page.after.offset}",
            epoch=buffer.log_id.epoch,
            offset=buffer.frontier.offset,
            head=buffer.frontier.head,
        )

    async def _report(self, buffer: ForwardBuffer, judged: Judged) -> None:
        for letter in judged.dead:
            detail = f"{buffer.log_id.origin} {buffer.log_id.category} fact {letter.offset}: {letter.detail}"
            _log.warning("dead letter: %s: %s", letter.reason, detail)
            await self._ledger.note(Incident(letter.reason, detail, {"offset": str(letter.offset)}))

    async def _receipt(self, buffer: ForwardBuffer, *, idle: bool) -> Receipt | None:
        """A signed receipt when one is due: at idle, every 10 000 facts or every 10 s (DESIGN section 4)."""
        last = buffer.receipted.through.offset if buffer.receipted is not None else 0
        news = buffer.frontier.offset - last
        late = trio.current_time() - buffer.receipted_at >= RECEIPT_EVERY_S
        if news <= 0:
            return buffer.receipted if idle else None  # the answer that carried it may have been lost
        if not (idle or late or news >= RECEIPT_EVERY_FACTS):
            return None
        unsigned = Receipt(
            buffer.log_id.origin,
            self._policy.zone,
            buffer.log_id.category,
            buffer.log_id.epoch,
            buffer.frontier,
            self._wall_clock_ms(),
        )
        receipt = signed(unsigned, self._keys)
        await self._ledger.put_receipt(receipt, None)
        buffer.receipted, buffer.receipted_at = receipt, trio.current_time()
        return receipt

    async def _take_countersigned(self, source: ZoneId, countersigned: Countersigned) -> None:
        receipt = countersigned.receipt
        if receipt.origin != source or receipt.receiver != self._policy.zone:
            raise RefusedError(Reason.BAD_RECEIPT, f"of {receipt.origin} for {receipt.receiver}")
        if receipt.signature is None or not self._keys.verify(
            self._policy.zone, receipt.statement(), receipt.signature
        ):
            raise RefusedError(Reason.BAD_RECEIPT, "we did not sign this")
        if not self._keys.verify(source, receipt.statement(), countersigned.countersignature):
            raise RefusedError(Reason.BAD_RECEIPT, "the countersignature is not the source's")
        last = await self._ledger.last_receipt(LogId(source, receipt.category, receipt.epoch), self._policy.zone)
        if last is None or receipt.through.offset >= last.through.offset:  # else it was late, and a newer one is held
            await self._ledger.put_receipt(receipt, countersigned.countersignature)


def signed(receipt: Receipt, keys: KeysPort) -> Receipt:
    """The receipt with this zone's signature over its statement."""
    return Receipt(
        receipt.origin,
        receipt.receiver,
        receipt.category,
        receipt.epoch,
        receipt.through,
        receipt.committed_at_unix_ms,
        keys.sign(receipt.statement()),
    )
