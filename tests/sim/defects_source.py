# SPDX-License-Identifier: Apache-2.0
"""Defects to be planted where facts come from: intake, store buffer, source, retention, broker and ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from appliance.boundary import source, store
from appliance.boundary.claims import IdClaims, Key
from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.messages import Message
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Gap, Position, link_fact
from appliance.boundary.ports import LogPort
from appliance.boundary.producing import AppendOutcome, AppendResult
from appliance.boundary.records import KnownId, LedgerRow, LogId, Record
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeLog
from tests.sim.machine import Machine, SimLog
from tests.sim.planted import Defect, Patch


async def _nothing(*_: object) -> None:
    await trio.lowlevel.checkpoint()


async def _never(*_: object) -> bool:
    await trio.lowlevel.checkpoint()
    return False


async def _always(*_: object) -> bool:
    await trio.lowlevel.checkpoint()
    return True


# -- broker and ledger -------------------------------------------------------------------------------------------------


def _not_synced() -> Sequence[Patch]:
    """The broker acknowledges what is not on the disk: a crash takes the newest record of each log with it."""
    crash = Machine.crash

    def power_cut(self: Machine) -> None:
        if self.process is not None:
            for stream in self.disk.streams.values():
                if stream.records and stream.records[-1].seq == stream.last_seq:
                    del stream.records[-1:]
                    stream.last_seq -= 1
        crash(self)

    return [(Machine, "crash", power_cut)]


def _ledger_loses_the_end() -> Sequence[Patch]:
    """The ledger is not synced: what came last is not in it after a crash, and nobody reads it from the log."""

    async def skip(self: Any, log: LogPort, last: int) -> None:
        records = await log.read(last - 1, 1, 10**6) if last > self._end.offset else []
        if records:
            self._end = Position(records[-1].seq, records[-1].chain)
            await self._ledger.record(self.log_id(log.epoch), [], self._end, last)

    return [(store.StoreBuffer, "_follow", skip)]


def _expected_sequence_not_checked() -> Sequence[Patch]:
    """The broker appends whatever comes: a second writer, or a late one, goes unnoticed."""
    take = FakeLog._take

    def append_anyway(self: FakeLog, records: Sequence[Record], after: int) -> int:
        return take(self, records, self._stream.last_seq)

    def arrive_anyway(self: FakeLog, records: Sequence[Record], after: int) -> None:
        faults, stream = self._faults, self._stream
        if faults.later is not None and faults.dice.random() < faults.late:
            faults.later(faults.dice.choice((0.3, 1.0)), lambda: _append(stream, records))

    return [(FakeLog, "_take", append_anyway), (FakeLog, "_maybe_late", arrive_anyway)]


def _append(stream: Any, records: Sequence[Record]) -> None:
    stream.append(records)


def _sent_again_after_no_answer() -> Sequence[Patch]:
    """An append without an answer is repeated at once behind whatever is there, instead of looking first."""
    append = FakeLog.append

    async def insist(self: FakeLog, records: Sequence[Record], after: int) -> int:
        try:
            return await append(self, records, after)
        except UnavailableError:
            return await append(self, records, self._stream.last_seq)

    return [(FakeLog, "append", insist)]


def _gaps_forgotten() -> Sequence[Patch]:
    """The ledger forgets which gaps it has told."""

    async def forget(self: FakeLedger, log: LogId, reader: ZoneId) -> list[Gap]:
        await trio.lowlevel.checkpoint()
        return []

    return [(FakeLedger, "served_gaps", forget)]


# -- intake and store buffer -------------------------------------------------------------------------------------------


def _acknowledged_before_the_ledger() -> Sequence[Patch]:
    """A store buffer answers when the log has a fact; the ledger is only told with the next one."""
    record = FakeLedger.record

    async def late(self: FakeLedger, log: LogId, rows: Sequence[LedgerRow], through: Position, seq: int) -> None:
        if rows and self._accounts.get(log) is not None and rows[-1].offset == through.offset and rows[0].seq:
            rows = rows[:-1]
        await record(self, log, rows, through, seq)

    return [(FakeLedger, "record", late)]


def _acknowledged_before_the_log() -> Sequence[Patch]:
    """Facts are entered into the ledger and answered although the log may have refused or lost them."""
    append = store.StoreBuffer._append

    async def hasty(self: Any, log: LogPort, messages: Sequence[Message]) -> None:
        try:
            await append(self, log, messages)
        except UnavailableError:
            offset, head = self._end.offset, self._end.head
            rows = []
            for message in messages:
                offset += 1
                head = link_fact(head, offset, message.digest)
                rows.append(store._row(message.subject, message.message_id, offset, message.digest, head))
            await self._ledger.record(self.log_id(log.epoch), rows, Position(offset, head), offset)
            self._end = Position(offset, head)

    return [(store.StoreBuffer, "_append", hasty)]


def _log_not_read_after_no_answer() -> Sequence[Patch]:
    """After an append without an answer a store buffer goes on as if nothing had been stored."""

    def forget(self: object) -> None:
        """Look at nothing."""

    return [(store.StoreBuffer, "unsettle", forget)]


def _duplicates_known_for_a_window_only() -> Sequence[Patch]:
    """Ids are forgotten a second after they were stored, as JetStream's own window does after two minutes."""
    known, record = FakeLedger.known, FakeLedger.record
    since: dict[Key, float] = {}

    async def remember(self: FakeLedger, log: LogId, rows: Sequence[LedgerRow], through: Position, seq: int) -> None:
        for row in rows:
            since[row.producer, row.message_id] = trio.current_time()
        await record(self, log, rows, through, seq)

    async def recent(self: FakeLedger, origin: ZoneId, keys: Sequence[Key]) -> dict[Key, KnownId]:
        now = trio.current_time()
        return {k: v for k, v in (await known(self, origin, keys)).items() if now - since.get(k, now) <= 1}

    return [(FakeLedger, "record", remember), (FakeLedger, "known", recent)]


def _second_content_taken_for_a_duplicate() -> Sequence[Patch]:
    """The same id with other content is answered as a duplicate, as JetStream does."""

    def blind(stored: bytes, offered: bytes) -> AppendResult:
        return AppendResult(AppendOutcome.DUPLICATE, offset=1)

    return [(store, "_conflict", blind)]


def _full_but_answered_as_stored() -> Sequence[Patch]:
    """A producer whose fact the full log refused hears that it is stored."""

    def lie(unit: Any, known: Any, refused: RefusedError) -> list[AppendResult]:
        return [AppendResult(AppendOutcome.STORED, offset=1) for _ in unit]

    return [(store, "_decide_full", lie)]


def _units_not_whole() -> Sequence[Patch]:
    """Of a unit with a bad fact in it, the good ones are stored."""
    decide = store.decide

    def by_the_piece(units: Any, known: Mapping[Key, KnownId]) -> Any:
        whole, to_store = decide([[fact] for unit in units for fact in unit], known)
        verdicts, at = [], 0
        for unit in units:
            verdicts.append([whole[at + index][0] for index in range(len(unit))])
            at += len(unit)
        refused = [any(store._is_refusal(v) for v in unit) for unit in verdicts]
        told = [
            [v if store._is_refusal(v) or not bad else AppendResult(AppendOutcome.NOT_STORED) for v in unit]
            for unit, bad in zip(verdicts, refused, strict=True)
        ]
        return told, to_store

    return [(store, "decide", by_the_piece)]


def _categories_do_not_agree() -> Sequence[Patch]:
    """Two categories decide the same id at the same time."""

    @asynccontextmanager
    async def free(self: IdClaims, origin: ZoneId, keys: Iterable[Key]) -> Any:
        yield

    return [(IdClaims, "hold", free)]


def _category_decides_alone() -> Sequence[Patch]:
    """An id is decided although another log of the zone may hold it without the ledger's knowledge."""
    return [(IdClaims, "are_settled", True), (IdClaims, "settle", _nothing)]


# -- lost and restored logs --------------------------------------------------------------------------------------------


def _epoch_not_rolled() -> Sequence[Patch]:
    """A log that came back from an older copy goes on under the epoch it had."""

    async def stay(self: SimLog, reader: ZoneId | None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.epoch if reader is None else await roll(self, reader)

    roll = SimLog.roll_epoch
    return [(SimLog, "roll_epoch", stay)]


def _older_copy_taken_for_the_log() -> Sequence[Patch]:
    """The ledger's end is cut to what the log holds, and nobody is told."""

    async def agree(self: Any, log: LogPort, account: Any, last: int) -> int:
        await trio.lowlevel.checkpoint()
        return int(account.seq)

    return [(store.StoreBuffer, "_agreed", agree)]


def _lost_log_not_told() -> Sequence[Patch]:
    """A log that was replaced is simply followed by the next one."""
    return [(source.Source, "_is_owed", _never)]


def _ids_of_a_lost_log_still_taken() -> Sequence[Patch]:
    """A zone goes on answering ``duplicate`` for facts that were lost with their log."""
    known = FakeLedger.known

    async def living(self: FakeLedger, origin: ZoneId, keys: Sequence[Key]) -> dict[Key, KnownId]:
        return {key: replace(held, live=True) for key, held in (await known(self, origin, keys)).items()}

    return [(FakeLedger, "known", living)]


# -- source ------------------------------------------------------------------------------------------------------------


def _chain_of_the_reader_not_checked() -> Sequence[Patch]:
    """A source believes every position that a reader names."""
    return [(source.Source, "_was_served", _always)]


def _gap_not_told() -> Sequence[Patch]:
    """What retention has dropped is skipped: the page goes on with the first fact that is still there."""
    missing = source.Source._missing

    async def silent(self: Any, *arguments: Any) -> Any:
        gaps, rows = await missing(self, *arguments)
        return (() if rows else gaps), rows

    return [(source.Source, "_missing", silent)]


def _wrong_predecessor() -> Sequence[Patch]:
    """Each fact of a page names the offset before its own, whether the reader was served that or not."""
    facts = source._facts

    def naive(*arguments: Any) -> Any:
        return tuple(replace(fact, prev=fact.offset - 1) for fact in facts(*arguments))

    return [(source, "_facts", naive)]


def _some_facts_for_nobody() -> Sequence[Patch]:
    """Every fourth fact is held to be addressed to somebody else."""
    rows = source.Source._rows

    async def fewer(self: Any, *arguments: Any) -> list[LedgerRow]:
        return [row for row in await rows(self, *arguments) if row.offset % 4]

    return [(source.Source, "_rows", fewer)]


def _loss_not_noted() -> Sequence[Patch]:
    """A zone that has lost facts retires their log, and no operator hears of it."""

    async def silent(self: Any, epoch: bytes, last: int, kept: int) -> None:
        await self._ledger.retire(self.log_id(epoch), kept)

    return [(store.StoreBuffer, "_retire", silent)]


SOURCE_DEFECTS: tuple[Defect, ...] = (
    Defect("log not synced before the answer", _not_synced, 4),
    Defect("end of the ledger not read from the log", _ledger_loses_the_end, 4),
    Defect("expected sequence not checked", _expected_sequence_not_checked, 63),
    Defect("sent again after no answer, without looking", _sent_again_after_no_answer, 6),
    Defect("gaps forgotten", _gaps_forgotten, 1, disasters=True),
    Defect("acknowledged before the ledger", _acknowledged_before_the_ledger, 1),
    Defect("acknowledged before the log", _acknowledged_before_the_log, 9),
    Defect("log not read after no answer", _log_not_read_after_no_answer, 4),
    Defect("duplicates known for a window only", _duplicates_known_for_a_window_only, 1),
    Defect("second content taken for a duplicate", _second_content_taken_for_a_duplicate, 3),
    Defect("full, but answered as stored", _full_but_answered_as_stored, 33),
    Defect("units not whole", _units_not_whole, 9),
    Defect("categories decide an id at the same time", _categories_do_not_agree, 73),
    Defect("category decides alone", _category_decides_alone, 73),
    Defect("epoch not rolled", _epoch_not_rolled, 149, disasters=True),
    Defect("older copy taken for the log", _older_copy_taken_for_the_log, 5, disasters=True),
    Defect("lost log not told", _lost_log_not_told, 112, disasters=True),
    Defect("loss not noted", _loss_not_noted, 5, disasters=True),
    Defect("ids of a lost log still taken", _ids_of_a_lost_log_still_taken, 5, disasters=True),
    Defect("chain of the reader not checked", _chain_of_the_reader_not_checked, 635, budget=1500, disasters=True),
    Defect("gap not told", _gap_not_told, 2),
    Defect("wrong predecessor", _wrong_predecessor, 1),
    Defect("some facts are for nobody", _some_facts_for_nobody, 2),
)
"""In the order of this module."""
