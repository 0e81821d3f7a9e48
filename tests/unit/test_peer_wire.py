# SPDX-License-Identifier: Apache-2.0
"""Small bodies that would become large are refused before they do."""

from __future__ import annotations

import gzip
import zlib

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.peer import codec
from appliance.peer.wire import gunzip, parse_binary, parse_json
from tests.contracts.peer import make_page

PAGE = pb.AppendFactRequest.PAGE_FIELD_NUMBER
MANY = 1_000_000


def length(size: int) -> bytes:
    """A length as protobuf writes it."""
    out = bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size])


def page_of(facts: bytes) -> bytes:
    """A request whose page has these bytes."""
    return bytes([PAGE << 3 | 2]) + length(len(facts)) + facts


def test_a_full_page_is_parsed() -> None:
    """The walk before the parser lets good pages pass."""
    request = codec.append_to_proto(make_page(1000, size=4000), None)
    assert parse_binary(pb.AppendFactRequest, request.SerializeToString(), PAGE) == request


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (page_of(b"\x2a\x00" * MANY), Reason.TOO_LARGE),  # empty facts in a page
        (page_of(b"\x2a\x00" * 700 + b"\x1a" + length(300_000) + bytes(300_000)) * 2, Reason.TOO_LARGE),  # in two pages
        (b"\x0a\x00" * MANY, Reason.TOO_LARGE),  # empty facts of a producer
        (b"\x08\x00" * MANY, Reason.TOO_LARGE),  # unknown numbers
        (b"\x0b" + b"\x0a\x00" * MANY, Reason.BAD_REQUEST),  # a group, which hides what is in it
        (page_of(bytes(600_000))[:-1], Reason.BAD_REQUEST),
        (b"\xff" * 600_000, Reason.BAD_REQUEST),
    ],
    ids=["page", "two-pages", "facts", "numbers", "group", "cut", "noise"],
)
def test_a_bomb_is_refused(body: bytes, reason: Reason) -> None:
    """Two million empty facts would take 180 MiB."""
    with pytest.raises(RefusedError) as caught:
        parse_binary(pb.AppendFactRequest, body, PAGE)
    assert caught.value.reason == reason


def test_fields_of_every_kind_are_walked() -> None:
    """A large body may hold any field the contract has."""
    body = b"\x09" + bytes(8) + b"\x0d" + bytes(4) + b"\x08\x96\x01" + b"\x7a" + length(600_000) + bytes(600_000)
    assert not parse_binary(pb.AppendResult, body).reason


def test_noise_is_no_message() -> None:
    """The parser's own refusal, by our reason."""
    with pytest.raises(RefusedError) as caught:
        parse_binary(pb.AppendFactRequest, b"\xff\xff")
    assert caught.value.reason == Reason.BAD_REQUEST


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"facts": [{"fact": {"object_json": {"k": [' + "[]," * MANY + "1]}}}]}", Reason.TOO_LARGE),
        ('{"facts": [{"fact": {"object_json": {"k": ' + "[" * 5000 + "]" * 5000 + "}}}]}", Reason.BAD_REQUEST),
        ('{"facts": [{"fact": {"object_json": {"k": ' + "[" * 200 + "]" * 200 + "}}}]}", Reason.BAD_REQUEST),
        ('{"factz": []}', Reason.BAD_REQUEST),
        ('{"facts": [], "facts": []}', Reason.BAD_REQUEST),
        ('{"facts": [{"category": "\\ud800"}]}', Reason.BAD_REQUEST),
        ('{"facts": [{"category": 7}]}', Reason.BAD_REQUEST),
        ('{"page": {"pending": ' + "9" * 5000 + "}}", Reason.BAD_REQUEST),
        ("[]", Reason.BAD_REQUEST),
        ("", Reason.BAD_REQUEST),
        ("nonsense", Reason.BAD_REQUEST),
    ],
    ids=lambda value: str(value)[:40],
)
def test_json_that_is_no_request_is_refused(text: str, reason: Reason) -> None:
    """Bombs, depth, unknown and doubled fields, wrong types."""
    with pytest.raises(RefusedError) as caught:
        parse_json(pb.AppendFactRequest, text.encode(), 200_000)
    assert caught.value.reason == reason


def test_json_is_bytes_in_utf8() -> None:
    """Nothing else."""
    with pytest.raises(RefusedError):
        parse_json(pb.AppendFactRequest, b'{"facts": [{"category": "\xff"}]}', 100)


def test_both_spellings_of_json_names_are_read() -> None:
    """As every protobuf JSON parser does."""
    for name in ("maxFacts", "max_facts"):
        assert parse_json(pb.FetchFactsRequest, f'{{"{name}": 5}}'.encode(), 100).max_facts == 5


def test_gzip_is_bounded() -> None:
    """A good member passes, a bomb does not, nor half a member, two, or none."""
    good = gzip.compress(b"x" * 1000)
    assert gunzip(good, 1000) == b"x" * 1000
    bomb = gzip.compress(bytes(100_000_000))
    for data, reason in (
        (good, Reason.TOO_LARGE),
        (bomb, Reason.TOO_LARGE),
        (gzip.compress(b"x" * 900)[:-1], Reason.BAD_REQUEST),
        (gzip.compress(b"") * 2, Reason.BAD_REQUEST),
        (zlib.compress(b"x"), Reason.BAD_REQUEST),
        (b"", Reason.BAD_REQUEST),
    ):
        with pytest.raises(RefusedError) as caught:
            gunzip(data, 999)
        assert caught.value.reason == reason
