# SPDX-License-Identifier: Apache-2.0
"""Bytes before they are parsed: decompression and parsing that cannot be made to cost more than they should.

A protobuf message of 4 MiB can hold two million empty facts, which take 180 MiB once parsed (measured with upb), and
JSON is worse. So a large body is walked once, field by field, before the parser sees it.
"""

from __future__ import annotations

import zlib
from typing import Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from appliance.boundary.errors import RefusedError
from appliance.boundary.pages import MAX_PAGE_FACTS
from appliance.boundary.reasons import Reason
from appliance.peer.codec import bad_request

M = TypeVar("M", bound=Message)

_WALK_FROM_BYTES: Final = 512 * 1024
"""Smaller bodies become 23 MiB at most; walking a page costs a third of a millisecond."""
_MAX_FIELDS: Final = MAX_PAGE_FACTS + 64
_MAX_JSON_DEPTH: Final = 100
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompress one gzip member. :raises RefusedError: ``bad_request``, ``too_large`` beyond ``limit`` bytes."""
    unpacker = zlib.decompressobj(wbits=_GZIP_WINDOW)
    try:
        plain = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise bad_request(f"not gzip: {error}") from None
    if len(plain) > limit:
        raise RefusedError(Reason.TOO_LARGE, f"more than {limit} bytes after decompression")
    if not unpacker.eof or unpacker.unused_data:
        raise bad_request("not one whole gzip member")
    return plain


def parse_binary(message_type: type[M], body: bytes, page_field: int = 0) -> M:
    """Parse a protobuf message.

    :param page_field: the number of its field that is a page, if it has one.
    :raises RefusedError: ``bad_request``, ``too_large``.
    """
    if len(body) > _WALK_FROM_BYTES:
        _check_fields(body, page_field)
    try:
        return message_type.FromString(body)
    except DecodeError:
        raise bad_request(f"not a {message_type.DESCRIPTOR.name} in protobuf") from None


def parse_json(message_type: type[M], body: bytes, max_tokens: int) -> M:
    """Parse the JSON form of a protobuf message. :raises RefusedError: ``bad_request``, ``too_large``."""
    if body.lstrip()[:1] != b"{":
        raise bad_request("not a JSON object")
    tokens = body.count(b"{") + body.count(b"[") + body.count(b",")
    if tokens > max_tokens:
        raise RefusedError(Reason.TOO_LARGE, f"JSON with about {tokens} values, {max_tokens} are allowed")
    try:
        return json_format.Parse(body, message_type(), max_recursion_depth=_MAX_JSON_DEPTH)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise bad_request(str(error)[:256]) from None


def _check_fields(body: bytes, page_field: int) -> None:
    """Count the fields of a message and of the page in it; more than a page may have are refused."""
    fields, spans = 0, [(0, len(body))]
    while spans:
        at, end = spans.pop()
        whole = end - at == len(body)
        while at < end:
            fields += 1
            if fields > _MAX_FIELDS:
                raise RefusedError(Reason.TOO_LARGE, f"more than {MAX_PAGE_FACTS} facts")
            tag, at = _varint(body, at)
            start, at = _skip(body, at, tag & 7)
            if whole and tag >> 3 == page_field and tag & 7 == _BYTES:
                spans.append((start, at))
        if at != end:
            raise bad_request("protobuf fields do not fit their message")


def _skip(body: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Where a field's value starts and ends."""
    if wire_type == _BYTES:
        size, at = _varint(body, at)
        return at, at + size
    if wire_type == _VARINT:
        return at, _varint(body, at)[1]
    if wire_type in (_FIXED32, _FIXED64):
        return at, at + (4 if wire_type == _FIXED32 else 8)
    raise bad_request(f"protobuf wire type {wire_type}")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(body) and shift < 64:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise bad_request("protobuf ends in mid-number")
