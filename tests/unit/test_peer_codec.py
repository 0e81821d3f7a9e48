# SPDX-License-Identifier: Apache-2.0
"""Pages, positions and receipts survive the way as they are, and come in only in their proper shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import (
    MAX_PAGE_BYTES,
    MAX_PAGE_FACTS,
    START,
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
from appliance.peer import codec
from tests.contracts.peer import AUDIT, EPOCH, HEAD, make_fact, make_page, make_receipt

zones = st.sampled_from(["plant-a", "plant-b", "enterprise"]).map(ZoneId)
categories = st.sampled_from(["audit", "telemetry"]).map(Category)
epochs = st.binary(min_size=16, max_size=16)
heads = st.binary(min_size=32, max_size=32)


@st.composite
def pages(draw: st.DrawFn) -> Page:
    """Any page of proper shape."""
    start = draw(st.integers(0, 2**60))
    after = Position(start, draw(heads) if start else b"")
    at, facts, gaps = start, [], []
    for _ in range(draw(st.integers(0, 8))):
        first = at + draw(st.integers(1, 5))
        if draw(st.booleans()):
            at = first
            facts.append(
                Fact(first, draw(st.integers(0, at)), draw(st.text(max_size=20)), draw(st.binary(max_size=50)), HEAD)
            )
        else:
            at = first + draw(st.integers(0, 100))
            gaps.append(Gap(first, at, draw(st.sampled_from(GapReason))))
    end = at + draw(st.integers(0, 3))
    through = Position(end, draw(heads) if end else b"")
    pending = draw(st.integers(0, 2**40))
    return Page(draw(zones), draw(categories), draw(epochs), after, through, tuple(facts), tuple(gaps), pending)


@given(pages())
def test_a_page_survives_the_way(page: Page) -> None:
    """Through the bytes and back."""
    data = codec.page_to_proto(page).SerializeToString()
    assert codec.page_from_proto(pb.Page.FromString(data)) == page


@given(st.binary(max_size=200))
def test_noise_is_refused_or_parsed(data: bytes) -> None:
    """Whatever protobuf makes of noise, the parser answers with a page or a refusal."""
    message = pb.Page()
    try:
        message.MergeFromString(data)
    except Exception:  # noqa: BLE001 - protobuf's own refusal
        return
    with suppress(RefusedError):
        codec.page_from_proto(message)


@given(zones, zones, categories, epochs, st.integers(1, 2**63), heads, st.integers(0, 2**62), st.booleans())
def test_a_receipt_survives_the_way(
    origin: ZoneId,
    receiver: ZoneId,
    category: Category,
    epoch: bytes,
    offset: int,
    head: bytes,
    at_ms: int,
    signed: bool,
) -> None:
    """Signed or not."""
    signature = Signature(b"v", b"c") if signed else None
    receipt = Receipt(origin, receiver, category, epoch, Position(offset, head), at_ms, signature)
    assert codec.receipt_from_proto(codec.receipt_to_proto(receipt)) == receipt


def test_an_answer_survives_the_way() -> None:
    """With and without epoch and receipt."""
    for answer in (PageAnswer(b"", START), PageAnswer(EPOCH, Position(3, HEAD), 0, 2**31, make_receipt())):
        assert codec.page_answer_from_proto(codec.page_answer_to_proto(answer)) == answer


def test_a_fetch_asks_for_what_a_page_may_hold() -> None:
    """What is unset or too much becomes the most there is."""
    message = pb.FetchFactsRequest(category="audit", max_facts=10**9, max_bytes=0, wait_ms=10**9)
    assert codec.fetch_from_proto(message) == FetchRequest(
        AUDIT, b"", START, MAX_PAGE_FACTS, MAX_PAGE_BYTES, codec.MAX_WAIT_MS
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"category": "No"},
        {"epoch": bytes(15)},
        {"after": pb.Position(offset=1, head=HEAD)},  # without an epoch
        {"epoch": EPOCH, "after": pb.Position(offset=1)},
        {"epoch": EPOCH, "after": pb.Position(offset=0, head=HEAD)},
        {"epoch": EPOCH, "after": pb.Position(offset=1, head=HEAD[:31])},
    ],
    ids=str,
)
def test_a_fetch_out_of_shape_is_refused(fields: dict[str, Any]) -> None:
    """Names, epoch, position."""
    with pytest.raises(RefusedError):
        codec.fetch_from_proto(pb.FetchFactsRequest(**{"category": "audit", **fields}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"origin": "all"}, Reason.BAD_NAME),
        ({"category": "A"}, Reason.BAD_NAME),
        ({"epoch": b""}, Reason.BAD_REQUEST),
        ({"facts": (replace(make_fact(1), digest=b""),)}, Reason.BAD_REQUEST),
        ({"facts": (make_fact(2), make_fact(1))}, Reason.BAD_REQUEST),
        ({"facts": (make_fact(4),)}, Reason.BAD_REQUEST),  # behind through
        ({"gaps": (Gap(0, 0, GapReason.RETENTION),), "facts": ()}, Reason.BAD_REQUEST),
        ({"gaps": (Gap(3, 2, GapReason.RETENTION),), "facts": ()}, Reason.BAD_REQUEST),
        ({"gaps": (Gap(2, 3, GapReason.RETENTION), Gap(1, 1, GapReason.LOG_LOST)), "facts": ()}, Reason.BAD_REQUEST),
        ({"gaps": (Gap(1, 1, GapReason.RETENTION),)}, Reason.BAD_REQUEST),  # over a fact
        ({"after": Position(3, HEAD)}, Reason.BAD_REQUEST),  # facts before the page
        ({"after": Position(5, HEAD), "facts": ()}, Reason.BAD_REQUEST),  # it ends before it starts
        ({"facts": tuple(map(make_fact, range(1, 1002))), "through": Position(1001, HEAD)}, Reason.TOO_LARGE),
        ({"facts": (make_fact(1, bytes(MAX_PAGE_BYTES + 1)),)}, Reason.TOO_LARGE),
    ],
)
def test_a_page_out_of_shape_is_refused(damage: dict[str, Any], reason: Reason) -> None:
    """Each rule of the shape, by an offender."""
    with pytest.raises(RefusedError) as caught:
        codec.page_from_proto(codec.page_to_proto(replace(make_page(), **damage)))
    assert caught.value.reason == reason


def test_an_unknown_gap_reason_is_refused() -> None:
    """Enumerations of a newer peer arrive as numbers."""
    message = codec.page_to_proto(replace(make_page(0), through=Position(1, HEAD)))
    message.gaps.add(first=1, last=1, reason=99)
    with pytest.raises(RefusedError, match="99"):
        codec.page_from_proto(message)


def test_pages_and_facts_do_not_mix() -> None:
    """A peer's request has a page and nothing of a producer's; receipt and countersignature go together."""
    good = codec.append_to_proto(make_page(), None)
    assert codec.append_from_proto(good) == (make_page(), None)
    spoilers: list[Callable[[pb.AppendFactRequest], object]] = [
        lambda request: request.facts.add(),
        lambda request: request.ClearField("page"),
        lambda request: request.countersigned.CopyFrom(codec.receipt_to_proto(make_receipt())),
        lambda request: request.countersignature.CopyFrom(pb.Signature(value=b"v", certificate=b"c")),
    ]
    for spoil in spoilers:
        bad = pb.AppendFactRequest()
        bad.CopyFrom(good)
        spoil(bad)
        with pytest.raises(RefusedError):
            codec.append_from_proto(bad)


@pytest.mark.parametrize("signature", [pb.Signature(), pb.Signature(value=bytes(999), certificate=b"c")])
def test_an_implausible_signature_is_refused(signature: pb.Signature) -> None:
    """Sizes are looked at before keys are."""
    with pytest.raises(RefusedError):
        codec.signature_from_proto(signature)


def test_a_full_page_takes_a_few_milliseconds() -> None:
    """The hot path; about 0.5 ms to write and 1 ms to read on the machine it was written on."""
    page = make_page(1000, size=256)
    best_s = 1.0
    for _ in range(20):
        start = time.perf_counter()
        data = codec.page_to_proto(page).SerializeToString()
        codec.page_from_proto(pb.Page.FromString(data))
        best_s = min(best_s, time.perf_counter() - start)
    assert best_s < 0.015
