# SPDX-License-Identifier: Apache-2.0
"""What becomes of a received page: which facts are stored, which are diverted, and where the page ends. Pure.

A page that is not what its sender says (offsets that do not rise one from the other, another chain head) is refused
as a whole. A fact that is wrong by itself, or whose id is taken, is *consumed* and diverted: it never stops the facts
behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.boundary.claims import Key
from appliance.boundary.errors import RefusedError
from appliance.boundary.messages import Message, check_stored
from appliance.boundary.names import MessageId, ProducerId, ZoneId
from appliance.boundary.pages import Fact, Gap, Page, Position, link
from appliance.boundary.reasons import Reason
from appliance.boundary.records import (
    DUPLICATE,
    STORED,
    DeadLetter,
    KnownId,
    LedgerRow,
    LogId,
    Record,
    forward_record,
    gap_marker,
    gap_row,
    position_marker,
)


@dataclass(slots=True)
class Judged:
    """What a page becomes: records for the log, rows for the ledger, dead letters, and where it ends."""

    through: Position
    records: list[Record] = field(default_factory=list)
    rows: list[LedgerRow] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    gaps: int = 0


def check_facts(log: LogId, me: ZoneId, page: Page) -> dict[int, Message | RefusedError]:
    """Check the content of every fact of a page, by offset."""
    checked: dict[int, Message | RefusedError] = {}
    for fact in page.facts:
        try:
            checked[fact.offset] = _check_fact(log, me, fact)
        except RefusedError as refused:
            checked[fact.offset] = refused
    return checked


def _check_fact(log: LogId, me: ZoneId, fact: Fact) -> Message:
    message = check_stored(fact.subject, fact.message, fact.digest)
    subject = message.subject
    if subject.origin != log.origin or subject.category != log.category or not subject.addresses(me):
        raise RefusedError(
            Reason.ZONE_MISMATCH, f"{fact.subject[:128]} in a page of {log.origin} {log.category} to {me}"
        )
    return message


def judge(
    log: LogId, page: Page, checked: Mapping[int, Message | RefusedError], known: Mapping[Key, KnownId], seq: int
) -> Judged:
    """Decide a page that starts at the frontier; ``seq`` is the local log's last sequence. Pure.

    :raises RefusedError: ``bad_request`` when offsets do not rise one from the other or the chain does not fit: then
        the page as a whole is not what its sender says, and nothing of it is consumed.
    """
    at = page.after
    result = Judged(at)
    taken: dict[Key, bytes] = {}
    for item in page.items():
        head = link(at.head, item)
        if isinstance(item, Gap):
            if item.first != at.offset + 1 or item.last < item.first:
                raise RefusedError(Reason.BAD_REQUEST, f"gap {item.first}-{item.last} behind {at.offset}")
            at = Position(item.last, head)
            result.records.append(gap_marker(item, at))
            result.rows.append(gap_row(item, seq + len(result.records), head))
            result.gaps += 1
            continue
        if item.prev != at.offset or item.offset <= at.offset:
            raise RefusedError(Reason.BAD_REQUEST, f"fact {item.offset} names {item.prev} before it, not {at.offset}")
        at = Position(item.offset, head)
        outcome = _divert(log, item, checked[item.offset], known, taken, result.dead)
        content = checked[item.offset]
        if outcome == STORED and isinstance(content, Message):
            taken[content.key] = content.digest
            result.records.append(forward_record(content, item.offset, at))
        result.rows.append(_row(item, content, head, outcome, seq + len(result.records) if outcome == STORED else 0))
    if at != page.through:
        raise RefusedError(Reason.CHAIN_BROKEN, f"the page ends at {page.through.offset} with another chain head")
    if result.rows and result.rows[-1].seq == 0:  # neither a fact nor a gap at the page's end says where it ends
        result.records.append(position_marker(at))
    result.through = at
    return result


def _divert(
    log: LogId,
    fact: Fact,
    content: Message | RefusedError,
    known: Mapping[Key, KnownId],
    taken: Mapping[Key, bytes],
    dead: list[DeadLetter],
) -> str:
    """The outcome of a fact: stored, duplicate, or the reason it goes to the dead letters for."""
    if isinstance(content, RefusedError):
        dead.append(_dead_letter(log, fact, content.reason, content.detail))
        return content.reason
    held = taken.get(content.key)
    if held is None and content.key in known:
        old = known[content.key]
        held = old.digest
        if old.log.category != log.category:
            detail = f"the id is taken in category {old.log.category}"
            dead.append(_dead_letter(log, fact, Reason.CONFLICTING_DUPLICATE, detail))
            return Reason.CONFLICTING_DUPLICATE
    if held is None:
        return STORED
    if held == content.digest:
        return DUPLICATE
    detail = f"stored sha256 {held.hex()}, offered sha256 {content.digest.hex()}"
    dead.append(_dead_letter(log, fact, Reason.CONFLICTING_DUPLICATE, detail))
    return Reason.CONFLICTING_DUPLICATE


def _dead_letter(log: LogId, fact: Fact, reason: Reason, detail: str) -> DeadLetter:
    return DeadLetter(log, fact.offset, fact.subject, fact.message, fact.digest, reason, detail)


def _row(fact: Fact, content: Message | RefusedError, head: bytes, outcome: str, seq: int) -> LedgerRow:
    if isinstance(content, RefusedError):
        return LedgerRow(fact.offset, seq, "", ProducerId(""), MessageId(""), fact.digest, head, outcome)
    subject = content.subject
    return LedgerRow(fact.offset, seq, subject.to, subject.producer, content.message_id, content.digest, head, outcome)
