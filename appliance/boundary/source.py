# SPDX-License-Identifier: Apache-2.0
"""The side that has the facts: builds pages for one reader, explains gaps, takes receipts.

Theory of operation: the ledger says which facts a reader must be served; the log supplies their bytes. A fact the
ledger knows and the log no longer has is never skipped in silence: dropped by retention it becomes an explicit gap,
otherwise the log is damaged and stops crossing right there. The chain over what a reader was served is recomputed from
the ledger, so the reader's own head proves that both mean the same history; if not, this reader starts a new epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from appliance.boundary.errors import IntegrityError, PositionError, RefusedError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import (
    MAX_PAGE_BYTES,
    MAX_PAGE_FACTS,
    START,
    Fact,
    FetchRequest,
    Gap,
    GapReason,
    Page,
    Position,
    Receipt,
    Signature,
    link,
    link_gap,
)
from appliance.boundary.paths import Ways
from appliance.boundary.policy import ZonePolicy
from appliance.boundary.ports import KeysPort, LedgerPort, LogPort
from appliance.boundary.reasons import Reason
from appliance.boundary.records import Incident, LedgerLog, LedgerRow, LogId, StoredRecord
from appliance.boundary.store import StoreBuffer

_log = logging.getLogger(__name__)


class Source:
    """Serves the zone's store buffers to readers; implements :class:`~appliance.boundary.ports.SourcePort`."""

    def __init__(
        self,
        policy: ZonePolicy,
        stores: dict[Category, StoreBuffer],
        ledger: LedgerPort,
        keys: KeysPort,
        *,
        note: Callable[[Incident], None],
    ) -> None:
        self._policy = policy
        self._stores = stores
        self._ledger = ledger
        self._keys = keys
        self._note = note
        self._served: dict[tuple[ZoneId, LogId], Position] = {}
        self._confirming = trio.Lock()
        self._rolling = trio.Lock()
        self._regressed: dict[tuple[ZoneId, LogId], int] = {}

    async def fetch_page(self, reader: ZoneId, request: FetchRequest) -> Page:
        """See :class:`~appliance.boundary.ports.SourcePort`."""
        self._policy.check_fetch(reader, request.category)
        store = self._stores[request.category]
        log = await store.settled()
        epoch = log.epoch_for(reader)
        if request.epoch != epoch:
            closing = await self._closing_page(reader, store, request, epoch)
            if closing is not None:
                return closing
        view = store.log_id(epoch)
        await self._check_position(reader, store, log, view, request.after)
        deadline = trio.current_time() + request.wait_ms / 1000
        while True:
            changed = store.changed.next()
            page = await self._page(reader, store, log, view, request)
            if not page.is_probe or trio.current_time() >= deadline:
                break
            with trio.move_on_at(deadline):
                await changed.wait()
            log = await store.settled()
            if log.epoch_for(reader) != epoch:
                raise PositionError(Reason.LOG_DIVERGED, "the log was replaced", epoch=log.epoch_for(reader))
        self._served[reader, view] = page.through
        return page

    async def confirm_receipt(self, reader: ZoneId, receipt: Receipt) -> Signature:
        """See :class:`~appliance.boundary.ports.SourcePort`."""
        self._policy.check_fetch(reader, receipt.category)
        if receipt.receiver != reader or receipt.origin != self._policy.zone:
            raise RefusedError(Reason.BAD_RECEIPT, f"{reader} for {receipt.receiver} of {receipt.origin}")
        if receipt.signature is None or not self._keys.verify(reader, receipt.statement(), receipt.signature):
            raise RefusedError(Reason.BAD_RECEIPT, "the signature is not the receiver's")
        store = self._stores[receipt.category]
        await store.settled()
        view = store.log_id(receipt.epoch)
        if not await self._was_served(reader, store, view, receipt.through):
            raise RefusedError(Reason.BAD_RECEIPT, f"offset {receipt.through.offset} has another chain head here")
        countersignature = await self._keys.sign(receipt.statement())  # may take a second: nobody else waits for it
        async with self._confirming:  # of two that come at once, the newer one stays
            if await self._is_news(reader, view, receipt):
                await self._ledger.put_receipt(receipt, countersignature)
                self._regressed.pop((reader, view), None)
        return countersignature  # an older receipt that was late on its way is true, and changes nothing

    async def contradicted(self, reader: ZoneId, category: Category) -> Receipt | None:
        """The newest receipt of a reader that the ledger contradicts: its facts are not what was confirmed; else none.

        The receipt was compared with the ledger when it came, and countersigned. So this proves that the ledger was
        changed since; a log or a ledger that lost its end, or was made anew, is no contradiction.
        """
        store = self._stores[category]
        log = await store.settled()
        view = store.log_id(log.epoch_for(reader))
        receipt, account = await self._ledger.last_receipt(view, reader), await self._account(store, view)
        if receipt is None or account is None or receipt.through.offset > account.through.offset:
            return None
        if receipt.signature is None or not self._keys.verify(reader, receipt.statement(), receipt.signature):
            return None  # then it proves nothing; an audit says so
        return None if await self._leads(START, receipt.through, reader, store, view) else receipt

    async def _is_news(self, reader: ZoneId, view: LogId, receipt: Receipt) -> bool:
        """Whether a receipt says more than the one before it.

        A reader that was set back confirms less than before, once it has got something again; what it confirmed before
        may come late, and says nothing of what it has now.
        """
        set_back_to = self._regressed.get((reader, view))
        if set_back_to is not None:
            served = self._served.get((reader, view), START)
            return set_back_to < receipt.through.offset <= served.offset
        last = await self._ledger.last_receipt(view, reader)
        return last is None or receipt.through.offset >= last.through.offset

    # -- positions ---------------------------------------------------------------------------------------------------

    async def _check_position(
        self, reader: ZoneId, store: StoreBuffer, log: LogPort, view: LogId, after: Position
    ) -> None:
        if after == self._served.get((reader, view)):
            return
        if after == START or await self._was_served(reader, store, view, after):
            await self._note_regress(reader, view, after)
            return
        async with self._rolling:  # of two such requests at once, one is enough
            epoch = log.epoch_for(reader)
            if epoch != view.epoch:
                raise PositionError(Reason.LOG_DIVERGED, f"at offset {after.offset}", epoch=epoch)
            epoch = await log.roll_epoch(reader)
        await self._report(
            Reason.LOG_DIVERGED,
            f"{reader} stands at {after.offset} of {store.category} with another history; it starts epoch "
            f"{epoch.hex()[:8]}",
            {"peer": reader, "category": store.category, "epoch": epoch.hex()},
        )
        store.changed.fire()
        raise PositionError(Reason.LOG_DIVERGED, f"at offset {after.offset}", epoch=epoch)

    async def _note_regress(self, reader: ZoneId, view: LogId, after: Position) -> None:
        """A reader behind what it confirmed was restored from an older copy: it is refilled, and that is noted."""
        receipt = await self._ledger.last_receipt(view, reader)
        if receipt is not None and receipt.through.offset > after.offset:
            self._regressed[reader, view] = after.offset
            await self._report(
                Reason.PEER_REGRESSED,
                f"{reader} stands at {after.offset} of {view.category}, and had confirmed {receipt.through.offset}",
                {"peer": reader, "category": view.category},
            )

    async def _was_served(self, reader: ZoneId, store: StoreBuffer, view: LogId, position: Position) -> bool:
        """Whether this is where the reader must stand, by what it was served up to there.

        Its newest receipt shortens the way; a reader that was refilled may have come another way than before it.
        """
        account = await self._account(store, view)
        if account is None or position.offset > account.through.offset:
            return False
        receipt = await self._ledger.last_receipt(view, reader)
        near = receipt.through if receipt is not None and receipt.through.offset <= position.offset else START
        if near != START and await self._leads(near, position, reader, store, view):
            return True
        return await self._leads(START, position, reader, store, view)

    async def _leads(
        self, start: Position, position: Position, reader: ZoneId, store: StoreBuffer, view: LogId
    ) -> bool:
        """Whether a reader can have come from one position to another along rows and served gaps."""
        ways = Ways(start, await self._ledger.served_gaps(view, reader))
        reached = start.offset
        while reached < position.offset:
            rows = await self._rows(store, view, reached, MAX_PAGE_FACTS, reader)
            for row in rows:
                if row.offset > position.offset:
                    break
                ways.take(row.offset, row.digest)
            if len(rows) < MAX_PAGE_FACTS:
                break
            reached = rows[-1].offset
        return ways.lead_to(position)

    async def _account(self, store: StoreBuffer, view: LogId) -> LedgerLog | None:
        """The account behind a view: a reader with an epoch of its own is served from the log's current account."""
        account = await self._ledger.log(view)
        if account is not None:
            return account
        log = await store.settled()
        return await self._ledger.log(store.log_id(log.epoch))

    async def _rows(self, store: StoreBuffer, view: LogId, after: int, limit: int, reader: ZoneId) -> list[LedgerRow]:
        account = await self._account(store, view)
        return [] if account is None else await self._ledger.rows(account.id, after, limit, reader)

    # -- pages -------------------------------------------------------------------------------------------------------

    async def _page(self, reader: ZoneId, store: StoreBuffer, log: LogPort, view: LogId, request: FetchRequest) -> Page:
        limit = max(1, min(request.max_facts, MAX_PAGE_FACTS - 1))  # one place of a batch is left for a marker
        rows = await self._rows(store, view, request.after.offset, limit, reader)
        if not rows:
            return Page(self._policy.zone, store.category, view.epoch, request.after, request.after)
        records = await log.read(
            request.after.offset, len(rows), max(1, min(request.max_bytes, MAX_PAGE_BYTES)), reader
        )
        gaps, rows = await self._missing(reader, log, view, request.after.offset, rows, records)
        facts = _facts(store.category, request.after.offset, gaps, rows, records)
        page = Page(self._policy.zone, store.category, view.epoch, request.after, START, facts, gaps)
        head, through = request.after.head, request.after.offset
        for item in page.items():
            head = link(head, item)
            through = item.last if isinstance(item, Gap) else item.offset
        pending = store.end.offset - through if len(facts) < len(rows) or len(rows) == limit else 0
        return Page(
            self._policy.zone, store.category, view.epoch, request.after, Position(through, head), facts, gaps, pending
        )

    async def _missing(
        self,
        reader: ZoneId,
        log: LogPort,
        view: LogId,
        after: int,
        rows: list[LedgerRow],
        records: Sequence[StoredRecord],
    ) -> tuple[tuple[Gap, ...], list[LedgerRow]]:
        """Explain rows in front of the first record: retention makes a gap, anything else is damage."""
        if records and records[0].seq == rows[0].offset:
            return (), rows
        first = (await log.state()).first
        if rows[0].offset >= first:
            raise IntegrityError(Reason.LOG_DAMAGED, f"{view.category}: fact {rows[0].offset} is missing from the log")
        gap = Gap(after + 1, first - 1, GapReason.RETENTION)  # one gap for all that is gone, however much it is
        await self._tell(view, reader, gap)
        return (gap,), [row for row in rows if row.offset >= first]

    async def _tell(self, view: LogId, reader: ZoneId, gap: Gap) -> None:
        """Remember a gap before it is served, beside those told in other answers to the same reader."""
        told = await self._ledger.served_gaps(view, reader)
        if gap not in told:
            after = gap.first - 1
            await self._ledger.put_served_gaps(view, reader, after, [*(g for g in told if g.last > after), gap])

    # -- logs that were replaced -------------------------------------------------------------------------------------

    async def _closing_page(
        self, reader: ZoneId, store: StoreBuffer, request: FetchRequest, current: bytes
    ) -> Page | None:
        """What a reader has not got of logs that were replaced is a gap, said once for each of them, oldest first.

        ``None``: a new reader, and nothing was lost before it came.

        :raises PositionError: ``log_diverged``: nothing is left to say about this epoch; go on with the one named.
        """
        epoch, after = request.epoch, request.after
        if not epoch:
            epoch = await self._unclosed(reader, store, epoch)
            if not epoch:
                return None
        account = await self._ledger.log(store.log_id(epoch))
        if account is None or not await self._is_owed(reader, account, after.offset):
            following = await self._unclosed(reader, store, epoch) or current
            raise PositionError(Reason.LOG_DIVERGED, f"epoch {epoch.hex()[:8]} has ended", epoch=following)
        gap = Gap(after.offset + 1, account.through.offset, GapReason.LOG_LOST)
        await self._tell(account.id, reader, gap)
        through = Position(gap.last, link_gap(after.head, gap))
        return Page(self._policy.zone, store.category, epoch, after, through, gaps=(gap,))

    async def _unclosed(self, reader: ZoneId, store: StoreBuffer, ended: bytes) -> bytes:
        """The next replaced log behind ``ended`` of which this reader must be told yet that facts are lost.

        A reader that stands in one of them has none of those behind it, whatever it confirmed before it was restored.
        """
        accounts = await self._ledger.logs(self._policy.zone, store.category)
        epochs = [account.id.epoch for account in accounts]
        if not ended or ended in epochs:
            told = {}
        else:
            receipts = [await self._ledger.last_receipt(account.id, reader) for account in accounts]
            told = {receipt.epoch: receipt.through.offset for receipt in receipts if receipt is not None}
        for account in accounts[epochs.index(ended) + 1 :] if ended in epochs else accounts:
            if await self._is_owed(reader, account, told.get(account.id.epoch, 0)):
                return account.id.epoch
        return b""

    async def _is_owed(self, reader: ZoneId, account: LedgerLog, after: int) -> bool:
        """Whether facts behind an offset were lost with a replaced log that this reader should have got."""
        if account.kept is None or after >= account.through.offset:
            return False
        return bool(await self._ledger.rows(account.id, max(after, account.kept), 1, reader))

    async def _report(self, reason: Reason, detail: str, facts: dict[str, str]) -> None:
        _log.warning("%s: %s", reason, detail)
        incident = Incident(reason, detail, facts)
        await self._ledger.note(incident)
        self._note(incident)


def _facts(
    category: Category, after: int, gaps: Sequence[Gap], rows: Sequence[LedgerRow], records: Sequence[StoredRecord]
) -> tuple[Fact, ...]:
    """Join ledger rows and log records one to one; the page ends before the first that do not match.

    :raises IntegrityError: ``log_damaged`` when it would end before its first fact.
    """
    facts: list[Fact] = []
    prev = gaps[-1].last if gaps else after
    for row, record in zip(rows, records, strict=False):
        if row.offset != record.seq or row.digest != record.digest:
            break
        facts.append(Fact(row.offset, prev, record.subject, record.payload, row.digest))
        prev = row.offset
    if not facts and not gaps:
        raise IntegrityError(Reason.LOG_DAMAGED, f"{category}: log and ledger differ at {rows[0].offset}")
    return tuple(facts)
