# SPDX-License-Identifier: Apache-2.0
"""Pages in and out of real streams: all or nothing, in order, through restarts, full logs and retention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError, PositionError, RefusedError, UnavailableError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import Gap, GapReason, Position
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.boundary.ports import LogPort
from appliance.boundary.reasons import Reason
from appliance.boundary.records import DeadLetter, LogId, Record, gap_marker, position_marker
from appliance.brokers.config import MIB
from appliance.factlog import jetstream, streams
from appliance.factlog.jetstream import ATOMIC_FROM
from appliance.factlog.natsproto import publish
from tests.wires import Log, real_logs, stopped

HUB, OTHER = ZoneId("enterprise"), ZoneId("plant-b")
AUDIT, TELEMETRY = Category("audit"), Category("telemetry")
POLICIES = {AUDIT: CategoryPolicy(max_bytes=16 * MIB), TELEMETRY: CategoryPolicy(WhenFull.DROP_OLDEST, 16 * MIB)}
FORWARD = LogId(HUB, AUDIT, b"1" * 16)

PIPELINED, ATOMIC = ATOMIC_FROM - 1, ATOMIC_FROM
SIZES = (1, 2, PIPELINED, ATOMIC, 1000)


def fact(number: int, to: str = "all", payload: bytes = b"", category: str = "audit") -> Record:
    """A record of plant-a."""
    subject = f"facts.{category}.plant-a.{to}.press-4.t"
    return Record(payload or b'{"n":%d}' % number, {"Bsfg-Id": f"m-{number}", "Bsfg-Digest": "00"}, subject)


def facts(count: int, first: int = 1) -> list[Record]:
    """A run of records."""
    return [fact(number) for number in range(first, first + count)]


async def seqs(log: LogPort, reader: ZoneId | None = None) -> list[int]:
    """The sequences of what is readable, from the beginning."""
    found: list[int] = []
    while records := await log.read(found[-1] if found else 0, 1000, 4 * MIB, reader):
        found += [record.seq for record in records]
    return found


async def refused(log: LogPort, records: Sequence[Record], after: int) -> BsfgError:
    """The error of an append that must fail."""
    with pytest.raises(BsfgError) as failed:
        await log.append(records, after)
    return failed.value


async def back(log: Log) -> None:
    """Start the broker again after it was killed."""
    await log.broker.start()
    with trio.fail_after(5):
        await log.wire.wait_connected()


@pytest.mark.parametrize("count", SIZES)
async def test_a_page_is_stored_in_order_as_it_was_given(tmp_path: Path, count: int) -> None:
    """Small and large: same subjects, headers, payloads, sequences without holes."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        assert await store.append(facts(count), 0) == count
        assert await store.append(facts(count, first=count + 1), count) == 2 * count
        found = [r for after in range(0, 2 * count, 1000) for r in await store.read(after, 1000, 4 * MIB)]
        assert [record.seq for record in found] == list(range(1, 2 * count + 1))
        for record, given in zip(found, facts(2 * count), strict=True):
            assert (record.subject, record.payload) == (given.subject, given.payload)
            assert given.headers.items() <= record.headers.items()
        state = await store.state()
        assert (state.first, state.last) == (1, 2 * count)
        last = await store.last()
        assert last is not None
        assert (last.seq, last.payload) == (2 * count, found[-1].payload)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("after", [0, 4, 6, 1000])
async def test_at_another_place_nothing_is_stored(tmp_path: Path, count: int, after: int) -> None:
    """Whoever believes that the log ends elsewhere must look again before it writes."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        await store.append(facts(5), 0)
        error = await refused(store, facts(count, first=6), after)
        assert isinstance(error, PositionError)
        assert error.reason is Reason.OUT_OF_ORDER
        assert await seqs(store) == [1, 2, 3, 4, 5]
        assert await store.append(facts(count, first=6), 5) == 5 + count


async def test_two_writers_cannot_both_win(tmp_path: Path) -> None:
    """Side by side with the same expectation, in pages of both kinds: one page is whole, the other is not there."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        end = 0
        for mine, other in ((PIPELINED, PIPELINED), (ATOMIC, ATOMIC), (PIPELINED, ATOMIC), (300, 40)):
            outcomes: list[int] = []

            async def write(count: int, after: int, outcomes: list[int] = outcomes) -> None:
                try:
                    await store.append(facts(count, first=count * 10_000), after)
                except PositionError:
                    return
                except UnavailableError:
                    return  # behind a refused one all others are refused too
                outcomes.append(count)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, mine, end)
                nursery.start_soon(write, other, end)
            assert len(outcomes) == 1
            records = await store.read(end, 1000, MIB)
            assert [r.headers["Bsfg-Id"] for r in records] == [
                f"m-{outcomes[0] * 10_000 + i}" for i in range(outcomes[0])
            ]
            end += outcomes[0]


async def test_behind_a_refused_record_all_others_are_refused(tmp_path: Path) -> None:
    """Something late is stored in the middle of a small page: the sequences of what follows fit again, by one."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        await store.append(facts(5), 0)
        late = publish("log.facts.audit.plant-a.all.press-4.t", b"late")

        def frames(reply: str) -> bytes:
            page = store._pipelined(facts(10, first=6), 5)(reply).split(b"HPUB ")
            return b"HPUB ".join(page[:3]) + late + b"HPUB " + b"HPUB ".join(page[3:])

        answers = await log.wire.exchange(frames, lambda got: len(got) == 10)
        assert [b"error" in answer.payload for answer in answers] == [False] * 2 + [True] * 8
        assert [r.payload for r in await store.read(5, 100, MIB)] == [b'{"n":6}', b'{"n":7}', b"late"]


@pytest.mark.parametrize("count", [1, ATOMIC])
async def test_a_full_log_refuses_and_stores_nothing(tmp_path: Path, count: int) -> None:
    """``reject``: the producer hears it; what is stored stays, and there is room again after trimming."""
    async with real_logs(tmp_path, {AUDIT: CategoryPolicy(max_bytes=MIB)}) as log:
        store = await log.logs.open_store(AUDIT)
        large = fact(1, payload=b"x" * 100_000)
        end = await store.append([large] * 10, 0)
        error = await refused(store, [large] * count, end)
        assert isinstance(error, RefusedError)
        assert error.reason is Reason.BUFFER_FULL
        assert (await store.state()).last == end
        assert await seqs(store) == list(range(1, end + 1))
        await store.trim(end)
        await store.append([large], end)


async def test_a_small_page_that_does_not_fit_whole_leaves_a_prefix(tmp_path: Path) -> None:
    """Its outcome is unknown to the writer, which reads the log again: what was stored is what came first."""
    async with real_logs(tmp_path, {AUDIT: CategoryPolicy(max_bytes=MIB)}) as log:
        store = await log.logs.open_store(AUDIT)
        page = [fact(number, payload=b"x" * 100_000) for number in range(1, 16)]
        error = await refused(store, page, 0)
        assert isinstance(error, UnavailableError)
        kept = await seqs(store)
        assert kept == list(range(1, len(kept) + 1))
        assert 0 < len(kept) < 15
        assert isinstance(await refused(store, page[len(kept) :], len(kept)), RefusedError)


async def test_drop_oldest_goes_on(tmp_path: Path) -> None:
    """The oldest go; sequences never start again."""
    async with real_logs(tmp_path, {TELEMETRY: CategoryPolicy(WhenFull.DROP_OLDEST, max_bytes=MIB)}) as log:
        store = await log.logs.open_store(TELEMETRY)
        end = 0
        for _ in range(3):
            end = await store.append([fact(1, payload=b"x" * 10_000, category="telemetry")] * ATOMIC, end)
        state = await store.state()
        assert state.last == 3 * ATOMIC
        assert state.first > ATOMIC
        assert state.size <= MIB
        assert (await seqs(store))[0] == state.first


@pytest.mark.parametrize("count", [PIPELINED, 1000])
async def test_killed_while_it_writes(tmp_path: Path, count: int) -> None:
    """The outcome is unknown to the writer; the log has whole pages only, or (small ones) a prefix."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        answered = 0

        async def write() -> None:
            nonlocal answered
            while True:
                answered = await store.append(facts(count, first=answered + 1), answered)

        async def write_on() -> None:
            with pytest.raises(UnavailableError):
                await write()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write_on)
                await trio.sleep(0.3)
                await log.broker.kill()
        await back(log)
        store = await log.logs.open_store(AUDIT)
        last = (await store.state()).last
        assert answered <= last <= answered + count
        if count >= ATOMIC_FROM:
            assert last in (answered, answered + count)
        assert await seqs(store) == list(range(1, last + 1))


async def test_a_broker_that_hangs_leaves_the_outcome_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer hears so in time; what the broker does with it later shows in the log, and fits no second time."""
    monkeypatch.setattr(jetstream, "APPEND_TIMEOUT_S", 0.3)
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        with stopped(log.broker), trio.fail_after(2):
            error = await refused(store, facts(3), 0)
        assert error.reason is Reason.BROKER_UNAVAILABLE
        with trio.fail_after(5):
            while (await store.state()).last < 3:  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.01)
        assert isinstance(await refused(store, facts(5), 0), PositionError)
        assert await seqs(store) == [1, 2, 3]


async def test_readers_get_only_what_is_theirs(tmp_path: Path) -> None:
    """What is addressed to them or to all, in order, wherever they start; other readers do not disturb them."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        addressees = ["enterprise", "plant-b", "all"]
        await store.append([fact(n, addressees[n % 3]) for n in range(1, 301)], 0)
        mine = [n for n in range(1, 301) if addressees[n % 3] in ("enterprise", "all")]
        theirs = [n for n in range(1, 301) if addressees[n % 3] in ("plant-b", "all")]
        assert await seqs(store, HUB) == mine
        assert await seqs(store, OTHER) == theirs
        assert await seqs(store) == list(range(1, 301))
        for after in (0, 1, 100, 299, 300, 10_000):
            records = await store.read(after, 1000, MIB, HUB)
            assert [record.seq for record in records] == [n for n in mine if n > after]


async def test_a_read_is_bounded_in_records_and_bytes(tmp_path: Path) -> None:
    """And goes on where it ended; one record comes, however large it is: a small page must not end a crossing."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        await store.append([fact(n, payload=b"x" * 100_000) for n in range(1, 41)], 0)
        assert [r.seq for r in await store.read(0, 7, 4 * MIB)] == [1, 2, 3, 4, 5, 6, 7]
        assert [r.seq for r in await store.read(7, 2, 4 * MIB)] == [8, 9]
        some = await store.read(9, 40, 1_000_000)
        assert 8 <= len(some) <= 11
        assert [r.seq for r in some] == list(range(10, 10 + len(some)))
        assert [r.seq for r in await store.read(3, 5, 150_000)] == [4]
        assert [r.seq for r in await store.read(3, 5, 1)] == [4]
        assert [r.seq for r in await store.read(4, 5, 1)] == [5]
        assert await store.read(40, 10, MIB) == []


async def test_new_records_are_seen_by_a_reader_that_waits_at_the_end(tmp_path: Path) -> None:
    """One consumer is used on and on; asked for another place, another is made."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        for end in range(0, 500, 50):
            assert await store.read(end, 100, MIB, HUB) == []
            await store.append(facts(50, first=end + 1), end)
            assert [r.seq for r in await store.read(end, 100, MIB, HUB)] == list(range(end + 1, end + 51))
        consumers = await log.wire.request_json("$JS.API.CONSUMER.LIST.FACTS_AUDIT")
        assert consumers["total"] == 1
        assert [r.seq for r in await store.read(10, 5, MIB, HUB)] == [11, 12, 13, 14, 15]
        consumers = await log.wire.request_json("$JS.API.CONSUMER.LIST.FACTS_AUDIT")
        assert consumers["total"] == 1  # the one that stood elsewhere has gone


async def test_reading_goes_on_after_the_broker_was_restarted(tmp_path: Path) -> None:
    """Its memory consumers are gone; nobody has to know."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        await store.append(facts(300), 0)
        assert len(await store.read(0, 100, MIB, HUB)) == 100
        await log.broker.kill()
        with pytest.raises(UnavailableError):
            await store.read(100, 100, MIB, HUB)
        await back(log)
        assert [r.seq for r in await store.read(100, 100, MIB, HUB)] == list(range(101, 201))
        await log.broker.kill()
        await back(log)
        assert [r.seq for r in await store.read(200, 100, MIB, HUB)] == list(range(201, 301))
        assert await store.append(facts(1), 300) == 301


async def test_a_cancelled_read_disturbs_nobody(tmp_path: Path) -> None:
    """Where its consumer stands is unknown then, so another takes its place."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        await store.append(facts(1000), 0)
        for pause in (0, 0.001, 0.003, 0.01):
            with trio.move_on_after(pause):
                await store.read(0, 1000, 4 * MIB, HUB)
            assert [r.seq for r in await store.read(0, 1000, 4 * MIB, HUB)] == list(range(1, 1001))


async def test_positions_and_gaps_outlive_the_facts(tmp_path: Path) -> None:
    """Retention takes facts. Where the origin's log is consumed, and what will never come, must still be known."""
    async with real_logs(tmp_path, {AUDIT: CategoryPolicy(max_bytes=MIB, max_age_s=1)}) as log:
        forward = await log.logs.open_forward(FORWARD)
        gaps = [Gap(4, 5, GapReason.RETENTION), Gap(9, 9, GapReason.LOG_LOST)]
        positions = [Position(offset, bytes([offset]) * 32) for offset in (3, 5, 9, 12)]
        facts_of_hub = [Record(b"{}", {"Bsfg-Id": f"m-{n}"}, "facts.audit.enterprise.plant-a.erp") for n in range(3)]
        page = [*facts_of_hub, position_marker(positions[0]), gap_marker(gaps[0], positions[1])]
        end = await forward.append(page, 0)
        end = await forward.append([gap_marker(gaps[1], positions[2]), position_marker(positions[3])], end)
        with trio.fail_after(15):
            while len(await seqs(forward)) > 3:  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.1)
        left = await forward.read(0, 10, MIB)
        assert [(r.headers.get("Bsfg-Gap"), r.position) for r in left] == [
            ("4-5:retention", positions[1]),
            ("9-9:log_lost", positions[2]),
            (None, positions[3]),
        ]
        assert not any(record.is_fact or record.subject.startswith("facts.") for record in left)
        state = await forward.state()
        assert state.last == end == 7
        last = await forward.last()
        assert last is not None
        assert last.position == positions[3]
        await trio.sleep(1.5)  # another life of a fact later
        assert len(await forward.read(0, 10, MIB)) == 3


async def test_markers_are_in_no_consumers_way(tmp_path: Path) -> None:
    """Who reads ``facts.>`` sees facts."""
    async with real_logs(tmp_path, POLICIES) as log:
        forward = await log.logs.open_forward(FORWARD)
        record = Record(b"{}", {"Bsfg-Id": "m"}, "facts.audit.enterprise.plant-a.erp")
        await forward.append([record, position_marker(Position(2, b"2" * 32))], 0)
        assert await seqs(forward, ZoneId("plant-a")) == [1]
        assert await seqs(forward) == [1, 2]


async def test_an_empty_log_and_a_trimmed_one(tmp_path: Path) -> None:
    """Sequences go on where they were; ``last`` is the last record still there."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        state = await store.state()
        assert (state.first, state.last) == (1, 0)
        assert await store.last() is None
        assert await store.read(0, 10, MIB) == []
        await store.append(facts(10), 0)
        await store.trim(8)
        assert await seqs(store) == [8, 9, 10]
        assert [r.seq for r in await store.read(2, 10, MIB)] == [8, 9, 10]
        await store.trim(11)
        state = await store.state()
        assert (state.first, state.last) == (11, 10)
        assert await store.append(facts(1), 10) == 11


def letter(offset: int, message: bytes = b"bad", detail: str = "why") -> DeadLetter:
    """A dead letter of HUB."""
    return DeadLetter(FORWARD, offset, "facts.audit.x", message, b"d" * 32, Reason.DIGEST_MISMATCH, detail)


async def test_a_dead_letter_is_kept_once(tmp_path: Path) -> None:
    """Keeping it again changes nothing, also after a restart; nothing in it can pass for a header."""
    async with real_logs(tmp_path, POLICIES) as log:
        await log.logs.keep_dead_letter(letter(7, detail="line\r\nNats-Rollup: all"))
        await log.logs.keep_dead_letter(letter(7))
        await log.reopened(POLICIES).keep_dead_letter(letter(7, b"other"))
        await log.logs.keep_dead_letter(letter(8))
        info = await log.wire.request_json("$JS.API.STREAM.INFO.DEAD_LETTERS")
        assert info["state"]["messages"] == 2
        dead = jetstream.JetStreamLog(log.wire, log.admin, "DEAD_LETTERS", {}, lambda r: "", lambda z: [])
        first, second = await dead.read(0, 10, MIB)
        assert first.subject == f"dead.enterprise.audit.{FORWARD.epoch.hex()}.7"
        assert first.payload == b"bad"
        assert first.headers["Bsfg-Reason"] == "digest_mismatch"
        assert first.headers["Bsfg-Detail"] == "line  Nats-Rollup: all"
        assert "Nats-Rollup" not in first.headers
        assert second.subject.endswith(".8")


async def test_dead_letters_that_find_no_room_stop_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fact may only be consumed once its letter is kept."""
    monkeypatch.setattr(streams, "DEAD_LETTER_BYTES", 100_000)
    async with real_logs(tmp_path, POLICIES) as log:

        async def keep_many() -> None:
            for offset in range(1, 10):
                await log.logs.keep_dead_letter(letter(offset, b"x" * 50_000))

        with pytest.raises(UnavailableError) as failed:
            await keep_many()
        assert failed.value.reason is Reason.BROKER_REFUSED
        await log.broker.kill()
        with pytest.raises(UnavailableError) as failed:
            await log.logs.keep_dead_letter(letter(1))
        assert failed.value.reason is Reason.BROKER_UNAVAILABLE


async def test_looking_for_a_log_changes_nothing(tmp_path: Path) -> None:
    """The audit must not create what it is looking for, nor bring limits up to date."""
    async with real_logs(tmp_path, POLICIES) as log:
        own = LogId(ZoneId("plant-a"), AUDIT, b"9" * 16)
        assert await log.logs.existing(own) is None
        assert await log.logs.existing(FORWARD) is None
        names = await log.wire.request_json("$JS.API.STREAM.NAMES")
        assert not names["streams"]
        store, forward = await log.logs.open_store(AUDIT), await log.logs.open_forward(FORWARD)
        await store.append(facts(3), 0)
        await forward.append([position_marker(Position(1, b"1" * 32))], 0)
        assert await log.logs.existing(own) is None  # another epoch of the same name
        before = await log.wire.request_json("$JS.API.STREAM.INFO.FACTS_AUDIT")
        found = await log.reopened({}).existing(LogId(own.origin, AUDIT, store.epoch))
        assert found is not None
        assert await seqs(found) == [1, 2, 3]
        assert found.epoch == store.epoch
        assert (await log.wire.request_json("$JS.API.STREAM.INFO.FACTS_AUDIT"))["config"] == before["config"]
        again = await log.logs.existing(FORWARD)
        assert again is not None
        assert (await again.state()).last == 1


async def test_a_log_that_was_removed_is_not_there(tmp_path: Path) -> None:
    """Nothing is answered for it; opening makes a new one, with another epoch."""
    async with real_logs(tmp_path, POLICIES) as log:
        store = await log.logs.open_store(AUDIT)
        await store.append(facts(3), 0)
        await log.wire.request_json("$JS.API.STREAM.DELETE.FACTS_AUDIT")
        for call in (store.state, store.last, lambda: store.read(0, 1, 1), lambda: store.append(facts(1), 3)):
            with pytest.raises(UnavailableError) as failed:
                await call()
            assert failed.value.reason is Reason.BROKER_UNAVAILABLE
        again = await log.logs.open_store(AUDIT)
        assert again.epoch != store.epoch
        assert (await again.state()).last == 0
