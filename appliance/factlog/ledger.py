# SPDX-License-Identifier: Apache-2.0
"""The ledger in SQLite: one file per zone, WAL, every write fsynced (``synchronous=FULL``) before it returns.

It follows the logs: what is stored where, under which id, with which chain; which gaps and receipts there are; what
happened. Logs can be read again to rebuild accounts; ids taken by facts that retention has dropped, receipts and
incidents are state of their own.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from appliance.boundary.claims import Key
from appliance.boundary.errors import IntegrityError, UnavailableError
from appliance.boundary.names import EVERYONE, Category, MessageId, ProducerId, ZoneId
from appliance.boundary.pages import Gap, GapReason, Position, Receipt, Signature
from appliance.boundary.reasons import Reason
from appliance.boundary.records import STORED, Incident, KnownId, LedgerLog, LedgerRow, LogId

T = TypeVar("T")

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE logs (
  id INTEGER PRIMARY KEY,
  origin TEXT NOT NULL, category TEXT NOT NULL, epoch BLOB NOT NULL,
  through INTEGER NOT NULL, head BLOB NOT NULL, seq INTEGER NOT NULL,
  kept INTEGER,
  UNIQUE (origin, category, epoch)
) STRICT;
CREATE TABLE facts (
  log INTEGER NOT NULL REFERENCES logs, offset INTEGER NOT NULL, seq INTEGER NOT NULL,
  addressee TEXT NOT NULL, producer TEXT NOT NULL, message_id TEXT NOT NULL,
  digest BLOB NOT NULL, head BLOB NOT NULL, outcome TEXT NOT NULL,
  PRIMARY KEY (log, offset)
) STRICT, WITHOUT ROWID;
CREATE TABLE ids (
  origin TEXT NOT NULL, producer TEXT NOT NULL, message_id TEXT NOT NULL,
  log INTEGER NOT NULL REFERENCES logs, offset INTEGER NOT NULL, digest BLOB NOT NULL,
  PRIMARY KEY (origin, producer, message_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE gaps (
  id INTEGER PRIMARY KEY,
  origin TEXT NOT NULL, category TEXT NOT NULL, epoch BLOB NOT NULL, reader TEXT NOT NULL,
  first INTEGER NOT NULL, last INTEGER NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE INDEX gaps_by_reader ON gaps (origin, category, epoch, reader, last);
CREATE TABLE receipts (
  id INTEGER PRIMARY KEY,
  origin TEXT NOT NULL, category TEXT NOT NULL, epoch BLOB NOT NULL, receiver TEXT NOT NULL,
  offset INTEGER NOT NULL, head BLOB NOT NULL, committed_at INTEGER NOT NULL,
  signature BLOB NOT NULL, certificate BLOB NOT NULL,
  countersignature BLOB, countercertificate BLOB,
  UNIQUE (origin, category, epoch, receiver, offset, head)
) STRICT;
CREATE TABLE incidents (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, facts TEXT NOT NULL
) STRICT;
"""

_LOG: Final = "SELECT id FROM logs WHERE origin = ? AND category = ? AND epoch = ?"
_ADD_FACT: Final = (
    "INSERT OR REPLACE INTO facts (log, offset, seq, addressee, producer, message_id, digest, head, outcome) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ROWS: Final = """
SELECT offset, seq, addressee, producer, message_id, digest, head, outcome FROM facts
WHERE log = (SELECT id FROM logs WHERE origin = ? AND category = ? AND epoch = ?) AND offset > ?
 AND (? IS NULL OR addressee IN (?, ?))
ORDER BY offset LIMIT ?
"""
_LOG_STATE: Final = (
    "SELECT origin, category, epoch, through, head, seq, kept FROM logs WHERE origin = ? AND category = ?"
)
_ADD_ID: Final = """
INSERT INTO ids (origin, producer, message_id, log, offset, digest) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET log = excluded.log, offset = excluded.offset, digest = excluded.digest
WHERE EXISTS (SELECT 1 FROM logs WHERE logs.id = ids.log AND ids.offset > logs.kept)
"""
_KNOWN: Final = """
SELECT ids.producer, ids.message_id, ids.digest, logs.category, logs.epoch, ids.offset,
       logs.kept IS NULL OR ids.offset <= logs.kept
FROM json_each(?) AS wanted
CROSS JOIN ids ON ids.origin = ?
 AND ids.producer = json_extract(wanted.value, '$[0]') AND ids.message_id = json_extract(wanted.value, '$[1]')
CROSS JOIN logs ON logs.id = ids.log
"""


class SqliteLedger:
    """See :class:`appliance.boundary.ports.LedgerPort`. One instance per file and process."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = trio.Lock()

    @classmethod
    def open(cls, path: Path) -> SqliteLedger:
        """Open, or create with its schema.

        :raises UnavailableError: ``not_ready``: the disk is full, or the file cannot be opened now.
        :raises IntegrityError: ``ledger_damaged``: not a ledger, not one of this program's, or not readable.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise UnavailableError(Reason.NOT_READY, f"{path}: {error}") from error
        try:
            _prepare(connection, path)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise UnavailableError(Reason.NOT_READY, f"{path}: {error}") from error
            if isinstance(error, sqlite3.DatabaseError):
                raise IntegrityError(Reason.LEDGER_DAMAGED, f"{path}: {error}") from error
            raise
        return cls(connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # -- accounts ----------------------------------------------------------------------------------------------------

    async def log(self, log: LogId) -> LedgerLog | None:
        """See the port."""
        found = await self._read(f"{_LOG_STATE} AND epoch = ?", (log.origin, log.category, log.epoch))
        return _log_state(found[0]) if found else None

    async def logs(self, origin: ZoneId, category: Category) -> list[LedgerLog]:
        """See the port."""
        return [_log_state(row) for row in await self._read(f"{_LOG_STATE} ORDER BY id", (origin, category))]

    async def record(self, log: LogId, rows: Sequence[LedgerRow], through: Position, seq: int) -> None:
        """See the port."""

        def record(connection: sqlite3.Connection) -> None:
            number = connection.execute(
                "INSERT INTO logs (origin, category, epoch, through, head, seq) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET through = excluded.through, head = excluded.head, seq = excluded.seq "
                "RETURNING id",
                (log.origin, log.category, log.epoch, through.offset, through.head, seq),
            ).fetchone()[0]
            connection.executemany(
                _ADD_FACT,
                [(number, r.offset, r.seq, r.to, r.producer, r.message_id, r.digest, r.head, r.outcome) for r in rows],
            )
            connection.executemany(
                _ADD_ID,
                [
                    (log.origin, r.producer, r.message_id, number, r.offset, r.digest)
                    for r in rows
                    if r.outcome == STORED
                ],
            )

        await self._write(record)

    async def truncate(self, log: LogId, through: Position, seq: int) -> None:
        """See the port."""

        def truncate(connection: sqlite3.Connection) -> None:
            number = connection.execute(_LOG, (log.origin, log.category, log.epoch)).fetchone()[0]
            connection.execute("DELETE FROM facts WHERE log = ? AND offset > ?", (number, through.offset))
            connection.execute("DELETE FROM ids WHERE log = ? AND offset > ?", (number, through.offset))
            connection.execute(
                "UPDATE logs SET through = ?, head = ?, seq = ? WHERE id = ?",
                (through.offset, through.head, seq, number),
            )

        await self._write(truncate)

    async def retire(self, log: LogId, kept: int) -> None:
        """See the port."""
        await self._write(
            lambda connection: connection.execute(
                "UPDATE logs SET kept = ? WHERE origin = ? AND category = ? AND epoch = ?",
                (kept, log.origin, log.category, log.epoch),
            )
        )

    async def known(self, origin: ZoneId, keys: Sequence[Key]) -> dict[Key, KnownId]:
        """See the port."""
        if not keys:
            return {}
        found: dict[Key, KnownId] = {}
        for producer, message_id, digest, category, epoch, offset, live in await self._read(
            _KNOWN, (json.dumps(list(keys)), origin)
        ):
            log = LogId(origin, Category(category), epoch)
            found[ProducerId(producer), MessageId(message_id)] = KnownId(digest, log, offset, bool(live))
        return found

    async def rows(self, log: LogId, after: int, limit: int, reader: ZoneId | None = None) -> list[LedgerRow]:
        """See the port."""
        place = (log.origin, log.category, log.epoch, after)
        found = await self._read(_ROWS, (*place, reader, reader, EVERYONE, limit))
        return [LedgerRow(r[0], r[1], r[2], ProducerId(r[3]), MessageId(r[4]), r[5], r[6], r[7]) for r in found]

    # -- gaps, receipts, incidents -----------------------------------------------------------------------------------

    async def served_gaps(self, log: LogId, reader: ZoneId) -> list[Gap]:
        """See the port."""
        found = await self._read(
            "SELECT first, last, reason FROM gaps WHERE origin = ? AND category = ? AND epoch = ? AND reader = ? "
            "ORDER BY first",
            (log.origin, log.category, log.epoch, reader),
        )
        return [Gap(first, last, GapReason(reason)) for first, last, reason in found]

    async def put_served_gaps(self, log: LogId, reader: ZoneId, after: int, gaps: Sequence[Gap]) -> None:
        """See the port."""

        def put(connection: sqlite3.Connection) -> None:
            place = (log.origin, log.category, log.epoch, reader)
            connection.execute(
                "DELETE FROM gaps WHERE origin = ? AND category = ? AND epoch = ? AND reader = ? AND last > ?",
                (*place, after),
            )
            connection.executemany(
                "INSERT INTO gaps (origin, category, epoch, reader, first, last, reason) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(*place, gap.first, gap.last, gap.reason) for gap in gaps],
            )

        await self._write(put)

    async def put_receipt(self, receipt: Receipt, countersignature: Signature | None) -> None:
        """See the port."""
        if receipt.signature is None:
            raise IntegrityError(Reason.BAD_RECEIPT, "a receipt without signature is none")
        values = (
            *(receipt.origin, receipt.category, receipt.epoch, receipt.receiver),
            *(receipt.through.offset, receipt.through.head, receipt.committed_at_unix_ms),
            *(receipt.signature.value, receipt.signature.certificate),
            countersignature.value if countersignature else None,
            countersignature.certificate if countersignature else None,
        )
        await self._write(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO receipts (origin, category, epoch, receiver, offset, head, committed_at, "
                "signature, certificate, countersignature, countercertificate) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        )

    async def last_receipt(self, log: LogId, receiver: ZoneId) -> Receipt | None:
        """See the port."""
        found = await self._read(
            "SELECT receiver, offset, head, committed_at, signature, certificate FROM receipts "
            "WHERE origin = ? AND category = ? AND epoch = ? AND receiver = ? ORDER BY id DESC LIMIT 1",
            (log.origin, log.category, log.epoch, receiver),
        )
        return _receipt(log, found[0]) if found else None

    async def note(self, incident: Incident) -> None:
        """See the port."""
        await self._write(
            lambda connection: connection.execute(
                "INSERT INTO incidents (at, reason, detail, facts) VALUES (?, ?, ?, ?)",
                (int(time.time() * 1000), incident.reason, incident.detail, json.dumps(dict(incident.facts))),
            )
        )

    # -- for the audit -----------------------------------------------------------------------------------------------

    async def all_logs(self) -> list[LedgerLog]:
        """Every account there is, oldest first."""
        found = await self._read("SELECT origin, category, epoch, through, head, seq, kept FROM logs ORDER BY id", ())
        return [_log_state(row) for row in found]

    async def receipts(self, log: LogId) -> list[tuple[Receipt, Signature | None]]:
        """Every receipt for a log, with the source's countersignature where there is one, oldest first."""
        found = await self._read(
            "SELECT receiver, offset, head, committed_at, signature, certificate, countersignature, countercertificate "
            "FROM receipts WHERE origin = ? AND category = ? AND epoch = ? ORDER BY id",
            (log.origin, log.category, log.epoch),
        )
        return [(_receipt(log, row[:6]), Signature(row[6], row[7]) if row[6] is not None else None) for row in found]

    async def views(self) -> list[LogId]:
        """The logs that receipts name and that have no account: epochs of readers that diverged."""
        found = await self._read(
            "SELECT origin, category, epoch FROM receipts EXCEPT SELECT origin, category, epoch FROM logs", ()
        )
        return [LogId(ZoneId(origin), Category(category), epoch) for origin, category, epoch in found]

    async def confirmed(self, log: LogId, receiver: ZoneId) -> int:
        """The highest offset of a log that a receiver confirmed, be it under an epoch of its own; 0 without any."""
        found = await self._read(
            "SELECT coalesce(max(offset), 0) FROM receipts WHERE origin = ? AND category = ? AND receiver = ? AND "
            "(epoch = ? OR epoch NOT IN (SELECT epoch FROM logs WHERE origin = ? AND category = ?))",
            (log.origin, log.category, receiver, log.epoch, log.origin, log.category),
        )
        return int(found[0][0])

    async def incidents(self) -> list[tuple[int, Incident]]:
        """What happened to the logs, with the time in milliseconds since 1970, oldest first."""
        found = await self._read("SELECT at, reason, detail, facts FROM incidents ORDER BY id", ())
        return [(at, Incident(Reason(reason), detail, json.loads(facts))) for at, reason, detail, facts in found]

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _read(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        async with self._lock:
            return await trio.to_thread.run_sync(self._run, lambda c: c.execute(query, parameters).fetchall())

    async def _write(self, change: Callable[[sqlite3.Connection], object]) -> None:
        async with self._lock:
            await trio.to_thread.run_sync(self._run, lambda connection: _transaction(connection, change))

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connection)
        except sqlite3.OperationalError as error:  # disk full, locked, read-only: it may pass
            raise UnavailableError(Reason.NOT_READY, f"ledger: {error}") from error
        except sqlite3.DatabaseError as error:
            raise IntegrityError(Reason.LEDGER_DAMAGED, str(error)) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Settings of a connection, and the schema if the file is new."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -16384")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        raise IntegrityError(Reason.LEDGER_DAMAGED, f"{path}: schema {version}, this program has {SCHEMA_VERSION}")


def _transaction(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], object]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        change(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # after some errors, such as a full disk, SQLite has rolled back by itself
            connection.execute("ROLLBACK")
        raise


def _log_state(row: Any) -> LedgerLog:
    origin, category, epoch, through, head, seq, kept = row
    return LedgerLog(LogId(ZoneId(origin), Category(category), epoch), Position(through, head), seq, kept)


def _receipt(log: LogId, row: Any) -> Receipt:
    receiver, offset, head, committed_at, signature, certificate = row
    return Receipt(
        log.origin,
        ZoneId(receiver),
        log.category,
        log.epoch,
        Position(offset, head),
        committed_at,
        Signature(signature, certificate),
    )
