# SPDX-License-Identifier: Apache-2.0
"""How facts stand in logs and in the ledger: records with their headers, rows, dead letters, incidents.

A record carries in its headers which fact it is (``Bsfg-Id``, ``Bsfg-Digest``) and, in forward buffers, where it comes
from (``Bsfg-Origin``) and through where the origin's log is consumed (``Bsfg-Position``): position and facts commit
together, so that no second cursor can disagree with the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from appliance.boundary.errors import BsfgError, IntegrityError
from appliance.boundary.messages import Message
from appliance.boundary.names import EVERYONE, Category, FactSubject, MessageId, ProducerId, ZoneId, parse_message_id
from appliance.boundary.pages import Gap, GapReason, Position
from appliance.boundary.reasons import Reason

HEADER_ID: Final = "Bsfg-Id"
HEADER_DIGEST: Final = "Bsfg-Digest"
HEADER_CHAIN: Final = "Bsfg-Chain"
HEADER_ORIGIN: Final = "Bsfg-Origin"
HEADER_POSITION: Final = "Bsfg-Position"
HEADER_GAP: Final = "Bsfg-Gap"

STORED: Final = "stored"
DUPLICATE: Final = "duplicate"
GONE: Final = "gone"
"""Outcome of a row that stands for a range nobody can read any more: up to its offset, from the row before it."""
GAPS: Final = frozenset(GapReason)
"""Outcomes of rows that stand for a gap its origin told: up to the row's offset, from the row before it."""


@dataclass(frozen=True, slots=True)
class LogId:
    """Which log: an origin's category in one epoch."""

    origin: ZoneId
    category: Category
    epoch: bytes


@dataclass(frozen=True, slots=True)
class LogState:
    """What a log holds now: ``first`` and ``last`` sequence (``last`` also counts what is gone), bytes on disk."""

    first: int
    last: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record to be appended: a fact, or a marker (``marker`` names it: ``position`` or ``gap``)."""

    payload: bytes
    headers: Mapping[str, str]
    subject: str = ""
    marker: str = ""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as read from a log."""

    seq: int
    subject: str
    payload: bytes
    headers: Mapping[str, str]

    @property
    def is_fact(self) -> bool:
        """Facts have an id; markers do not."""
        return HEADER_ID in self.headers

    @property
    def digest(self) -> bytes:
        """The SHA-256 the fact was stored under. :raises ValueError: there is none."""
        return bytes.fromhex(self.headers.get(HEADER_DIGEST, "none"))

    @property
    def chain(self) -> bytes:
        """The log's chain with this fact (own facts only); empty when the record does not say."""
        return bytes.fromhex(self.headers.get(HEADER_CHAIN, ""))

    @property
    def origin_offset(self) -> int:
        """The fact's offset in its origin's log."""
        return int(self.headers[HEADER_ORIGIN]) if HEADER_ORIGIN in self.headers else self.seq

    @property
    def position(self) -> Position:
        """Through where the origin's log is consumed with this record.

        :raises IntegrityError: ``log_damaged``: a record of a forward buffer without it was not written by us.
        """
        try:
            offset, head = self.headers[HEADER_POSITION].split(":")
            return Position(int(offset), bytes.fromhex(head))
        except (KeyError, ValueError) as error:
            raise IntegrityError(Reason.LOG_DAMAGED, f"record {self.seq} has no valid {HEADER_POSITION}") from error


def store_record(message: Message, head: bytes) -> Record:
    """A fact of the zone's own log; ``head`` is the log's chain with it."""
    return Record(
        message.canonical,
        {HEADER_ID: message.message_id, HEADER_DIGEST: message.digest.hex(), HEADER_CHAIN: head.hex()},
        subject=str(message.subject),
    )


def forward_record(message: Message, offset: int, position: Position) -> Record:
    """A received fact: which one it is and through where its origin's log is consumed with it."""
    return Record(
        message.canonical,
        {
            HEADER_ID: message.message_id,
            HEADER_DIGEST: message.digest.hex(),
            HEADER_ORIGIN: str(offset),
            HEADER_POSITION: _position_text(position),
        },
        subject=str(message.subject),
    )


def position_marker(position: Position) -> Record:
    """Says through where the origin's log is consumed when no fact can say it; outlives retention."""
    return Record(b"", {HEADER_POSITION: _position_text(position)}, marker="position")


def gap_marker(gap: Gap, position: Position) -> Record:
    """Says, for every reader of the log, that a range will never come."""
    return Record(
        b"",
        {HEADER_GAP: f"{gap.first}-{gap.last}:{gap.reason}", HEADER_POSITION: _position_text(position)},
        marker="gap",
    )


def parse_gap(text: str) -> Gap:
    """The inverse of the ``Bsfg-Gap`` header. :raises IntegrityError: ``log_damaged``."""
    try:
        span, reason = text.split(":")
        first, last = span.split("-")
        return Gap(int(first), int(last), GapReason(reason))
    except ValueError as error:
        raise IntegrityError(Reason.LOG_DAMAGED, f"{HEADER_GAP} {text[:64]!r}") from error


def _position_text(position: Position) -> str:
    return f"{position.offset}:{position.head.hex()}"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One fact in a log's account.

    ``outcome`` is ``stored``, ``duplicate`` (of another epoch), the reason it was diverted for, or one of
    :data:`GAPS`: then the row is no fact, but outlives the log's own record of a gap. ``head`` is the
    chain with it. ``seq`` is its sequence in the local log (0 when it is not there).
    """

    offset: int
    seq: int
    to: str
    producer: ProducerId
    message_id: MessageId
    digest: bytes
    head: bytes
    outcome: str = STORED


def row_of(record: StoredRecord, head: bytes) -> LedgerRow:
    """The ledger row of a fact as it stands in a log.

    :raises IntegrityError: ``log_damaged``: we did not write this record.
    """
    try:
        subject = FactSubject.parse(record.subject)
        message_id = parse_message_id(record.headers.get(HEADER_ID, ""))
        digest, offset = record.digest, record.origin_offset
    except (BsfgError, ValueError) as error:
        raise IntegrityError(Reason.LOG_DAMAGED, f"record {record.seq} was not written by this zone") from error
    return LedgerRow(offset, record.seq, subject.to, subject.producer, message_id, digest, head)


def received_row(record: StoredRecord) -> LedgerRow | None:
    """The ledger row of what stands in a forward buffer; none for a position marker.

    :raises IntegrityError: ``log_damaged``: we did not write this record.
    """
    if record.is_fact:
        return row_of(record, record.position.head)
    if HEADER_GAP in record.headers:
        return gap_row(parse_gap(record.headers[HEADER_GAP]), record.seq, record.position.head)
    return None


def gone_row(last: int, head: bytes) -> LedgerRow:
    """The row of a range that ends at ``last`` and was already gone from the log when its account was written."""
    return LedgerRow(last, 0, EVERYONE, ProducerId(""), MessageId(""), b"", head, GONE)


def gap_row(gap: Gap, seq: int, head: bytes) -> LedgerRow:
    """The row of a gap; ``seq`` is that of its marker."""
    return LedgerRow(gap.last, seq, EVERYONE, ProducerId(""), MessageId(""), b"", head, gap.reason)


@dataclass(frozen=True, slots=True)
class LedgerLog:
    """The state of one log's account. ``kept`` is set when it is retired: only facts up to there still exist."""

    id: LogId
    through: Position
    seq: int
    kept: int | None = None

    @property
    def retired(self) -> bool:
        """Whether the log was replaced."""
        return self.kept is not None


@dataclass(frozen=True, slots=True)
class KnownId:
    """A taken id. ``live`` is false when the only copy was in a log that was lost."""

    digest: bytes
    log: LogId
    offset: int
    live: bool = True


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A received fact that could not be stored, with everything needed to look at it."""

    log: LogId
    offset: int
    subject: str
    message: bytes
    digest: bytes
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happened to the logs themselves, for status and audit."""

    reason: Reason
    detail: str
    facts: Mapping[str, str] = field(default_factory=dict)
