# SPDX-License-Identifier: Apache-2.0
"""In-memory logs: what JetStream does for us, with the same refusals, and faults a test can ask for.

What is in :class:`FakeDisk` survives a crash; everything else is gone with the process. The fakes pass the same
contract suite as the real logs (``tests/contracts/logs.py``).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import trio

from appliance.boundary.errors import PositionError, RefusedError, UnavailableError
from appliance.boundary.names import Category, FactSubject, ZoneId, forward_stream, store_stream
from appliance.boundary.reasons import Reason
from appliance.boundary.records import DeadLetter, LogId, LogState, Record, StoredRecord


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stream may hold, and whether it drops its oldest records at the limit or refuses new ones."""

    max_records: int = 1_000_000
    drop_oldest: bool = False


@dataclass(slots=True)
class FakeStream:
    """One stream on the disk: its records and, as stream metadata, its epochs."""

    epoch: bytes
    epochs: dict[ZoneId, bytes] = field(default_factory=dict)
    records: list[StoredRecord] = field(default_factory=list)
    last_seq: int = 0
    limits: Limits = Limits()
    log: LogId | None = None

    @property
    def first_seq(self) -> int:
        """The first sequence still there; one behind the last when nothing is."""
        return self.records[0].seq if self.records else self.last_seq + 1

    def append(self, records: Sequence[Record]) -> list[StoredRecord]:
        """Store records at the end; a position marker replaces the older ones. Returns them as stored."""
        stored = []
        for record in records:
            self.last_seq += 1
            subject = record.subject or f"log.{record.marker}"
            if record.marker == "position":
                self.records = [old for old in self.records if old.subject != subject]
            stored.append(StoredRecord(self.last_seq, subject, record.payload, dict(record.headers)))
            self.records.append(stored[-1])
        if self.limits.drop_oldest and (over := len(self.records) - self.limits.max_records) > 0:
            self.forget(self.records[:over])
        return stored

    def drop(self, through: int) -> None:
        """Retention by age: forget facts up to a sequence; markers are never too old."""
        self.forget([old for old in self.records if old.seq <= through and old.is_fact])

    def forget(self, records: Sequence[StoredRecord]) -> None:
        """Take records from the disk."""
        gone = {record.seq for record in records}
        self.records = [old for old in self.records if old.seq not in gone]

    def copy(self) -> Self:
        """The stream as it is now."""
        return replace(self, epochs=dict(self.epochs), records=list(self.records))


@dataclass(slots=True)
class FakeDisk:
    """The streams of one zone, as they survive a crash; ``dice`` make epochs and are not part of a copy."""

    streams: dict[str, FakeStream] = field(default_factory=dict)
    dead_letters: dict[tuple[LogId, int], DeadLetter] = field(default_factory=dict)
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def copy(self) -> FakeDisk:
        """A backup of everything as it is now."""
        streams = {name: stream.copy() for name, stream in self.streams.items()}
        return FakeDisk(streams, dict(self.dead_letters), self.dice)

    def restore(self, backup: FakeDisk) -> None:
        """Become a copy of a backup."""
        fresh = backup.copy()
        self.streams, self.dead_letters = fresh.streams, fresh.dead_letters


Later = Callable[[float, Callable[[], None]], None]
"""Runs something after so many seconds, whatever happens to the caller."""


@dataclass(slots=True)
class Faults:
    """What may go wrong in a call: the answer is lost after, or the call before, it took effect.

    Each call yields to others once or more, before or after its effect. A call that was given up (an error, or a
    crash of the caller) may still take effect later when ``late`` says so.
    """

    dice: random.Random
    lost_before: float = 0.0
    lost_after: float = 0.0
    slow: float = 0.0
    delay_s: float = 0.0
    late: float = 0.0
    later: Later | None = None
    atomic_from: int = 64
    away_until: float = 0.0
    tap: Callable[[str], None] | None = None

    async def before(self, what: str) -> bool:
        """Perhaps wait, perhaps fail without effect; returns whether :meth:`after` still has to yield."""
        if self.tap is not None:
            self.tap(what)
        yielded = await self._yield()
        if self.away_until and trio.current_time() < self.away_until:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, "simulated: away")
        if self.lost_before and self.dice.random() < self.lost_before:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, "simulated: lost before")
        return not yielded

    async def after(self, must_yield: bool) -> None:
        """Perhaps fail although it took effect."""
        if self.lost_after and self.dice.random() < self.lost_after:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, "simulated: answer lost")
        if must_yield:
            await trio.lowlevel.checkpoint()

    async def _yield(self) -> bool:
        if self.slow and self.dice.random() < self.slow:
            await trio.sleep(self.dice.uniform(0, self.delay_s))
            return True
        if self.dice.random() < 0.5:
            await trio.lowlevel.checkpoint()
            return True
        return False


class FakeLog:
    """See :class:`appliance.boundary.ports.LogPort`. Its epochs are those of when it was opened, or rolled here."""

    def __init__(self, name: str, disk: FakeDisk, faults: Faults) -> None:
        self._name = name
        self._disk = disk
        self._faults = faults
        self._epoch = self._stream.epoch
        self._epochs = dict(self._stream.epochs)

    @property
    def _stream(self) -> FakeStream:
        try:
            return self._disk.streams[self._name]
        except KeyError as error:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"simulated: no stream {self._name}") from error

    @property
    def epoch(self) -> bytes:
        """See the port."""
        return self._epoch

    def epoch_for(self, reader: ZoneId) -> bytes:
        """See the port."""
        return self._epochs.get(reader, self._epoch)

    async def roll_epoch(self, reader: ZoneId | None) -> bytes:
        """See the port."""
        late = await self._faults.before("roll")
        stream, epoch = self._stream, self._disk.dice.randbytes(16)
        if reader is None:
            stream.epoch = epoch
            stream.epochs.clear()
        else:
            stream.epochs[reader] = epoch
        await self._faults.after(late)
        self._epoch, self._epochs = stream.epoch, dict(stream.epochs)
        return epoch

    async def state(self) -> LogState:
        """See the port."""
        late = await self._faults.before("state")
        stream = self._stream
        state = LogState(stream.first_seq, stream.last_seq, sum(len(record.payload) for record in stream.records))
        await self._faults.after(late)
        return state

    async def append(self, records: Sequence[Record], after: int) -> int:
        """See the port."""
        try:
            late = await self._faults.before("append")
        except (UnavailableError, trio.Cancelled):
            self._maybe_late(records, after)
            raise
        last = self._take(records, after)
        await self._faults.after(late)
        return last

    def _maybe_late(self, records: Sequence[Record], after: int) -> None:
        """The caller gave up; what it had sent may arrive all the same, whole or (in a small page) a part of it."""
        faults = self._faults
        if faults.later is None or faults.dice.random() >= faults.late:
            return
        whole = len(records) >= faults.atomic_from
        part = list(records) if whole else list(records[: faults.dice.randint(1, len(records))])

        def arrive() -> None:
            stream = self._disk.streams.get(self._name)
            if stream is not None and stream.last_seq == after and self._fits(stream, part):
                stream.append(part)

        faults.later(faults.dice.choice((0.0, 0.0, 0.3, 3.0)), arrive)

    def _take(self, records: Sequence[Record], after: int) -> int:
        stream, faults = self._stream, self._faults
        if after != stream.last_seq:
            raise PositionError(Reason.OUT_OF_ORDER, f"wrong last sequence: {stream.last_seq}")
        if not self._fits(stream, records):
            raise RefusedError(Reason.BUFFER_FULL, "simulated: maximum reached")
        # Small pages go pipelined: a failure in the middle leaves a prefix.
        if 1 < len(records) < faults.atomic_from and faults.dice.random() < faults.lost_before:
            stream.append(records[: faults.dice.randrange(1, len(records))])
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, "simulated: lost in the middle")
        stream.append(records)
        return stream.last_seq

    @staticmethod
    def _fits(stream: FakeStream, records: Sequence[Record]) -> bool:
        return stream.limits.drop_oldest or len(stream.records) + len(records) <= stream.limits.max_records

    async def read(self, after: int, limit: int, max_bytes: int, reader: ZoneId | None = None) -> list[StoredRecord]:
        """See the port."""
        late = await self._faults.before("read")
        found: list[StoredRecord] = []
        size = 0
        for record in self._stream.records:
            if record.seq <= after:
                continue
            if reader is not None and not (record.is_fact and FactSubject.parse(record.subject).addresses(reader)):
                continue
            size += len(record.payload)
            if len(found) >= limit or (found and size > max_bytes):
                break
            found.append(record)
        await self._faults.after(late)
        return found

    async def trim(self, before: int) -> None:
        """See the port."""
        late = await self._faults.before("trim")
        stream = self._stream
        stream.forget([record for record in stream.records if record.seq < before])
        await self._faults.after(late)

    async def last(self) -> StoredRecord | None:
        """See the port."""
        late = await self._faults.before("last")
        last = self._stream.records[-1] if self._stream.records else None
        await self._faults.after(late)
        return last


class FakeLogs:
    """See :class:`appliance.boundary.ports.LogsPort`; ``disk`` is what survives."""

    def __init__(
        self, zone: ZoneId, disk: FakeDisk, faults: Faults, limits: Mapping[Category, Limits] | None = None
    ) -> None:
        self._zone = zone
        self._disk = disk
        self._faults = faults
        self._limits = limits or {}

    async def open_store(self, category: Category) -> FakeLog:
        """See the port."""
        late = await self._faults.before("open_store")
        log = self._open(store_stream(category), self._disk.dice.randbytes(16), category, None)
        await self._faults.after(late)
        return log

    async def open_forward(self, log: LogId) -> FakeLog:
        """See the port."""
        late = await self._faults.before("open_forward")
        opened = self._open(forward_stream(log.category, log.origin, log.epoch), log.epoch, log.category, log)
        await self._faults.after(late)
        return opened

    def _open(self, name: str, epoch: bytes, category: Category, log: LogId | None) -> FakeLog:
        if name not in self._disk.streams:
            self._disk.streams[name] = FakeStream(epoch, limits=self._limits.get(category, Limits()), log=log)
        return FakeLog(name, self._disk, self._faults)

    async def forward_epochs(self, origin: ZoneId, category: Category) -> list[bytes]:
        """See the port."""
        late = await self._faults.before("forward_epochs")
        logs = [stream.log for stream in self._disk.streams.values() if stream.log is not None]
        await self._faults.after(late)
        return [log.epoch for log in logs if log.origin == origin and log.category == category]

    async def keep_dead_letter(self, letter: DeadLetter) -> None:
        """See the port."""
        late = await self._faults.before("dead_letter")
        self._disk.dead_letters.setdefault((letter.log, letter.offset), letter)
        await self._faults.after(late)
