# SPDX-License-Identifier: Apache-2.0
"""The log of facts received from one epoch of an origin's log, level with the ledger, and its one writer.

Order of writing: dead letters, diverted rows of the ledger, log (facts and position in one batch), the whole page in
the ledger. A crash between any two repeats the same decisions and changes nothing twice.
"""

from __future__ import annotations

from math import inf

import trio

from appliance.boundary.claims import IdClaims
from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.judging import Judged, check_facts, judge
from appliance.boundary.messages import Message
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import MAX_PAGE_BYTES, MAX_PAGE_FACTS, START, Page, Position, Receipt
from appliance.boundary.ports import LedgerPort, LogPort, LogsPort
from appliance.boundary.records import LogId, StoredRecord, position_marker, received_row


class ForwardBuffer:
    """The facts received from one epoch of an origin's log. Settles itself from log and ledger."""

    def __init__(self, log_id: LogId, me: ZoneId, logs: LogsPort, ledger: LedgerPort, claims: IdClaims) -> None:
        self.log_id = log_id
        self.lock = trio.Lock()
        self.frontier = START
        self.receipted: Receipt | None = None
        """The newest receipt that is signed and in the ledger."""
        self.told: Receipt | None = None
        """The newest receipt that went out with an answer."""
        self.signed_at = -inf
        """When the newest signature was begun."""
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
            rows = await self._ledger.rows(self.log_id, at.offset - 1, 1)
            if not rows or (rows[0].offset, rows[0].head) != (at.offset, at.head):
                at, seq = START, 0  # nor does the account know how it came there: it was begun anew since
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
            return await self._is_known(last, at)
        for record in await log.read(seq - 1, 1, MAX_PAGE_BYTES):
            if record.seq == seq:
                return record.position == at
            is_marked_again = not record.is_fact and record.position == at
            if record.position.offset <= at.offset and not is_marked_again:
                return False
        before = await log.read(max(0, seq - MAX_PAGE_FACTS), MAX_PAGE_FACTS, MAX_PAGE_BYTES)
        nearest = [record for record in before if record.seq < seq][-1:]
        return not nearest or await self._is_known(nearest[0], at)

    async def _is_known(self, record: StoredRecord, at: Position) -> bool:
        """Whether a record in front of a position is in the account, as far as that can tell."""
        here = record.position
        rows = await self._ledger.rows(self.log_id, here.offset - 1, 1)
        is_other = rows and rows[0].offset == here.offset and rows[0].head != here.head
        return here.offset <= at.offset and not is_other
