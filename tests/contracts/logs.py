# SPDX-License-Identifier: Apache-2.0
"""What all logs do, on a broker or in memory: the contract suite of :class:`LogPort` and :class:`LogsPort`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import pytest

from appliance.boundary.errors import PositionError, RefusedError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import EPOCH_BYTES, Gap, GapReason, Position
from appliance.boundary.ports import LogPort, LogsPort
from appliance.boundary.reasons import Reason
from appliance.boundary.records import DeadLetter, LogId, LogState, Record, gap_marker, position_marker

PLANT, HUB, OTHER = ZoneId("plant-a"), ZoneId("enterprise"), ZoneId("plant-b")
AUDIT, SMALL = Category("audit"), Category("small")
"""SMALL takes at least 5 and at most 20 records of :data:`LARGE` bytes, and refuses more."""
LARGE: Final = 100_000
FORWARD = LogId(HUB, AUDIT, b"2" * 16)
MIB: Final = 1024 * 1024
SIZES: Final = (1, 2, 63, 64, 1000)
"""Small pages go record by record, large ones (64 and more) as one batch."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """The logs of PLANT, the same after a restart, and the messages of the dead letters they keep."""

    logs: LogsPort
    reopened: Callable[[], LogsPort]
    dead_letters: Callable[[], Awaitable[list[bytes]]]


def fact(number: int, to: str = "all", *, origin: str = "plant-a", payload: bytes = b"") -> Record:
    """A record of a producer."""
    subject = f"facts.audit.{origin}.{to}.press-4.t"
    return Record(payload or b'{"n":%d}' % number, {"Bsfg-Id": f"m-{number}", "Bsfg-Digest": "00"}, subject)


def facts(count: int, first: int = 1) -> list[Record]:
    """A run of records."""
    return [fact(number) for number in range(first, first + count)]


def large(count: int) -> list[Record]:
    """Records for SMALL."""
    return [replace(fact(n, payload=b"x" * LARGE), subject="facts.small.plant-a.all.press-4") for n in range(count)]


def position(offset: int) -> Position:
    """A position with a head."""
    return Position(offset, bytes([offset]) * 32)


async def seqs(log: LogPort, reader: ZoneId | None = None) -> list[int]:
    """The sequences of what is readable, from the beginning."""
    found: list[int] = []
    while records := await log.read(found[-1] if found else 0, 1000, 4 * MIB, reader):
        found += [record.seq for record in records]
    return found


class AppendContract:
    """Writing; a subclass gives ``shelf``, with nothing on it."""

    @pytest.fixture
    async def store(self, shelf: Shelf) -> LogPort:
        """A new log of own facts."""
        return await shelf.logs.open_store(AUDIT)

    @pytest.mark.parametrize("count", SIZES)
    async def test_a_page_is_stored_as_it_was_given(self, store: LogPort, count: int) -> None:
        """Same subjects, headers and payloads, sequences without holes; the answer is the last of them."""
        assert await store.append(facts(count), 0) == count
        assert await store.append(facts(count, first=count + 1), count) == 2 * count
        assert await seqs(store) == list(range(1, 2 * count + 1))
        for after in (0, count):
            found = await store.read(after, count, 4 * MIB)
            for record, given in zip(found, facts(count, first=after + 1), strict=True):
                assert (record.subject, record.payload) == (given.subject, given.payload)
                assert given.headers.items() <= record.headers.items()

    @pytest.mark.parametrize("count", SIZES)
    @pytest.mark.parametrize("after", [0, 4, 6, 1000])
    async def test_at_another_place_nothing_is_stored(self, store: LogPort, count: int, after: int) -> None:
        """Too low or too high: whoever believes that the log ends elsewhere must look again before it writes."""
        await store.append(facts(5), 0)
        with pytest.raises(PositionError) as refused:
            await store.append(facts(count, first=6), after)
        assert refused.value.reason is Reason.OUT_OF_ORDER
        assert (await store.state()).last == 5
        assert await seqs(store) == [1, 2, 3, 4, 5]
        assert await store.append(facts(count, first=6), 5) == 5 + count

    @pytest.mark.parametrize("count", [1, 64])
    async def test_a_full_log_refuses(self, shelf: Shelf, count: int) -> None:
        """Nothing of it is stored, nothing stored is dropped, and after trimming there is room."""
        store = await shelf.logs.open_store(SMALL)
        end = await store.append(large(5), 0)
        with pytest.raises(RefusedError) as refused:  # noqa: PT012 - it is full after some of them
            for _ in range(16):
                end = await store.append(large(count), end)
        assert refused.value.reason is Reason.BUFFER_FULL
        assert (await store.state()).last == end
        assert await seqs(store) == list(range(1, end + 1))
        await store.trim(end)
        assert await store.append(large(1), end) == end + 1

    async def test_trimming_drops_what_is_in_front(self, store: LogPort) -> None:
        """The record itself stays; sequences go on, also when nothing is left."""
        await store.append(facts(5), 0)
        await store.trim(4)
        assert await seqs(store) == [4, 5]
        state = await store.state()
        assert (state.first, state.last) == (4, 5)
        await store.trim(2)  # gone already
        assert await seqs(store) == [4, 5]
        await store.trim(6)
        assert await seqs(store) == []
        assert await store.last() is None
        state = await store.state()
        assert (state.first, state.last) == (6, 5)
        assert await store.append(facts(1), 5) == 6

    async def test_the_state_of_a_log(self, store: LogPort) -> None:
        """Empty, it begins behind its end; bytes count."""
        assert await store.state() == LogState(1, 0, 0)
        await store.append(facts(2), 0)
        few = await store.state()
        assert (few.first, few.last) == (1, 2)
        await store.append([fact(3, payload=b"x" * LARGE)], 2)
        assert (await store.state()).size >= few.size + LARGE


class ReadContract:
    """Reading."""

    @pytest.fixture
    async def store(self, shelf: Shelf) -> LogPort:
        """A new log of own facts."""
        return await shelf.logs.open_store(AUDIT)

    async def test_the_last_record(self, store: LogPort) -> None:
        """None of an empty log."""
        assert await store.last() is None
        await store.append(facts(3), 0)
        last = await store.last()
        assert last is not None
        assert (last.seq, last.subject, last.payload) == (3, fact(3).subject, b'{"n":3}')
        assert last.headers["Bsfg-Id"] == "m-3"

    async def test_a_read_is_bounded(self, store: LogPort) -> None:
        """In records and bytes; one record comes, however large it is."""
        await store.append([fact(n, payload=b"x" * LARGE) for n in range(1, 11)], 0)
        assert [r.seq for r in await store.read(0, 3, 4 * MIB)] == [1, 2, 3]
        assert [r.seq for r in await store.read(3, 2, 4 * MIB)] == [4, 5]
        assert [r.seq for r in await store.read(1, 5, 5 * LARGE // 2)] == [2, 3]
        assert [r.seq for r in await store.read(3, 5, 1)] == [4]
        assert [r.seq for r in await store.read(8, 100, 4 * MIB)] == [9, 10]
        assert await store.read(10, 100, 4 * MIB) == []

    async def test_readers_get_what_is_theirs(self, store: LogPort) -> None:
        """What is addressed to them or to all, in order, wherever they start; the limit counts only that."""
        addressees = ["enterprise", "plant-b", "all"]
        await store.append([fact(n, addressees[n % 3]) for n in range(1, 91)], 0)
        mine = [n for n in range(1, 91) if n % 3 in (0, 2)]
        assert await seqs(store, HUB) == mine
        assert await seqs(store, OTHER) == [n for n in range(1, 91) if n % 3 in (1, 2)]
        assert await seqs(store) == list(range(1, 91))
        for after in (0, 1, 2, 89, 90, 1000):
            found = await store.read(after, 5, MIB, HUB)
            assert [record.seq for record in found] == [n for n in mine if n > after][:5]

    async def test_what_comes_later_is_seen(self, store: LogPort) -> None:
        """A reader that stood at the end goes on there."""
        assert await store.read(0, 10, MIB, HUB) == []
        await store.append(facts(3), 0)
        assert [r.seq for r in await store.read(0, 10, MIB, HUB)] == [1, 2, 3]
        await store.append(facts(2), 3)
        assert [r.seq for r in await store.read(3, 10, MIB, HUB)] == [4, 5]
        assert [r.seq for r in await store.read(1, 2, MIB, HUB)] == [2, 3]


class LogsContract(AppendContract, ReadContract):
    """Writing, reading, and the logs themselves: epochs, markers, dead letters."""

    async def test_a_log_keeps_its_epoch(self, shelf: Shelf) -> None:
        """Made with the log, random, the same for every reader and after a restart."""
        store = await shelf.logs.open_store(AUDIT)
        await store.append(facts(2), 0)
        assert len(store.epoch) == EPOCH_BYTES
        assert store.epoch_for(HUB) == store.epoch
        for logs in (shelf.logs, shelf.reopened()):
            again = await logs.open_store(AUDIT)
            assert again.epoch == store.epoch
            assert await seqs(again) == [1, 2]
        assert (await shelf.logs.open_store(SMALL)).epoch != store.epoch

    async def test_a_reader_may_get_an_epoch_of_its_own(self, shelf: Shelf) -> None:
        """Others stay; it outlives a restart; the facts stay as they are."""
        store = await shelf.logs.open_store(AUDIT)
        await store.append(facts(2), 0)
        epoch = store.epoch
        rolled = await store.roll_epoch(HUB)
        again = await store.roll_epoch(HUB)
        assert len({epoch, rolled, again}) == 3
        for log in (store, await shelf.reopened().open_store(AUDIT)):
            assert (log.epoch, log.epoch_for(OTHER), log.epoch_for(HUB)) == (epoch, epoch, again)
            assert await seqs(log) == [1, 2]

    async def test_a_new_epoch_for_all_is_for_all(self, shelf: Shelf) -> None:
        """Also for a reader that had one of its own."""
        store = await shelf.logs.open_store(AUDIT)
        old = store.epoch
        own = await store.roll_epoch(HUB)
        rolled = await store.roll_epoch(None)
        assert rolled not in (old, own)
        for log in (store, await shelf.reopened().open_store(AUDIT)):
            assert (log.epoch, log.epoch_for(HUB), log.epoch_for(OTHER)) == (rolled, rolled, rolled)

    async def test_forward_logs_are_told_oldest_first(self, shelf: Shelf) -> None:
        """Whatever their names; of this origin and category alone; opening one again makes no second."""
        epochs = [bytes([n]) * 16 for n in (7, 3, 9)]
        for epoch in epochs:
            log = await shelf.logs.open_forward(LogId(HUB, AUDIT, epoch))
            assert log.epoch == epoch
        await shelf.logs.open_forward(LogId(HUB, SMALL, b"5" * 16))
        await shelf.logs.open_forward(LogId(OTHER, AUDIT, b"6" * 16))
        await shelf.logs.open_store(AUDIT)
        await shelf.logs.open_forward(LogId(HUB, AUDIT, epochs[0]))
        for logs in (shelf.logs, shelf.reopened()):
            assert await logs.forward_epochs(HUB, AUDIT) == epochs
            assert await logs.forward_epochs(PLANT, AUDIT) == []

    async def test_forward_logs_are_apart(self, shelf: Shelf) -> None:
        """From the own log and from other epochs; a fact is found where it was put, with the origin's subject."""
        store = await shelf.logs.open_store(AUDIT)
        first = await shelf.logs.open_forward(FORWARD)
        second = await shelf.logs.open_forward(LogId(HUB, AUDIT, b"3" * 16))
        await first.append([fact(1, "plant-a", origin="enterprise"), fact(2, origin="enterprise")], 0)
        assert [r.subject for r in await first.read(0, 9, MIB, PLANT)] == [
            "facts.audit.enterprise.plant-a.press-4.t",
            "facts.audit.enterprise.all.press-4.t",
        ]
        assert await seqs(second) == await seqs(store) == []
        assert await seqs(await shelf.reopened().open_forward(FORWARD)) == [1, 2]

    async def test_a_newer_position_replaces_the_older(self, shelf: Shelf) -> None:
        """One is enough; facts and gaps stay; readers never see any of it."""
        log = await shelf.logs.open_forward(FORWARD)
        gaps = [Gap(3, 4, GapReason.RETENTION), Gap(6, 6, GapReason.LOG_LOST)]
        end = await log.append([fact(1, origin="enterprise"), position_marker(position(2))], 0)
        end = await log.append([gap_marker(gaps[0], position(4)), position_marker(position(5))], end)
        end = await log.append([gap_marker(gaps[1], position(6))], end)
        end = await log.append([position_marker(position(8))], end)
        assert end == 6
        found = await log.read(0, 10, MIB)
        assert [(r.seq, r.is_fact, r.headers.get("Bsfg-Gap")) for r in found] == [
            (1, True, None),
            (3, False, "3-4:retention"),
            (5, False, "6-6:log_lost"),
            (6, False, None),
        ]
        assert [record.position for record in found[1:]] == [position(4), position(6), position(8)]
        assert await seqs(log, PLANT) == [1]
        last = await log.last()
        assert last is not None
        assert (last.seq, last.position) == (6, position(8))

    async def test_a_large_page_may_end_with_a_position(self, shelf: Shelf) -> None:
        """As a page does whose last fact was diverted."""
        log = await shelf.logs.open_forward(FORWARD)
        page = [fact(n, origin="enterprise") for n in range(1, 71)]
        assert await log.append([*page, position_marker(position(80))], 0) == 71
        assert await log.append([*page, position_marker(position(90))], 71) == 142
        assert await seqs(log) == [*range(1, 71), *range(72, 143)]
        last = await log.last()
        assert last is not None
        assert last.position == position(90)

    async def test_a_dead_letter_is_kept_once(self, shelf: Shelf) -> None:
        """However often it is brought, also after a restart; another fact is another letter."""
        letter = DeadLetter(FORWARD, 7, "facts.nonsense", b"\xff one", b"d" * 32, Reason.MALFORMED_JSON, "not UTF-8")
        others = [
            replace(letter, offset=8, message=b"two"),
            replace(letter, log=LogId(HUB, AUDIT, b"3" * 16), message=b"three"),
            replace(letter, log=LogId(OTHER, AUDIT, FORWARD.epoch), message=b"four"),
        ]
        for logs in (shelf.logs, shelf.logs, shelf.reopened()):
            for one in (letter, *others):
                await logs.keep_dead_letter(one)
        assert await shelf.dead_letters() == [b"\xff one", b"two", b"three", b"four"]
