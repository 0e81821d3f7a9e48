# SPDX-License-Identifier: Apache-2.0
"""The side that wants the facts: commits pages at the frontier, exactly once, and answers with receipts.

Theory of operation: one forward buffer per (origin, category, epoch), one writer. A page must start at the frontier,
which is read from the log alone. :mod:`appliance.boundary.judging` decides what of it is stored and what is diverted; a
diverted fact is *consumed*: it never stops the facts behind it. :mod:`appliance.boundary.forward` writes, and only then
is the page answered. Receipts are signed beside the pages (:mod:`appliance.boundary.receipts`): an answer carries the
newest one there is, and one that is still being signed comes with a later answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from appliance.boundary.claims import IdClaims, Signal
from appliance.boundary.errors import BsfgError, DeniedError, PositionError, RefusedError
from appliance.boundary.forward import ForwardBuffer
from appliance.boundary.judging import Judged
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import START, Countersigned, GapReason, Page, PageAnswer, Receipt
from appliance.boundary.policy import ZonePolicy
from appliance.boundary.ports import KeysPort, LedgerPort, LogsPort
from appliance.boundary.reasons import Reason
from appliance.boundary.receipts import ReceiptSigner
from appliance.boundary.records import Incident, LogId
from appliance.boundary.transfer import Backoff

_log = logging.getLogger(__name__)

MAX_EPOCHS = 64
"""Epochs of one origin's category that are accepted before an operator must look."""
FULL_RETRY_MS = 5000
"""How long a sender waits when our buffer is full."""
RECEIPT_EVERY_FACTS = 10_000
RECEIPT_EVERY_S = 10.0


class Sink:
    """Takes pages from other zones; implements :class:`~appliance.boundary.ports.SinkPort`.

    Receipts are signed by :meth:`run`; without it pages are committed as ever, and nobody gets a receipt.
    """

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
        backoff: Backoff | None = None,
    ) -> None:
        self.changed = Signal()
        self._policy = policy
        self._logs = logs
        self._ledger = ledger
        self._keys = keys
        self._claims = claims
        self._note = note
        self._signer = ReceiptSigner(policy.zone, ledger, keys, wall_clock_ms=wall_clock_ms, note=note, backoff=backoff)
        self._buffers: dict[LogId, ForwardBuffer] = {}
        self._current: dict[tuple[ZoneId, Category], bytes] = {}
        self._relocated: set[tuple[ZoneId, Category]] = set()
        self._back: dict[tuple[ZoneId, Category], bytes] = {}
        self._ended: set[tuple[bytes, int]] = set()
        self._levelled: set[tuple[ZoneId, Category]] = set()
        self._opening = trio.Lock()

    @property
    def receipt_problem(self) -> BsfgError | None:
        """Why receipts cannot be signed now, if so. Pages are committed all the same."""
        return self._signer.problem

    async def run(self) -> None:
        """Sign the receipts that are due, until cancelled."""
        await self._signer.run()

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
            answer = PageAnswer(page.epoch, buffer.frontier, receipt=self._receipt(buffer, idle=False))
        self.changed.fire()
        return answer

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
            return PageAnswer(log.epoch, buffer.frontier, receipt=self._receipt(buffer, idle=True))

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _buffer(self, log: LogId, page: Page) -> ForwardBuffer:
        async with self._opening:
            await self._level(log.origin, log.category)
            if log in self._buffers and log.epoch == self._current[log.origin, log.category]:
                return self._buffers[log]
            epochs = await self._logs.forward_epochs(log.origin, log.category)
            if log.epoch not in epochs and page.after != START:
                raise PositionError(Reason.OUT_OF_ORDER, "this epoch starts at 0", epoch=log.epoch)
            await self._change_to(log, epochs, page)
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

    async def _change_to(self, log: LogId, epochs: Sequence[bytes], page: Page | None = None) -> None:
        """When a transfer goes on with another log than it was told, the one before has ended: that is said once.

        To a log that is known here it can only go back after it asked anew where to go on, and then it keeps asking for
        it; anything else is an old request that was late. What comes with the last word on a lost log is that log's end
        alone.
        """
        transfer = (log.origin, log.category)
        current = self._current[transfer]
        if log.epoch == current:
            self._back.pop(transfer, None)
            return
        known = [account.id.epoch for account in await self._ledger.logs(log.origin, log.category)]
        is_known = log.epoch in known or log.epoch in epochs
        if is_known and current and (transfer not in self._relocated or self._back.get(transfer) != log.epoch):
            self._back[transfer] = log.epoch  # the second request in a row is no stray one
            return
        if not is_known and max(len(known), len(epochs)) >= MAX_EPOCHS:
            raise PositionError(Reason.TOO_MANY_EPOCHS, f"{len(known)} of {log.origin} {log.category}")
        if not is_known and not (page is not None and _is_last_word(page)):
            # Logs that began after it and of which nothing ever came have ended with it.
            for empty in known[known.index(current) + 1 if current in known else 0 :]:
                if empty not in epochs:
                    await self._tell_end(log, empty, 0)
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
        await self._tell_end(log, previous, buffer.frontier.offset)

    async def _tell_end(self, log: LogId, previous: bytes, ended: int) -> None:
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

    def _receipt(self, buffer: ForwardBuffer, *, idle: bool) -> Receipt | None:
        """The newest receipt, and have the next one signed when it is due (DESIGN section 4).

        Due is one at idle, every 10 000 facts and every 10 s. A page is answered with one that no answer has carried
        yet; at idle it is told in any case, for the answer that carried it may have been lost.
        """
        newest = buffer.receipted
        news = buffer.frontier.offset - (newest.through.offset if newest is not None else 0)
        late = trio.current_time() - buffer.signed_at >= RECEIPT_EVERY_S
        if news > 0 and (idle or late or news >= RECEIPT_EVERY_FACTS):
            self._signer.want(buffer)
        is_told = newest is buffer.told
        buffer.told = newest
        return newest if idle or not is_told else None

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
        log = LogId(source, receipt.category, receipt.epoch)
        async with self._signer.keeping:
            last = await self._ledger.last_receipt(log, self._policy.zone)
            if last is None or receipt.through.offset >= last.through.offset:  # else it was late: a newer one is held
                await self._ledger.put_receipt(receipt, countersigned.countersignature)


def _is_last_word(page: Page) -> bool:
    """Whether a page only says that a log is lost, so that nothing will follow it."""
    return bool(page.gaps) and not page.facts and page.gaps[-1].reason is GapReason.LOG_LOST
