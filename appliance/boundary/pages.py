# SPDX-License-Identifier: Apache-2.0
"""What travels between zones: positions, facts in order, gaps, pages and receipts; and the chain over them.

The chain is the running SHA-256 over what one reader was served: it is computed by both sides from the bytes, so equal
heads at the same offset prove equal histories (DESIGN: exactly-once effect).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from appliance.boundary.names import Category, ZoneId

MAX_PAGE_FACTS: Final = 1000
"""Facts in one page; also what one JetStream atomic batch takes."""
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of facts in one page."""
EPOCH_BYTES: Final = 16

GENESIS: Final = b""
"""Chain head before the first fact."""

_OFFSET = struct.Struct(">Q")
_RANGE = struct.Struct(">QQ")


class GapReason(StrEnum):
    """Why an origin can no longer serve a range of offsets."""

    RETENTION = "retention"
    LOG_LOST = "log_lost"


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to ``offset`` is included; ``head`` is the chain over it (32 bytes, or empty at 0)."""

    offset: int = 0
    head: bytes = GENESIS


START: Final = Position()


@dataclass(frozen=True, slots=True)
class Fact:
    """One stored fact: its place in the origin's log, its subject and its exact canonical bytes."""

    offset: int
    prev: int
    subject: str
    message: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets ``first`` to ``last`` (both included) that the origin cannot serve any more."""

    first: int
    last: int
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Page:
    """A run of facts and gaps of one origin, category and epoch, in order, as served to one reader."""

    origin: ZoneId
    category: Category
    epoch: bytes
    after: Position
    through: Position
    facts: tuple[Fact, ...] = ()
    gaps: tuple[Gap, ...] = ()
    pending: int = 0

    @property
    def is_probe(self) -> bool:
        """A page that carries nothing only asks where the receiver stands."""
        return not self.facts and not self.gaps

    def items(self) -> Iterator[Fact | Gap]:
        """Facts and gaps in offset order."""
        merged: list[tuple[int, Fact | Gap]] = [(fact.offset, fact) for fact in self.facts]
        if self.gaps:
            merged += [(gap.first, gap) for gap in self.gaps]
            merged.sort(key=lambda pair: pair[0])
        return (item for _, item in merged)


@dataclass(frozen=True, slots=True)
class Signature:
    """ECDSA P-256 over SHA-256 (DER) with the DER certificate of the key that made it."""

    value: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receiver's signed statement that it has durably committed an origin's log up to a position."""

    origin: ZoneId
    receiver: ZoneId
    category: Category
    epoch: bytes
    through: Position
    committed_at_unix_ms: int
    signature: Signature | None = None

    def statement(self) -> bytes:
        """The bytes that are signed; one line per field, so that people can check it with openssl."""
        lines = (
            "bsfg.v1 receipt",
            f"origin {self.origin}",
            f"receiver {self.receiver}",
            f"category {self.category}",
            f"epoch {self.epoch.hex()}",
            f"offset {self.through.offset}",
            f"head {self.through.head.hex()}",
            f"committed_at_unix_ms {self.committed_at_unix_ms}",
        )
        return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True, slots=True)
class Countersigned:
    """A receipt together with the source's signature over the same statement."""

    receipt: Receipt
    countersignature: Signature


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Asks a source for the page after a position; ``epoch`` is empty at first contact."""

    category: Category
    epoch: bytes = b""
    after: Position = START
    max_facts: int = MAX_PAGE_FACTS
    max_bytes: int = MAX_PAGE_BYTES
    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """A receiver's answer to a page: its durable frontier, what it takes next and when, and a receipt when due."""

    epoch: bytes
    frontier: Position
    credit_facts: int = MAX_PAGE_FACTS
    retry_after_ms: int = 0
    receipt: Receipt | None = field(default=None)


def link_fact(head: bytes, offset: int, digest: bytes) -> bytes:
    """The chain head after a fact."""
    return hashlib.sha256(head + _OFFSET.pack(offset) + digest).digest()


def link_gap(head: bytes, gap: Gap) -> bytes:
    """The chain head after a gap; a gap can therefore not be hidden or added later."""
    return hashlib.sha256(head + b"gap" + _RANGE.pack(gap.first, gap.last) + gap.reason.encode()).digest()


def link(head: bytes, item: Fact | Gap) -> bytes:
    """The chain head after a fact or a gap."""
    return link_gap(head, item) if isinstance(item, Gap) else link_fact(head, item.offset, item.digest)
