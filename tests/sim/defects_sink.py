# SPDX-License-Identifier: Apache-2.0
"""Defects to be planted where facts arrive: judging, forward buffer, sink, receipts, crossing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import trio

from appliance.boundary import forward, judging
from appliance.boundary.confirming import Confirmer
from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.forward import ForwardBuffer
from appliance.boundary.messages import check_stored
from appliance.boundary.pages import START, Fact, Page, PageAnswer, Position, Receipt, link
from appliance.boundary.ports import LogPort
from appliance.boundary.reasons import Reason
from appliance.boundary.receipts import ReceiptSigner
from appliance.boundary.records import DUPLICATE, HEADER_POSITION, LogId, Record
from appliance.boundary.sink import Sink
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeLog, FakeLogs
from tests.sim.planted import Defect, Patch


async def _nothing(*_: object) -> None:
    await trio.lowlevel.checkpoint()


async def _always(*_: object) -> bool:
    await trio.lowlevel.checkpoint()
    return True


# -- what becomes of a page --------------------------------------------------------------------------------------------


def _chain_of_a_page_not_checked() -> Sequence[Patch]:
    """A receiver takes a page whose facts were left out, swapped or put in on the way."""
    judge = judging.judge

    def lenient(log: LogId, page: Page, *rest: Any) -> Any:
        facts: list[Fact] = []
        at = page.after
        for fact in page.facts:
            if fact.offset > at.offset:
                fixed = replace(fact, prev=at.offset)
                facts.append(fixed)
                at = Position(fixed.offset, link(at.head, fixed))
        return judge(log, page if page.gaps else replace(page, facts=tuple(facts), through=at), *rest)

    return [(forward, "judge", lenient)]


def _start_of_a_page_not_checked() -> Sequence[Patch]:
    """A receiver commits a page wherever it starts."""
    append_page = Sink.append_page

    async def credulous(self: Any, sender: Any, page: Page, countersigned: Any = None) -> PageAnswer:
        buffer = self._buffers.get(LogId(sender, page.category, page.epoch))
        if not page.is_probe and buffer is not None and buffer.is_settled:
            page = replace(page, after=buffer.frontier)
        return await append_page(self, sender, page, countersigned)

    return [(Sink, "append_page", credulous), (judging, "link", lambda head, item: b"x" * 32)]


def _gap_taken_without_a_record() -> Sequence[Patch]:
    """A gap moves the frontier on, and leaves nothing in the log for its readers."""
    judge = judging.judge

    def mute(*arguments: Any) -> Any:
        judged = judge(*arguments)
        judged.records = [
            Record(b"", {HEADER_POSITION: record.headers[HEADER_POSITION]}, marker="position")
            if record.marker == "gap"
            else record
            for record in judged.records
        ]
        return judged

    return [(forward, "judge", mute)]


def _poison_stops_the_page() -> Sequence[Patch]:
    """A fact that cannot be stored refuses the whole page, again and again."""

    def strict(log: LogId, me: Any, page: Page) -> Any:
        return {fact.offset: judging._check_fact(log, me, fact) for fact in page.facts}

    return [(forward, "check_facts", strict)]


def _poison_skipped() -> Sequence[Patch]:
    """A fact that cannot be stored is consumed, and nobody keeps it."""
    return [(FakeLogs, "keep_dead_letter", _nothing)]


def _poison_stored() -> Sequence[Patch]:
    """A fact is taken for what its sender says, whatever its bytes hash to."""
    check = check_stored

    def trusting(subject: str, message: bytes, digest: bytes) -> Any:
        return check(subject, message, hashlib.sha256(message).digest())

    return [(judging, "check_stored", trusting)]


def _chain_not_extended_by_diverted_facts() -> Sequence[Patch]:
    """A fact that is not stored is left out of the receiver's chain."""
    judge = judging.judge

    def forgetful(log: LogId, page: Page, *rest: Any) -> Any:
        judged = judge(log, page, *rest)
        if any(row.seq == 0 for row in judged.rows):
            head = next((row.head for row in reversed(judged.rows) if row.seq), page.after.head)
            judged.through = Position(judged.through.offset, head)
        return judged

    return [(forward, "judge", forgetful)]


def _duplicates_not_known_across_epochs() -> Sequence[Patch]:
    """What came under an earlier epoch is stored once more under the next."""

    async def forget(self: FakeLedger, origin: Any, keys: Any) -> Any:
        found = await known(self, origin, keys)
        return {key: held for key, held in found.items() if held.log.origin != origin or held.live} if found else found

    known = FakeLedger.known
    divert = judging._divert

    def fresh(log: LogId, fact: Fact, content: Any, known_ids: Any, taken: Any, dead: Any) -> str:
        own = {key: held for key, held in known_ids.items() if held.log.epoch == log.epoch}
        return divert(log, fact, content, own, taken, dead)

    return [(judging, "_divert", fresh), (FakeLedger, "known", forget)]


def _all_duplicates_are_conflicts() -> Sequence[Patch]:
    """A fact that is known already goes to the dead letters."""
    divert = judging._divert

    def strict(log: LogId, fact: Fact, content: Any, known: Any, taken: Any, dead: Any) -> str:
        outcome = divert(log, fact, content, known, taken, dead)
        if outcome == DUPLICATE:
            dead.append(judging._dead_letter(log, fact, Reason.CONFLICTING_DUPLICATE, "planted"))
        return outcome

    return [(judging, "_divert", strict)]


# -- order of writing --------------------------------------------------------------------------------------------------


def _position_saved_before_the_facts() -> Sequence[Patch]:
    """A receiver takes its position from the ledger, which it writes before the log."""
    settle, commit = ForwardBuffer._settle, ForwardBuffer.commit

    async def first_the_ledger(self: Any, page: Page) -> Any:
        await self._ledger.record(self.log_id, [], page.through, self.seq)
        return await commit(self, page)

    async def from_the_ledger(self: Any, log: LogPort) -> None:
        account = await self._ledger.log(self.log_id)
        await settle(self, log)
        if account is not None and account.through.offset > self.frontier.offset:
            self.frontier = account.through

    return [
        (ForwardBuffer, "commit", first_the_ledger),
        (ForwardBuffer, "_settle", from_the_ledger),
        (ForwardBuffer, "_is_of", _always),
    ]


def _dead_letter_after_the_log() -> Sequence[Patch]:
    """The dead letter is written when the page is committed already: a crash in between loses it."""
    commit = ForwardBuffer.commit

    async def late(self: Any, page: Page) -> Any:
        letters, logs = [], self._logs

        class Later:
            async def keep_dead_letter(self, letter: Any) -> None:
                letters.append(letter)

        self._logs = Later()
        try:
            judged = await commit(self, page)
        finally:
            self._logs = logs
        for letter in letters:
            await logs.keep_dead_letter(letter)
        return judged

    return [(ForwardBuffer, "commit", late)]


def _answered_before_the_log() -> Sequence[Patch]:
    """A page is answered as committed when the broker has not answered."""
    append = FakeLog.append

    async def hopeful(self: FakeLog, records: Sequence[Record], after: int) -> int:
        try:
            return await append(self, records, after)
        except UnavailableError:
            if self._stream.log is None:
                raise
            return after + len(records)

    return [(FakeLog, "append", hopeful)]


def _log_not_read_after_no_answer() -> Sequence[Patch]:
    """After an append without an answer a receiver goes on as if nothing had been stored."""

    def forget(self: object) -> None:
        """Look at nothing."""

    return [(ForwardBuffer, "unsettle", forget)]


def _ids_not_freed_when_the_log_is_older() -> Sequence[Patch]:
    """A receiver whose log was restored from an older copy still calls what it lost a duplicate."""

    async def keep_ids(self: FakeLedger, log: LogId, through: Position, seq: int) -> None:
        account = self._accounts[log]
        account.state = replace(account.state, through=through, seq=seq)
        await trio.lowlevel.checkpoint()

    return [(FakeLedger, "truncate", keep_ids)]


def _ledger_believed_before_the_log() -> Sequence[Patch]:
    """A receiver does not compare what its ledger says with the log that is there."""

    async def believe(self: Any, log: LogPort) -> None:
        account = await self._ledger.log(self.log_id)
        self.frontier, self.seq = (account.through if account else START), (await log.state()).last

    return [(ForwardBuffer, "_settle", believe)]


def _ended_logs_not_followed() -> Sequence[Patch]:
    """A receiver looks at the log that a page is for, and at no other that it received before."""
    return [(Sink, "_level", _nothing)]


def _end_of_a_log_not_told() -> Sequence[Patch]:
    """A receiver follows the next epoch, and no operator hears that the one before has ended."""
    return [(Sink, "_tell_end", _nothing)]


# -- receipts ----------------------------------------------------------------------------------------------------------


def _receipt_before_the_commit() -> Sequence[Patch]:
    """A receiver has a receipt for a page signed before it has stored it."""
    append_page, sign = Sink.append_page, ReceiptSigner._sign
    coming: dict[Any, Position] = {}

    async def early(self: Any, sender: Any, page: Page, countersigned: Any = None) -> PageAnswer:
        buffer = self._buffers.get(LogId(sender, page.category, page.epoch))
        if buffer is not None and page.after == buffer.frontier and not page.is_probe:
            coming[buffer] = page.through
            self._signer.want(buffer)
        return await append_page(self, sender, page, countersigned)

    async def ahead(self: Any, buffer: Any) -> None:
        through = coming.pop(buffer, START)
        if through.offset <= buffer.frontier.offset:
            await sign(self, buffer)
            return
        log = buffer.log_id
        unsigned = Receipt(log.origin, self._zone, log.category, log.epoch, through, self._wall_clock_ms())
        buffer.receipted = replace(unsigned, signature=await self._keys.sign(unsigned.statement()))

    return [(Sink, "append_page", early), (ReceiptSigner, "_sign", ahead)]


def _receipt_given_up() -> Sequence[Patch]:
    """A receipt that could not be signed is not tried again."""
    sign = ReceiptSigner._sign

    async def once(self: Any, buffer: Any) -> None:
        try:
            await sign(self, buffer)
        except BsfgError:
            buffer.receipted = buffer.receipted or Receipt(
                buffer.log_id.origin, self._zone, buffer.log_id.category, buffer.log_id.epoch, buffer.frontier, 0
            )

    return [(ReceiptSigner, "_sign", once)]


def _receipt_handed_over_once() -> Sequence[Patch]:
    """A receipt is taken to the source once, whether it got there or not."""

    async def shrug(self: Any, receipt: Receipt, error: BsfgError) -> None:
        self._confirmed, self._confirmed_at, self._offered = receipt, trio.current_time() + 1e9, None
        await trio.lowlevel.checkpoint()

    return [(Confirmer, "_failed", shrug)]


# -- crossing ----------------------------------------------------------------------------------------------------------


def _page_given_up_after_an_error() -> Sequence[Patch]:
    """A page that the receiver did not take is left behind: the next one is asked for."""
    append_page, frontier = Sink.append_page, Sink._out_of_order

    async def skip(self: Any, sender: Any, page: Page, countersigned: Any = None) -> PageAnswer:
        try:
            return await append_page(self, sender, page, countersigned)
        except UnavailableError:
            buffer = self._buffers.get(LogId(sender, page.category, page.epoch))
            if page.is_probe or buffer is None or not buffer.is_settled:
                raise
            buffer.frontier = page.through
            return PageAnswer(page.epoch, page.through)

    return [(Sink, "append_page", skip), (Sink, "_out_of_order", frontier), (ForwardBuffer, "unsettle", _still)]


def _still(self: object) -> None:
    """Look at nothing."""


SINK_DEFECTS: tuple[Defect, ...] = (
    Defect("chain of a page not checked", _chain_of_a_page_not_checked, 27),
    Defect("start of a page not checked", _start_of_a_page_not_checked, 1),
    Defect("gap taken without a record", _gap_taken_without_a_record, 2),
    Defect("poison stops the page", _poison_stops_the_page, 3),
    Defect("poison skipped without a dead letter", _poison_skipped, 3),
    Defect("poison stored", _poison_stored, 3),
    Defect("chain not extended by diverted facts", _chain_not_extended_by_diverted_facts, 3),
    Defect("stored again under the next epoch", _duplicates_not_known_across_epochs, 5, disasters=True),
    Defect("duplicates go to the dead letters", _all_duplicates_are_conflicts, 5, disasters=True),
    Defect("position saved before the facts", _position_saved_before_the_facts, 4),
    Defect("dead letter after the log", _dead_letter_after_the_log, 131),
    Defect("answered before the log", _answered_before_the_log, 252, disasters=True),
    Defect("received log not read after no answer", _log_not_read_after_no_answer, 4),
    Defect("ids not freed when the log is older", _ids_not_freed_when_the_log_is_older, 24, disasters=True),
    Defect("ledger believed before the log", _ledger_believed_before_the_log, 11),
    Defect("ended logs not followed", _ended_logs_not_followed, 562, budget=1500, disasters=True),
    Defect("end of a log not told", _end_of_a_log_not_told, 19, disasters=True),
    Defect("receipt before the commit", _receipt_before_the_commit, 20),
    Defect("receipt given up after an error", _receipt_given_up, 5),
    Defect("receipt handed over once", _receipt_handed_over_once, 2),
    Defect("page given up after an error", _page_given_up_after_an_error, 4),
)
"""In the order of this module."""
