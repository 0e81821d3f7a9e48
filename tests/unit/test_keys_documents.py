# SPDX-License-Identifier: Apache-2.0
"""Documents are read in one form only."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.documents import (
    base64_bytes,
    base64_text,
    decimal_number,
    hex_bytes,
    is_signed,
    parse_document,
    render_document,
    sign_document,
)

FIELDS = {"name": str, "count": int}
GOOD = b'{"count":1,"format":"f-1","name":"x"}\n'


def test_the_one_form_is_read() -> None:
    """And rendered."""
    assert parse_document(GOOD, "f-1", FIELDS) == {"count": 1, "name": "x"}
    assert render_document({"name": "x", "format": "f-1", "count": 1}) == GOOD


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GOOD[:-1], "one form"),
        (GOOD + b"\n", "one form"),
        (GOOD.replace(b":1", b": 1"), "one form"),
        (GOOD.replace(b"1,", b"1.0,"), "another type"),
        (GOOD.replace(b":1", b":true"), "another type"),
        (GOOD.replace(b'"x"', b'"\\u0078"'), "one form"),
        (GOOD.replace(b'"x"', b"7"), "another type"),
        (GOOD.replace(b"{", b'{"count":1,'), "one form"),
        (GOOD.replace(b"name", b"nama"), "name is missing"),
        (GOOD.replace(b"}", b',"z":1}'), "unknown: z"),
        (GOOD.replace(b"f-1", b"f-2"), "format"),
        (b"[]\n", "not a JSON object"),
        (b"\xff\n", "not a JSON document"),
        (b"", "not a JSON document"),
        (b"[" * 20_000, "not a JSON document"),
        (GOOD.replace(b":1", b":1e400"), "not a JSON document"),
        (GOOD + b" " * 70_000, "more than"),
    ],
)
def test_any_other_form_is_refused(data: bytes, words: str) -> None:
    """With the reason that its format has."""
    with pytest.raises(RefusedError) as refused:
        parse_document(data, "f-1", FIELDS, reason=Reason.BAD_VOUCHER)
    assert refused.value.reason is Reason.BAD_VOUCHER
    assert words in refused.value.detail


@pytest.mark.parametrize(
    ("read", "bad"),
    [
        (base64_bytes, ["QR==", "QQ", "QQ==\n", "Q Q==", "*", 7, None]),
        (hex_bytes, ["AB", "a", "a b", "0x00", "ab ", 7]),
        (decimal_number, ["", "01", "-1", "1.0", " 1", "1e3", "\u0661", str(2**64), 7]),
    ],
)
def test_bytes_and_numbers_have_one_form(read: Any, bad: list[Any]) -> None:
    """Another text of the same value is none."""
    for text in bad:
        with pytest.raises(ValueError, match=r"."):
            read(text)
    assert base64_bytes(base64_text(b"A")) == b"A"
    assert hex_bytes("ab", 1) == b"\xab"
    assert decimal_number(str(2**64 - 1)) == 2**64 - 1


def test_a_signature_is_for_one_kind_of_document() -> None:
    """And for all of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    values = {"format": "f-1", "name": "x"}
    signature = sign_document(key, "voucher", values)
    assert is_signed(key.public_key(), "voucher", values, signature)
    assert not is_signed(key.public_key(), "release", values, signature)
    assert not is_signed(key.public_key(), "voucher", values | {"name": "y"}, signature)
