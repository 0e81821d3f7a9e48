# SPDX-License-Identifier: Apache-2.0
"""The ports: what the boundary's operations need from the world, one interface each.

Each has a real implementation, one in-memory fake (``tests/fakes``) and one contract suite that both pass
(``tests/contracts``). All async methods may raise :class:`~appliance.boundary.errors.UnavailableError`; then the
outcome of the call is unknown unless the method says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from appliance.boundary.names import Category, MessageId, ProducerId, ZoneId
from appliance.boundary.pages import Countersigned, FetchRequest, Gap, Page, PageAnswer, Position, Receipt, Signature
from appliance.boundary.producing import AppendResult, ProducedFact, Producer
from appliance.boundary.records import (
    DeadLetter,
    Incident,
    KnownId,
    LedgerLog,
    LedgerRow,
    LogId,
    LogState,
    Record,
    StoredRecord,
)


class LogPort(Protocol):
    """One log of facts (a JetStream stream) with a single writer: us."""

    @property
    def epoch(self) -> bytes:
        """The random id of this log's life; a log that was replaced has another."""
        ...

    def epoch_for(self, reader: ZoneId) -> bytes:
        """The epoch this reader is served under; differs from :attr:`epoch` after the two diverged."""
        ...

    async def roll_epoch(self, reader: ZoneId | None) -> bytes:
        """Give the log a new epoch, for one reader or (``None``) for all, durably."""
        ...

    async def state(self) -> LogState:
        """First and last sequence and size."""
        ...

    async def append(self, records: Sequence[Record], after: int) -> int:
        """Append 1 to 1000 records behind sequence ``after``, all or nothing, fsynced; returns the last sequence.

        :raises PositionError: ``out_of_order``: the log does not end at ``after``; nothing was stored.
        :raises RefusedError: ``buffer_full``; nothing was stored.
        :raises UnavailableError: outcome unknown.
        """
        ...

    async def read(self, after: int, limit: int, max_bytes: int, reader: ZoneId | None = None) -> list[StoredRecord]:
        """Records behind ``after`` that are there now, in order; with a ``reader`` only what it may be served."""
        ...

    async def trim(self, before: int) -> None:
        """Drop every record in front of a sequence, for good."""
        ...

    async def last(self) -> StoredRecord | None:
        """The last record still there, if any."""
        ...


class LogsPort(Protocol):
    """All logs of a zone."""

    async def open_store(self, category: Category) -> LogPort:
        """The log of the zone's own facts; created with a new epoch when it is not there."""
        ...

    async def open_forward(self, log: LogId) -> LogPort:
        """The log of facts received from another zone's log; created when it is not there."""
        ...

    async def forward_epochs(self, origin: ZoneId, category: Category) -> list[bytes]:
        """The epochs of an origin's log that were received here, oldest first."""
        ...

    async def keep_dead_letter(self, letter: DeadLetter) -> None:
        """Keep a fact that could not be stored; keeping the same one again changes nothing."""
        ...


class LedgerPort(Protocol):
    """The ledger: what is in which log, under which id, with which chain. Every write is durable on return."""

    async def log(self, log: LogId) -> LedgerLog | None:
        """What the ledger knows of a log."""
        ...

    async def logs(self, origin: ZoneId, category: Category) -> list[LedgerLog]:
        """Every epoch known of an origin's log, oldest first."""
        ...

    async def record(self, log: LogId, rows: Sequence[LedgerRow], through: Position, seq: int) -> None:
        """Append rows to a log's account; creates it if needed. Ids already held by a live log are left as they are."""
        ...

    async def truncate(self, log: LogId, through: Position, seq: int) -> None:
        """Forget rows behind a position, and their ids: the log turned out to end there."""
        ...

    async def retire(self, log: LogId, kept: int) -> None:
        """Close a log's account: only facts up to offset ``kept`` can still be read; later ids may be stored again."""
        ...

    async def known(
        self, origin: ZoneId, keys: Sequence[tuple[ProducerId, MessageId]]
    ) -> dict[tuple[ProducerId, MessageId], KnownId]:
        """Which of these ids are taken, over all epochs."""
        ...

    async def rows(self, log: LogId, after: int, limit: int, reader: ZoneId | None = None) -> list[LedgerRow]:
        """Rows behind an offset in order; only what ``reader`` may be served, if one is given."""
        ...

    async def served_gaps(self, log: LogId, reader: ZoneId) -> list[Gap]:
        """The gaps this reader has been told of, in order."""
        ...

    async def put_served_gaps(self, log: LogId, reader: ZoneId, after: int, gaps: Sequence[Gap]) -> None:
        """Remember gaps before they are served; those reaching behind ``after`` are void and replaced."""
        ...

    async def put_receipt(self, receipt: Receipt, countersignature: Signature | None) -> None:
        """Keep a receipt, with the source's countersignature once there is one."""
        ...

    async def last_receipt(self, log: LogId, receiver: ZoneId) -> Receipt | None:
        """The newest receipt of a receiver for a log."""
        ...

    async def note(self, incident: Incident) -> None:
        """Keep something an operator must be able to see later."""
        ...


class SourcePort(Protocol):
    """The side that has the facts. ``reader`` is the proven zone of the caller."""

    async def fetch_page(self, reader: ZoneId, request: FetchRequest) -> Page:
        """The next page for this reader; waits up to ``wait_ms`` for the first fact.

        :raises PositionError: ``log_diverged`` with the current epoch when the position is not of this log.
        :raises DeniedError: ``category_denied``.
        """
        ...

    async def confirm_receipt(self, reader: ZoneId, receipt: Receipt) -> Signature:
        """Take a reader's receipt and countersign it. :raises RefusedError: ``bad_receipt``."""
        ...


class SinkPort(Protocol):
    """The side that wants the facts. ``sender`` is the proven zone of the caller."""

    async def append_page(self, sender: ZoneId, page: Page, countersigned: Countersigned | None = None) -> PageAnswer:
        """Commit a page at the frontier, durably, and answer with the new frontier.

        :raises PositionError: ``out_of_order`` with the frontier, ``log_diverged``, ``too_many_epochs``.
        :raises DeniedError: ``category_denied``.
        """
        ...


class ProducerPort(Protocol):
    """What local producers call."""

    async def append_facts(self, producer: Producer, facts: Sequence[ProducedFact]) -> list[AppendResult]:
        """Append 1 to 1000 facts, all or nothing; one result per fact in order.

        Refusals are results, not exceptions.
        """
        ...


class BoundaryPort(SourcePort, SinkPort, Protocol):
    """A whole peer, as the other side sees it."""


class KeysPort(Protocol):
    """The zone's boundary key and identity."""

    async def sign(self, statement: bytes) -> Signature:
        """Sign a statement with the zone's boundary key. A TPM takes up to a second: no page may wait for it.

        :raises ValueError: it does not begin as statements do.
        :raises DeniedError: ``key_latched`` and others: the key may not be used now.
        :raises UnavailableError: the key cannot be reached now.
        """
        ...

    def verify(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """Whether a signature over the statement is by the boundary key of that zone."""
        ...
