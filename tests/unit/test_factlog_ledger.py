# SPDX-License-Identifier: Apache-2.0
"""The ledger as a file: its settings, damage, a full disk, a crash in the middle."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.boundary.errors import IntegrityError, UnavailableError
from appliance.boundary.names import Category, MessageId, ProducerId, ZoneId
from appliance.boundary.pages import Position, Receipt, Signature
from appliance.boundary.reasons import Reason
from appliance.boundary.records import Incident, LedgerRow, LogId
from appliance.factlog.ledger import SCHEMA_VERSION, SqliteLedger

PLANT, HUB = ZoneId("plant-a"), ZoneId("enterprise")
AUDIT = Category("audit")
LOG, NEXT = LogId(PLANT, AUDIT, b"1" * 16), LogId(PLANT, AUDIT, b"2" * 16)
PRESS = ProducerId("press-4")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is."""
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[SqliteLedger]:
    """A new ledger."""
    opened = SqliteLedger.open(path)
    yield opened
    opened.close()


def row(offset: int, message_id: str = "") -> LedgerRow:
    """A row of PRESS to everyone."""
    digest = hashlib.sha256(b"%d" % offset).digest()
    return LedgerRow(offset, offset, "all", PRESS, MessageId(message_id or f"m-{offset}"), digest, b"h" * 32)


def rows(first: int, last: int) -> list[LedgerRow]:
    """A run of rows."""
    return [row(offset) for offset in range(first, last + 1)]


def at(offset: int) -> Position:
    """A position with the head that :func:`row` has."""
    return Position(offset, b"h" * 32)


async def known(ledger: SqliteLedger, *ids: str) -> dict[str, tuple[LogId, int, bool]]:
    """Which of these ids of PRESS are taken: by which log and offset, and whether that is still there."""
    found = await ledger.known(PLANT, [(PRESS, MessageId(i)) for i in ids])
    return {key[1]: (taken.log, taken.offset, taken.live) for key, taken in found.items()}


def receipt(log: LogId, offset: int, receiver: ZoneId = HUB) -> Receipt:
    """A receipt that nobody checks here."""
    return Receipt(log.origin, receiver, log.category, log.epoch, at(offset), 5, Signature(b"s", b"c"))


async def test_every_write_is_fsynced_before_it_returns(ledger: SqliteLedger) -> None:
    """SQLite's default in WAL mode would be NORMAL in some builds: a power cut would take the last writes."""
    connection = ledger._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


async def test_what_was_written_is_there_after_reopening(path: Path, ledger: SqliteLedger) -> None:
    """A second connection sees what the first wrote; the schema is not made twice."""
    await ledger.record(LOG, rows(1, 3), at(3), 3)
    again = SqliteLedger.open(path)
    state = await again.log(LOG)
    assert state is not None
    assert (state.through, state.seq, state.kept) == (at(3), 3, None)
    assert await again.rows(LOG, 0, 10) == rows(1, 3)
    again.close()


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99])
def test_another_schema_is_refused(path: Path, version: int) -> None:
    """A newer program's ledger is left alone, not written into."""
    SqliteLedger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match=f"schema {version}") as refused:
        SqliteLedger.open(path)
    assert refused.value.reason is Reason.LEDGER_DAMAGED
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(path: Path) -> None:
    """Not overwritten either: an operator moves it away."""
    path.parent.mkdir()
    path.write_bytes(b"this is not a ledger" * 500)
    with pytest.raises(IntegrityError) as refused:
        SqliteLedger.open(path)
    assert refused.value.reason is Reason.LEDGER_DAMAGED
    assert path.read_bytes().startswith(b"this is not")


def test_a_place_that_cannot_be_opened_is_not_called_damaged(path: Path) -> None:
    """Whoever reads 'damaged' moves the ledger away: that must not be the advice for a passing trouble."""
    path.mkdir(parents=True)
    with pytest.raises(UnavailableError) as refused:
        SqliteLedger.open(path)
    assert refused.value.reason is Reason.NOT_READY


def test_a_ledger_that_is_held_while_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is that damage."""
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.02))
    with pytest.raises(UnavailableError, match="locked") as refused:
        SqliteLedger.open(path)
    assert refused.value.reason is Reason.NOT_READY
    other.execute("ROLLBACK")
    other.close()
    SqliteLedger.open(path).close()


async def test_damaged_pages_are_noticed(path: Path, ledger: SqliteLedger) -> None:
    """The file opens, but its content makes no sense any more."""
    await ledger.record(LOG, rows(1, 3000), at(3000), 3000)
    ledger.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xa5" * (size - 4096 * 2))
    damaged = SqliteLedger.open(path)
    with pytest.raises(IntegrityError) as refused:
        await damaged.rows(LOG, 0, 3000)
    assert refused.value.reason is Reason.LEDGER_DAMAGED
    damaged.close()


async def test_a_full_disk_stops_it_and_leaves_nothing_half_written(ledger: SqliteLedger) -> None:
    """A later try works: nothing has to be repaired."""
    await ledger.record(LOG, rows(1, 100), at(100), 100)
    connection = ledger._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(UnavailableError, match="full") as refused:
        await ledger.record(LOG, rows(101, 2000), at(2000), 2000)
    assert refused.value.reason is Reason.NOT_READY
    state = await ledger.log(LOG)
    assert state is not None
    assert (state.through.offset, state.seq) == (100, 100)
    assert len(await ledger.rows(LOG, 0, 5000)) == 100
    assert await known(ledger, "m-101", "m-2000") == {}
    connection.execute("PRAGMA max_page_count = 100000")
    await ledger.record(LOG, rows(101, 2000), at(2000), 2000)
    assert len(await ledger.rows(LOG, 0, 5000)) == 2000


async def test_a_locked_ledger_is_unavailable_for_now(path: Path, ledger: SqliteLedger) -> None:
    """A backup tool that holds it too long is no damage."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger._connection.execute("PRAGMA busy_timeout = 20")
    with pytest.raises(UnavailableError, match="locked") as refused:
        await ledger.note(Incident(Reason.LOG_LOST, "x"))
    assert refused.value.reason is Reason.NOT_READY
    other.execute("ROLLBACK")
    other.close()
    await ledger.note(Incident(Reason.LOG_LOST, "x", {"first": "1"}))
    assert [incident for _, incident in await ledger.incidents()] == [Incident(Reason.LOG_LOST, "x", {"first": "1"})]


async def test_ids_belong_to_the_zone_over_all_epochs(ledger: SqliteLedger) -> None:
    """A live id keeps its place; one that was lost with its log is taken over by the next copy."""
    await ledger.record(LOG, rows(1, 3), at(3), 3)
    await ledger.record(NEXT, [row(1, "m-2")], at(1), 1)
    assert await known(ledger, "m-2") == {"m-2": (LOG, 2, True)}
    await ledger.retire(LOG, kept=2)
    assert await known(ledger, "m-2", "m-3") == {"m-2": (LOG, 2, True), "m-3": (LOG, 3, False)}
    await ledger.record(NEXT, [row(2, "m-3"), row(3, "m-1")], at(3), 3)
    assert await known(ledger, "m-1", "m-3") == {"m-1": (LOG, 1, True), "m-3": (NEXT, 2, True)}
    assert [log.retired for log in await ledger.all_logs()] == [True, False]


async def test_truncating_frees_ids(ledger: SqliteLedger) -> None:
    """What turned out not to be in the log may be stored."""
    await ledger.record(LOG, rows(1, 5), at(5), 5)
    await ledger.truncate(LOG, at(2), 2)
    assert await known(ledger, "m-2", "m-3", "m-5") == {"m-2": (LOG, 2, True)}
    assert await ledger.rows(LOG, 0, 10) == rows(1, 2)
    await ledger.record(LOG, [row(3, "m-5")], at(3), 3)
    assert await known(ledger, "m-5") == {"m-5": (LOG, 3, True)}


async def test_many_ids_are_asked_at_once(ledger: SqliteLedger) -> None:
    """More than SQLite takes as parameters; ids of another zone or producer are others."""
    await ledger.record(LOG, rows(1, 2000), at(2000), 2000)
    keys = [(PRESS, MessageId(f"m-{i}")) for i in range(1, 40_001, 20)]
    assert len(await ledger.known(PLANT, keys)) == 100
    assert await ledger.known(HUB, keys) == {}
    assert await ledger.known(PLANT, [(ProducerId("mes"), MessageId("m-1"))]) == {}


async def test_receipts_of_readers_with_their_own_epoch_count_as_confirmed(ledger: SqliteLedger) -> None:
    """But not those for a log that was replaced, nor another reader's."""
    await ledger.record(LOG, rows(1, 9), at(9), 9)
    await ledger.record(NEXT, rows(1, 9), at(9), 9)
    own = LogId(PLANT, AUDIT, b"3" * 16)
    for log, offset in ((LOG, 8), (NEXT, 2), (own, 5)):
        await ledger.put_receipt(receipt(log, offset), None)
    await ledger.put_receipt(receipt(NEXT, 9, ZoneId("plant-b")), None)
    assert await ledger.confirmed(NEXT, HUB) == 5
    assert await ledger.confirmed(LOG, HUB) == 8
    assert await ledger.confirmed(LogId(PLANT, Category("telemetry"), LOG.epoch), HUB) == 0
    assert await ledger.views() == [own]


_WRITER = """
import hashlib, os, sys
from pathlib import Path
import trio
from appliance.factlog.ledger import SqliteLedger
from tests.unit.test_factlog_ledger import LOG, at, rows

async def write():
    ledger = SqliteLedger.open(Path(sys.argv[1]))
    account = await ledger.log(LOG)
    offset = account.through.offset if account else 0
    while True:
        await ledger.record(LOG, rows(offset + 1, offset + 50), at(offset + 50), offset + 50)
        offset += 50
        print(offset, flush=True)

async def die_inside():
    ledger = SqliteLedger.open(Path(sys.argv[1]))
    ledger._connection.execute("PRAGMA cache_size = 1")  # so that pages are written out before the end
    def half(connection):
        connection.execute("UPDATE logs SET through = 999, seq = 999")
        connection.execute("UPDATE facts SET head = zeroblob(64) WHERE offset > 10")
        os.kill(os.getpid(), 9)
    await ledger._write(half)

trio.run({"write": write, "die": die_inside}[sys.argv[2]])
"""


def _start(path: Path, what: str, root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), what], stdout=subprocess.PIPE, text=True, cwd=root
    )


async def test_a_crash_keeps_whole_writes_only(path: Path, root: Path) -> None:
    """Killed at any moment under load: what was answered is there, and nothing is there by halves."""
    for _ in range(3):
        writer = _start(path, "write", root)
        assert writer.stdout is not None
        first = int(writer.stdout.readline())
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        answered = max([first, *(int(line) for line in writer.stdout.read().splitlines())])
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        ledger = SqliteLedger.open(path)
        state = await ledger.log(LOG)
        assert state is not None
        assert state.through.offset in (answered, answered + 50)
        assert [r.offset for r in await ledger.rows(LOG, 0, 10**6)] == list(range(1, state.through.offset + 1))
        assert state.seq == state.through.offset
        ledger.close()


async def test_a_crash_in_the_middle_of_a_write_undoes_it(path: Path, root: Path) -> None:
    """However much of it had been carried out."""
    ledger = SqliteLedger.open(path)
    await ledger.record(LOG, rows(1, 2000), at(2000), 2000)
    ledger.close()
    dying = _start(path, "die", root)
    assert dying.wait(timeout=30) == -signal.SIGKILL
    assert dying.stdout is not None
    dying.stdout.close()
    assert path.with_name("ledger.db-wal").stat().st_size > 100_000  # the crash was in the middle
    ledger = SqliteLedger.open(path)
    state = await ledger.log(LOG)
    assert state is not None
    assert state.through == at(2000)
    assert await ledger.rows(LOG, 0, 3000) == rows(1, 2000)
    ledger.close()
