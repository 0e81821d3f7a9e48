# SPDX-License-Identifier: Apache-2.0
"""Messages: what is refused and why, the canonical bytes, and what a receiver checks."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import RefusedError
from appliance.boundary.messages import (
    MAX_DEPTH,
    MAX_EXACT_INTEGER,
    MAX_FACT_BYTES,
    MAX_KEYS,
    MAX_LABELS,
    MAX_TEXT,
    address_of,
    addressee_of,
    check_stored,
    parse_produced,
)
from appliance.boundary.producing import ProducedFact
from appliance.boundary.reasons import Reason

SUBJECT = "facts.audit.plant-a.all.press-4.cycle"
GOOD: dict[str, Any] = {
    "envelope": {
        "message_id": "m-1",
        "from_zone": "plant-a-bsfg",
        "to_zone": "all",
        "produced_at_unix_ms": 1_795_000_000_000,
    },
    "fact": {"subject": "press-4", "predicate": "finished", "object_json": {"n": 1}},
}

Change = Callable[[dict[str, Any]], object]


def put(path: str, value: object) -> Change:
    """Sets a field by its dotted path."""
    *containers, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        for name in containers:
            document = document[name]
        document[last] = value

    return change


def drop(path: str) -> Change:
    """Removes a field by its dotted path."""
    *containers, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        for name in containers:
            document = document[name]
        del document[last]

    return change


def text(change: Change = lambda document: None) -> bytes:
    """The good message with one change, as a producer would send it."""
    document = copy.deepcopy(GOOD)
    change(document)
    return json.dumps(document).encode()


def with_object(source: str) -> bytes:
    """The good message with this JSON text as the value of a key in object_json."""
    return text(put("fact.object_json.n", "HERE")).replace(b'"HERE"', source.encode())


def refused(payload: bytes, subject: str = SUBJECT, header_id: str | None = None) -> Reason:
    """The reason a produced message is refused for."""
    with pytest.raises(RefusedError) as caught:
        parse_produced(ProducedFact(subject, payload, header_id))
    return caught.value.reason


def nested(depth: int) -> str:
    """Lists in lists."""
    return "[" * depth + "]" * depth


ENVELOPE, FACT = "envelope", "fact"
TEXTS = ["message_id", "from_zone", "to_zone", "correlation_id", "causation_id", "object_schema", "object_media_type"]
LONG = "x" * (MAX_TEXT + 1)

BAD: dict[str, tuple[Reason, bytes]] = {
    "empty": (Reason.MALFORMED_JSON, b""),
    "no-json": (Reason.MALFORMED_JSON, b"{"),
    "trailing-text": (Reason.MALFORMED_JSON, text() + b"{}"),
    "not-utf8": (Reason.MALFORMED_JSON, text().replace(b"press-4", b"press-\xff")),
    "utf8-of-a-surrogate": (Reason.MALFORMED_JSON, text().replace(b"press-4", b"press-\xed\xa0\x80")),
    "byte-order-mark": (Reason.MALFORMED_JSON, b"\xef\xbb\xbf" + text()),
    "list": (Reason.MALFORMED_JSON, b"[]"),
    "null": (Reason.MALFORMED_JSON, b"null"),
    "key-twice": (Reason.MALFORMED_JSON, text().replace(b'"m-1"', b'"m-1", "message_id": "m-1"')),
    "key-twice-deep": (Reason.MALFORMED_JSON, with_object('[{"a": 1, "\\u0061": 2}]')),
    "surrogate-value": (Reason.MALFORMED_JSON, with_object('"\\ud800"')),
    "surrogate-key": (Reason.MALFORMED_JSON, with_object('{"\\udc00x": 1}')),
    "surrogates-in-wrong-order": (Reason.MALFORMED_JSON, with_object('"\\udc00\\ud800"')),
    "unknown-top": (Reason.UNKNOWN_FIELD, text(put("signature", "x"))),
    "unknown-in-envelope": (Reason.UNKNOWN_FIELD, text(put("envelope.priority", 1))),
    "unknown-in-fact": (Reason.UNKNOWN_FIELD, text(put("fact.object", {}))),
    "envelope-is-text": (Reason.WRONG_TYPE, text(put(ENVELOPE, "x"))),
    "fact-is-list": (Reason.WRONG_TYPE, text(put(FACT, []))),
    "object-is-text": (Reason.WRONG_TYPE, text(put("fact.object_json", "{}"))),
    "time-is-text": (Reason.WRONG_TYPE, text(put("envelope.produced_at_unix_ms", "0"))),
    "time-is-float": (Reason.WRONG_TYPE, text(put("envelope.produced_at_unix_ms", 1.0))),
    "time-is-true": (Reason.WRONG_TYPE, text(put("envelope.produced_at_unix_ms", True))),
    "time-is-negative": (Reason.WRONG_TYPE, text(put("envelope.produced_at_unix_ms", -1))),
    "time-is-null": (Reason.MISSING_FIELD, text(put("envelope.produced_at_unix_ms", None))),
    "labels-are-a-list": (Reason.WRONG_TYPE, text(put("envelope.labels", []))),
    "label-is-a-number": (Reason.WRONG_TYPE, text(put("envelope.labels", {"a": 1}))),
    "label-is-empty": (Reason.BAD_NAME, text(put("envelope.labels", {"a": ""}))),
    "labels-too-many": (Reason.TOO_MANY_KEYS, text(put("envelope.labels", dict.fromkeys(map(str, range(65)), "x")))),
    "id-with-line-break": (Reason.BAD_NAME, text(put("envelope.message_id", "m-1\r\nNats-Rollup: all"))),
    "id-with-newline-at-its-end": (Reason.BAD_NAME, text(put("envelope.message_id", "m-1\n"))),
    "id-with-return": (Reason.BAD_NAME, text(put("envelope.message_id", "m\r1"))),
    "id-with-space": (Reason.BAD_NAME, text(put("envelope.message_id", "m 1"))),
    "id-with-letter-beyond-ascii": (Reason.BAD_NAME, text(put("envelope.message_id", "m-\u0661"))),
    "id-too-long": (Reason.BAD_NAME, text(put("envelope.message_id", "m" * 129))),
    "text-with-line-break": (Reason.BAD_NAME, text(put("fact.predicate", "finished\nalarm"))),
    "text-with-nul": (Reason.BAD_NAME, text(put("fact.subject", "press\0"))),
    "from-another-zone": (Reason.ZONE_MISMATCH, text(put("envelope.from_zone", "plant-b-bsfg"))),
    "from-a-short-name": (Reason.ZONE_MISMATCH, text(put("envelope.from_zone", "plant-a"))),
    "to-another-zone": (Reason.ZONE_MISMATCH, text(put("envelope.to_zone", "plant-b-bsfg"))),
    "nan": (Reason.NUMBER_RANGE, with_object("NaN")),
    "infinity": (Reason.NUMBER_RANGE, with_object("-Infinity")),
    "overflow": (Reason.NUMBER_RANGE, with_object("1e400")),
    "integer-too-high": (Reason.NUMBER_RANGE, with_object(str(MAX_EXACT_INTEGER + 1))),
    "integer-too-low": (Reason.NUMBER_RANGE, with_object(str(-MAX_EXACT_INTEGER - 1))),
    "integer-of-5000-digits": (Reason.NUMBER_RANGE, with_object("9" * 5000)),
    "integral-float": (Reason.NUMBER_RANGE, with_object("9007199254740992.0")),
    "large-float": (Reason.NUMBER_RANGE, with_object("1e17")),
    "number-deep-inside": (Reason.NUMBER_RANGE, with_object('[[{"a": [1e17]}]]')),
    "too-deep": (Reason.TOO_DEEP, with_object(nested(MAX_DEPTH - 2))),
    "depth-bomb": (Reason.TOO_DEEP, with_object(nested(100_000))),
    "depth-bomb-of-objects": (Reason.TOO_DEEP, with_object('{"a":' * 40_000 + "1" + "}" * 40_000)),
    "too-many-keys": (Reason.TOO_MANY_KEYS, text(put("fact.object_json", {str(n): n for n in range(MAX_KEYS - 8)}))),
    "too-large": (Reason.TOO_LARGE, with_object('"' + "x" * MAX_FACT_BYTES + '"')),
    "much-too-large": (Reason.TOO_LARGE, b" " * (2 * MAX_FACT_BYTES + 1)),
}
for field in (
    ENVELOPE,
    FACT,
    *(f"envelope.{name}" for name in GOOD[ENVELOPE]),
    *(f"fact.{name}" for name in GOOD[FACT]),
):
    BAD[f"without-{field}"] = (Reason.MISSING_FIELD, text(drop(field)))
for field in (*(f"envelope.{name}" for name in TEXTS), "fact.subject", "fact.predicate"):
    BAD[f"number-as-{field}"] = (Reason.WRONG_TYPE, text(put(field, 1)))
    BAD[f"empty-{field}"] = (Reason.BAD_NAME, text(put(field, "")))
    BAD[f"long-{field}"] = (Reason.BAD_NAME, text(put(field, LONG)))

STORED_ANYWAY = {  # a receiver leaves to the origin how it counts, and keeps what a newer origin adds
    *("unknown-top", "unknown-in-envelope", "unknown-in-fact", "too-deep", "too-many-keys", "large-float"),
    *("integer-too-high", "integer-too-low", "integral-float", "number-deep-inside", "overflow"),
    *("surrogate-value", "surrogate-key", "surrogates-in-wrong-order"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_by_reason(name: str) -> None:
    """Each fixture has one fault."""
    reason, payload = BAD[name]
    assert refused(payload) is reason


@pytest.mark.parametrize("name", [name for name in BAD if name not in STORED_ANYWAY])
def test_a_receiver_diverts_for_the_same_reason(name: str) -> None:
    """Another zone's intake may be broken, or another program."""
    reason, payload = BAD[name]
    with pytest.raises(RefusedError) as caught:
        check_stored(SUBJECT, payload, hashlib.sha256(payload).digest())
    assert caught.value.reason is reason


def test_every_reason_has_a_fixture() -> None:
    """Those of the content of one fact; the id in the header and the digest are not part of the text."""
    content = {
        *(Reason.MALFORMED_JSON, Reason.MISSING_FIELD, Reason.UNKNOWN_FIELD, Reason.WRONG_TYPE, Reason.BAD_NAME),
        *(Reason.NUMBER_RANGE, Reason.TOO_DEEP, Reason.TOO_MANY_KEYS, Reason.TOO_LARGE, Reason.ZONE_MISMATCH),
    }
    assert {reason for reason, _ in BAD.values()} == content


@pytest.mark.parametrize(
    "payload",
    [
        with_object(str(MAX_EXACT_INTEGER)),
        with_object(str(-MAX_EXACT_INTEGER)),
        with_object("9007199254740991.0"),
        with_object("[0.1, 1e-7, -0.0, 123456789.25]"),
        with_object(nested(MAX_DEPTH - 3)),
        with_object('"\\ud83d\\ude00 \\u0000"'),
        text(put("fact.object_json", {str(n): n for n in range(MAX_KEYS - 9)})),
        text(put("envelope.labels", dict.fromkeys(map(str, range(MAX_LABELS)), "x"))),
        text(put("envelope.message_id", "A.b_c:d-9" + "m" * 119)),
        text(put("fact.predicate", "ü" * MAX_TEXT)),
        text(put("envelope.causation_id", "any printable text")),
        b" \n\t" + text() + b"\r\n",
    ],
    ids=["highest", "lowest", "float", "floats", "depth", "pair", "keys", "labels", "id", "predicate", "text", "space"],
)
def test_what_just_fits_is_taken(payload: bytes) -> None:
    """The other side of each limit."""
    message = parse_produced(ProducedFact(SUBJECT, payload))
    assert json.loads(message.canonical) == json.loads(payload)


def test_the_largest_message_fits() -> None:
    """The limit counts canonical bytes."""
    room = MAX_FACT_BYTES - len(rfc8785.dumps(json.loads(with_object('""'))))
    assert len(parse_produced(ProducedFact(SUBJECT, with_object('"' + "x" * room + '"'))).canonical) == MAX_FACT_BYTES
    assert refused(with_object('"' + "x" * (room + 1) + '"')) is Reason.TOO_LARGE


def test_the_header_id_is_the_envelopes() -> None:
    """Or there is none."""
    assert parse_produced(ProducedFact(SUBJECT, text(), "m-1")).message_id == "m-1"
    assert refused(text(), header_id="m-2") is Reason.ID_MISMATCH
    assert refused(text(), header_id="") is Reason.ID_MISMATCH


def test_a_subject_that_is_none() -> None:
    """Where a fact goes is checked as well."""
    assert refused(text(), subject="facts.audit.>") is Reason.BAD_NAME
    assert refused(text(), subject=SUBJECT.replace("plant-a", "plant-b")) is Reason.ZONE_MISMATCH
    assert refused(text(), subject=SUBJECT.replace("all", "enterprise")) is Reason.ZONE_MISMATCH


def test_a_message_says_what_it_is() -> None:
    """Its parts are those of the text and the subject."""
    message = parse_produced(ProducedFact(SUBJECT, text()))
    assert str(message.subject) == SUBJECT
    assert message.key == ("press-4", "m-1")
    assert message.produced_at_unix_ms == 1_795_000_000_000
    assert message.digest == hashlib.sha256(message.canonical).digest()


def test_canonical_bytes_are_those_of_the_standard() -> None:
    """Keys by UTF-16 code units, shortest numbers, nothing escaped that need not be: RFC 8785, by example."""
    payload = with_object('{"\\ufb33": 1.50, "\\ud83d\\ude00": 1E-7, "b": -0.0, "a": "\\u00e9\\/\\u000a"}')
    message = parse_produced(ProducedFact(SUBJECT, payload))
    written = '{"a":"é/\\n","b":0,"\U0001f600":1e-7,"\ufb33":1.5}'
    assert message.canonical.decode() == (
        '{"envelope":{"from_zone":"plant-a-bsfg","message_id":"m-1","produced_at_unix_ms":1795000000000,"to_zone":"all"},'
        f'"fact":{{"object_json":{{"n":{written}}},"predicate":"finished","subject":"press-4"}}}}'
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_EXACT_INTEGER, MAX_EXACT_INTEGER)
    | st.floats(-1e15, 1e15)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(content=st.dictionaries(st.text(max_size=8), VALUES, max_size=4), indent=st.sampled_from([None, 0, 3]))
def test_canonical_bytes_equal_rfc8785(content: dict[str, Any], indent: int | None) -> None:
    """Whatever is in it, however it was written; and they are their own canonical form."""
    document = copy.deepcopy(GOOD)
    document["fact"]["object_json"] = content
    backwards = {key: dict(reversed(document[key].items())) for key in reversed(document)}
    message = parse_produced(ProducedFact(SUBJECT, json.dumps(backwards, indent=indent).encode()))
    assert message.canonical == rfc8785.dumps(document)
    assert parse_produced(ProducedFact(SUBJECT, message.canonical)) == message
    assert check_stored(SUBJECT, message.canonical, message.digest) == message


def test_a_receiver_keeps_fields_it_does_not_know() -> None:
    """A newer origin may add some: the bytes stay what they were, so the digest stays right."""
    changes = [put("signature", "x"), put("envelope.priority", 1), put("fact.unit", "bar")]
    for change in changes:
        payload = text(change)
        message = check_stored(SUBJECT, payload, hashlib.sha256(payload).digest())
        assert message.canonical == payload
        assert message.message_id == "m-1"


def test_a_receiver_checks_the_digest() -> None:
    """One bit of the message or the digest."""
    payload = text()
    digest = hashlib.sha256(payload).digest()
    for altered, claimed in ((payload + b" ", digest), (payload, bytes([digest[0] ^ 1]) + digest[1:]), (payload, b"")):
        with pytest.raises(RefusedError) as caught:
            check_stored(SUBJECT, altered, claimed)
        assert caught.value.reason is Reason.DIGEST_MISMATCH


def test_a_receiver_checks_names_and_zones() -> None:
    """The subject it came under is the origin's word, the envelope the producer's."""
    payload = text()
    for subject, reason in (
        ("facts.audit.plant-a", Reason.BAD_NAME),
        (SUBJECT.replace("plant-a", "plant-b"), Reason.ZONE_MISMATCH),
        (SUBJECT.replace("all", "plant-b"), Reason.ZONE_MISMATCH),
    ):
        with pytest.raises(RefusedError) as caught:
            check_stored(subject, payload, hashlib.sha256(payload).digest())
        assert caught.value.reason is reason


@pytest.mark.parametrize(("to", "address"), [("all", "all"), ("plant-b", "plant-b-bsfg")])
def test_addressees_have_two_spellings(to: str, address: str) -> None:
    """In subjects and in envelopes."""
    assert address_of(to) == address
    assert addressee_of(address) == to
    with pytest.raises(RefusedError):
        addressee_of("plant-b")
