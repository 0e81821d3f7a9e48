# SPDX-License-Identifier: Apache-2.0
"""Protobuf messages of ``bsfg.v1`` to the boundary's types and back: pages, positions, receipts and answers.

What comes in is parsed strictly as far as its shape goes: names, lengths, counts, order. The content of a peer's facts
is not looked at here; one bad fact must be diverted by the boundary's rules and never stop the page it stands in.
Every parser raises :class:`~appliance.boundary.errors.RefusedError`, ``bad_request`` unless it says otherwise.
"""

from __future__ import annotations

from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import parse_category, parse_zone
from appliance.boundary.pages import (
    EPOCH_BYTES,
    MAX_PAGE_BYTES,
    MAX_PAGE_FACTS,
    Countersigned,
    Fact,
    FetchRequest,
    Gap,
    GapReason,
    Page,
    PageAnswer,
    Position,
    Receipt,
    Signature,
)
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason

DIGEST_BYTES: Final = 32
MAX_WAIT_MS: Final = 30_000
"""Longest long poll; a longer ``wait_ms`` is shortened to it."""
_MAX_SIGNATURE_BYTES: Final = 128
_MAX_CERTIFICATE_BYTES: Final = 8192

_GAPS_TO_PROTO: Final = {
    GapReason.RETENTION: pb.GAP_REASON_RETENTION,
    GapReason.LOG_LOST: pb.GAP_REASON_LOG_LOST,
}
_GAPS_FROM_PROTO: Final = {int(number): reason for reason, number in _GAPS_TO_PROTO.items()}


def bad_request(detail: str) -> RefusedError:
    """The refusal of a request that does not follow the contract."""
    return RefusedError(Reason.BAD_REQUEST, detail)


# -- positions and epochs ----------------------------------------------------------------------------------------------


def position_to_proto(position: Position) -> pb.Position:
    """A position as it travels."""
    return pb.Position(offset=position.offset, head=position.head)


def position_from_proto(message: pb.Position) -> Position:
    """A position: a chain head of 32 bytes, empty exactly at offset 0."""
    head = message.head
    if len(head) != (DIGEST_BYTES if message.offset else 0):
        raise bad_request(f"chain head of {len(head)} bytes at offset {message.offset}")
    return Position(message.offset, head)


def _epoch(value: bytes, *, optional: bool = False) -> bytes:
    if len(value) != EPOCH_BYTES and not (optional and not value):
        raise bad_request(f"epoch of {len(value)} bytes, not {EPOCH_BYTES}")
    return value


# -- pages -------------------------------------------------------------------------------------------------------------


def page_to_proto(page: Page) -> pb.Page:
    """A page as it travels."""
    message = pb.Page(
        origin=page.origin,
        category=page.category,
        epoch=page.epoch,
        after=position_to_proto(page.after),
        through=position_to_proto(page.through),
        pending=page.pending,
    )
    add = message.facts.add
    for fact in page.facts:
        add(offset=fact.offset, prev=fact.prev, subject=fact.subject, message=fact.message, digest=fact.digest)
    for gap in page.gaps:
        message.gaps.add(first=gap.first, last=gap.last, reason=_GAPS_TO_PROTO[gap.reason])
    return message


def page_from_proto(message: pb.Page) -> Page:
    """A page of known shape: counted, sized, and in order from ``after`` to ``through``.

    :raises RefusedError: ``bad_name`` for its origin or category, ``too_large``, ``bad_request``.
    """
    count = len(message.facts) + len(message.gaps)
    if count > MAX_PAGE_FACTS:
        raise RefusedError(Reason.TOO_LARGE, f"{count} facts and gaps, {MAX_PAGE_FACTS} are allowed")
    facts = tuple([Fact(fact.offset, fact.prev, fact.subject, fact.message, fact.digest) for fact in message.facts])
    size = sum([len(fact.message) for fact in facts])
    if size > MAX_PAGE_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"facts of {size} bytes, {MAX_PAGE_BYTES} are allowed")
    if any(len(fact.digest) != DIGEST_BYTES for fact in facts):
        raise bad_request(f"a digest is not {DIGEST_BYTES} bytes long")
    page = Page(
        origin=parse_zone(message.origin),
        category=parse_category(message.category),
        epoch=_epoch(message.epoch, optional=count == 0),  # a probe may ask for the newest epoch
        after=position_from_proto(message.after),
        through=position_from_proto(message.through),
        facts=facts,
        gaps=tuple(_gap_from_proto(gap) for gap in message.gaps),
        pending=message.pending,
    )
    _check_order(page)
    return page


def _gap_from_proto(message: pb.Gap) -> Gap:
    reason = _GAPS_FROM_PROTO.get(message.reason)
    if reason is None:
        raise bad_request(f"unknown gap reason {int(message.reason)}")
    if not 0 < message.first <= message.last:
        raise bad_request(f"gap from {message.first} to {message.last}")
    return Gap(message.first, message.last, reason)


def _check_order(page: Page) -> None:
    """Facts and gaps rise, do not overlap, and lie behind ``after`` and up to ``through``."""
    offsets = [fact.offset for fact in page.facts]
    starts = [gap.first for gap in page.gaps]
    if offsets != sorted(offsets) or starts != sorted(starts):
        raise bad_request("facts or gaps are not in order")
    at = page.after.offset
    for item in page.items():
        first, last = (item.first, item.last) if isinstance(item, Gap) else (item.offset, item.offset)
        if first <= at:
            raise bad_request(f"offset {first} comes after {at}")
        at = last
    if page.through.offset < at:
        raise bad_request(f"the page ends at {page.through.offset}, before its last offset {at}")


# -- fetching ----------------------------------------------------------------------------------------------------------


def fetch_to_proto(consumer: str, request: FetchRequest) -> pb.FetchFactsRequest:
    """A fetch as it travels; ``consumer`` is the caller's zone."""
    return pb.FetchFactsRequest(
        consumer=consumer,
        category=request.category,
        epoch=request.epoch,
        after=position_to_proto(request.after),
        max_facts=request.max_facts,
        max_bytes=request.max_bytes,
        wait_ms=request.wait_ms,
    )


def fetch_from_proto(message: pb.FetchFactsRequest) -> FetchRequest:
    """A fetch; limits that are unset or above what a page may hold become what a page may hold."""
    request = FetchRequest(
        category=parse_category(message.category),
        epoch=_epoch(message.epoch, optional=True),
        after=position_from_proto(message.after),
        max_facts=min(message.max_facts or MAX_PAGE_FACTS, MAX_PAGE_FACTS),
        max_bytes=min(message.max_bytes or MAX_PAGE_BYTES, MAX_PAGE_BYTES),
        wait_ms=min(message.wait_ms, MAX_WAIT_MS),
    )
    if not request.epoch and request.after.offset:
        raise bad_request(f"offset {request.after.offset} without the epoch it belongs to")
    return request


# -- receipts ----------------------------------------------------------------------------------------------------------


def signature_to_proto(signature: Signature) -> pb.Signature:
    """A signature as it travels."""
    return pb.Signature(value=signature.value, certificate=signature.certificate)


def signature_from_proto(message: pb.Signature) -> Signature:
    """A signature of plausible size; whether it is true is for the keys to say."""
    if not 0 < len(message.value) <= _MAX_SIGNATURE_BYTES:
        raise bad_request(f"signature of {len(message.value)} bytes")
    if not 0 < len(message.certificate) <= _MAX_CERTIFICATE_BYTES:
        raise bad_request(f"signature with a certificate of {len(message.certificate)} bytes")
    return Signature(message.value, message.certificate)


def receipt_to_proto(receipt: Receipt) -> pb.Receipt:
    """A receipt as it travels."""
    return pb.Receipt(
        origin=receipt.origin,
        receiver=receipt.receiver,
        category=receipt.category,
        epoch=receipt.epoch,
        through=position_to_proto(receipt.through),
        committed_at_unix_ms=receipt.committed_at_unix_ms,
        signature=None if receipt.signature is None else signature_to_proto(receipt.signature),
    )


def receipt_from_proto(message: pb.Receipt) -> Receipt:
    """A receipt, signed or not."""
    if message.committed_at_unix_ms < 0:
        raise bad_request("receipt from before 1970")
    return Receipt(
        origin=parse_zone(message.origin),
        receiver=parse_zone(message.receiver),
        category=parse_category(message.category),
        epoch=_epoch(message.epoch),
        through=position_from_proto(message.through),
        committed_at_unix_ms=message.committed_at_unix_ms,
        signature=signature_from_proto(message.signature) if message.HasField("signature") else None,
    )


# -- appending a page --------------------------------------------------------------------------------------------------


def append_to_proto(page: Page, countersigned: Countersigned | None) -> pb.AppendFactRequest:
    """A page on its way to its receiver, with the source's countersigned receipt if one is due."""
    request = pb.AppendFactRequest(page=page_to_proto(page))
    if countersigned is not None:
        request.countersigned.CopyFrom(receipt_to_proto(countersigned.receipt))
        request.countersignature.CopyFrom(signature_to_proto(countersigned.countersignature))
    return request


def append_from_proto(request: pb.AppendFactRequest) -> tuple[Page, Countersigned | None]:
    """A peer's page and countersigned receipt; a producer's facts are refused."""
    if request.facts:
        raise bad_request("a peer appends a page, not facts")
    if not request.HasField("page"):
        raise bad_request("the page is missing")
    page = page_from_proto(request.page)
    signed = request.HasField("countersigned")
    if signed != request.HasField("countersignature"):
        raise bad_request("countersigned and countersignature go together")
    if not signed:
        return page, None
    receipt = receipt_from_proto(request.countersigned)
    return page, Countersigned(receipt, signature_from_proto(request.countersignature))


def page_answer_to_proto(answer: PageAnswer) -> pb.AppendFactResponse:
    """A receiver's answer as it travels."""
    return pb.AppendFactResponse(
        frontier=position_to_proto(answer.frontier),
        epoch=answer.epoch,
        credit_facts=answer.credit_facts,
        retry_after_ms=answer.retry_after_ms,
        receipt=None if answer.receipt is None else receipt_to_proto(answer.receipt),
    )


def page_answer_from_proto(message: pb.AppendFactResponse) -> PageAnswer:
    """A receiver's answer; the epoch may be empty when it has none yet."""
    return PageAnswer(
        epoch=_epoch(message.epoch, optional=True),
        frontier=position_from_proto(message.frontier),
        credit_facts=message.credit_facts,
        retry_after_ms=message.retry_after_ms,
        receipt=receipt_from_proto(message.receipt) if message.HasField("receipt") else None,
    )
