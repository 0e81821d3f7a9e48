# SPDX-License-Identifier: Apache-2.0
"""Lines become messages: templates, ids made of content, the same bytes at each repetition, and exact refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import RefusedError
from appliance.boundary.messages import parse_produced
from appliance.boundary.names import Category, ProducerId, ZoneId, parse_kind
from appliance.boundary.producing import ProducedFact
from appliance.boundary.reasons import Reason
from appliance.cli.lines import Preparation, Prepared, Template, kind_of, parse_time
from appliance.cli.sources import MAX_LINE, Line, LineSplitter

BARE = Preparation(
    ZoneId("plant-a"),
    Category("audit"),
    ProducerId("cli"),
    None,
    Template("flight:{row}"),
    Template("gate.changed"),
    None,
    1_700_000_000_000,
)


def message_of(prepared: Prepared) -> dict[str, Any]:
    """What the zone's node makes of it; it must be valid."""
    message = parse_produced(ProducedFact(prepared.subject, prepared.payload))
    document: dict[str, Any] = json.loads(message.canonical)
    return document


def refusal(preparation: Preparation, line: bytes, number: int = 1) -> Reason:
    """Why a line cannot be sent."""
    with pytest.raises(RefusedError) as caught:
        preparation.prepare(number, line)
    return caught.value.reason


def test_a_bare_object_becomes_a_valid_message() -> None:
    """It stands in object_json; subject and predicate come from the templates, the kind from the predicate."""
    prepared = BARE.prepare(3, b'{"row": "SK1", "gate": 7}')
    assert prepared.subject == "facts.audit.plant-a.all.cli.gate.changed"
    document = message_of(prepared)
    assert document["fact"] == {
        "subject": "flight:SK1",
        "predicate": "gate.changed",
        "object_json": {"row": "SK1", "gate": 7},
    }
    assert document["envelope"]["from_zone"] == "plant-a-bsfg"
    assert document["envelope"]["to_zone"] == "all"
    assert document["envelope"]["produced_at_unix_ms"] == 1_700_000_000_000


def test_row_is_the_line_when_the_object_has_none() -> None:
    """``{row}`` is a field first."""
    assert message_of(BARE.prepare(3, b'{"gate": 7}'))["fact"]["subject"] == "flight:3"
    assert message_of(BARE.prepare(3, b'{"row": 9}'))["fact"]["subject"] == "flight:9"


def test_the_same_content_is_the_same_message() -> None:
    """Byte for byte, whatever the line looks like and wherever it stands."""
    one = BARE.prepare(1, b'{"row": 1, "gate": 7.0}')
    again = BARE.prepare(99, b'{"gate":7,"row":1}')
    assert message_of(one) == message_of(again)
    assert message_of(one)["envelope"]["message_id"].startswith("c-")


@pytest.mark.parametrize(
    "other",
    [
        (BARE, b'{"row": 1, "gate": 8}'),
        (replace(BARE, to="enterprise"), b'{"row": 1, "gate": 7}'),
        (replace(BARE, category=Category("telemetry")), b'{"row": 1, "gate": 7}'),
        (replace(BARE, predicate=Template("opened")), b'{"row": 1, "gate": 7}'),
        (replace(BARE, subject=Template("x")), b'{"row": 1, "gate": 7}'),
        (replace(BARE, produced_at=Template("5")), b'{"row": 1, "gate": 7}'),
    ],
)
def test_other_content_has_another_id(other: tuple[Preparation, bytes]) -> None:
    """Whatever distinguishes two facts distinguishes their ids, so that appending can never conflict with itself."""
    first = message_of(BARE.prepare(1, b'{"row": 1, "gate": 7}'))
    second = message_of(other[0].prepare(1, other[1]))
    assert first["envelope"]["message_id"] != second["envelope"]["message_id"]


@pytest.mark.parametrize("now", [1, 2_000_000_000_000])
def test_the_time_of_the_command_does_not_matter(now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is not asked: a repetition would otherwise be a conflicting duplicate."""
    monkeypatch.setattr("time.time", lambda: now / 1000)
    assert message_of(BARE.prepare(1, b"{}"))["envelope"]["produced_at_unix_ms"] == BARE.default_produced_at


def test_produced_at_comes_from_the_object() -> None:
    """As Unix milliseconds or as a time with its zone."""
    timed = replace(BARE, produced_at=Template("{t}"))
    for text in ('"2026-11-21T08:00:00.500+01:00"', "1795244400500", '"1795244400500"', '"2026-11-21T07:00:00.5Z"'):
        document = message_of(timed.prepare(1, b'{"t": %b}' % text.encode()))
        assert document["envelope"]["produced_at_unix_ms"] == 1_795_244_400_500
    assert refusal(timed, b'{"t": "2026-11-21T07:00:00"}') is Reason.WRONG_TYPE
    assert refusal(timed, b'{"t": "soon"}') is Reason.WRONG_TYPE
    assert refusal(timed, b"{}") is Reason.MISSING_FIELD
    assert parse_time("0") == 0


def test_a_whole_message_goes_as_it_is() -> None:
    """Not a byte of it is changed; where it goes is what it says."""
    envelope = {"message_id": "m", "from_zone": "plant-a-bsfg", "to_zone": "enterprise-bsfg", "produced_at_unix_ms": 1}
    line = json.dumps({"fact": {"subject": "s", "predicate": "p q", "object_json": {}}, "envelope": envelope}).encode()
    prepared = BARE.prepare(1, line)
    assert prepared == Prepared(1, "facts.audit.plant-a.enterprise.cli.p-q", line)
    assert message_of(prepared)["envelope"] == envelope
    assert replace(BARE, to="all").prepare(1, line).subject == "facts.audit.plant-a.all.cli.p-q"  # refused by the node


def test_an_object_with_a_field_fact_is_still_bare() -> None:
    """Whole messages have exactly the two keys."""
    for line in (b'{"envelope": {}, "fact": {}, "x": 1}', b'{"envelope": 1, "fact": {}}'):
        assert "object_json" in message_of(BARE.prepare(1, line))["fact"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", Reason.MALFORMED_JSON),
        (b"{", Reason.MALFORMED_JSON),
        (b"[1]", Reason.MALFORMED_JSON),
        (b'{"a": "\xff"}', Reason.MALFORMED_JSON),
        (b"[" * 100_000, Reason.MALFORMED_JSON),
        (b'{"n": 9007199254740993}', Reason.NUMBER_RANGE),
        (b'{"n": 1e400}', Reason.NUMBER_RANGE),
        (b'{"n": NaN}', Reason.NUMBER_RANGE),
        (b'{"n": %b}' % (b"9" * 10_000), Reason.NUMBER_RANGE),
        (b'{"t": "\\ud800"}', Reason.MALFORMED_JSON),
    ],
)
def test_what_has_no_canonical_form_is_refused_here(line: bytes, reason: Reason) -> None:
    """For the reasons the node would give: without canonical bytes there is no id."""
    assert refusal(BARE, line) is reason


def test_what_is_hidden_in_the_text_reaches_the_node() -> None:
    """A key that stands twice is gone in Python's object; the node sees the text and refuses it."""
    prepared = BARE.prepare(1, b'{"a": 1, "a": 2}')
    with pytest.raises(RefusedError) as caught:
        message_of(prepared)
    assert caught.value.reason is Reason.MALFORMED_JSON


def test_bare_objects_need_templates() -> None:
    """And their fields."""
    assert refusal(replace(BARE, subject=None), b"{}") is Reason.MISSING_FIELD
    assert refusal(replace(BARE, predicate=None), b"{}") is Reason.MISSING_FIELD
    assert refusal(replace(BARE, subject=Template("{who}")), b"{}") is Reason.MISSING_FIELD
    assert refusal(replace(BARE, subject=Template("{who}")), b'{"who": {}}') is Reason.WRONG_TYPE


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", "plain"),
        ("{{x}}", "{x}"),
        ("{a}-{a}", "1-1"),
        ("{b}", "true"),
        ("{c}", "1.5"),
        ("{two words}", "2"),
        ("x{row}", "x4"),
    ],
)
def test_templates(text: str, filled: str) -> None:
    """Fields by name, scalars as JSON writes them."""
    assert Template(text).fill({"a": "1", "b": True, "c": 1.5, "two words": 2}, 4) == filled


@pytest.mark.parametrize("text", ["{", "}", "{}", "{a!r}", "{a:>5}"])
def test_what_is_no_template(text: str) -> None:
    """Nothing of Python's formatting can be reached."""
    with pytest.raises(RefusedError) as caught:
        Template(text)
    assert caught.value.reason is Reason.BAD_INPUT


@pytest.mark.parametrize("text", ["{a.__class__}", "{a[0]}"])
def test_a_template_reaches_fields_only(text: str) -> None:
    """Dots and brackets are part of a field's name."""
    with pytest.raises(RefusedError) as caught:
        Template(text).fill({"a": "x"}, 1)
    assert caught.value.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    ("predicate", "kind"),
    [("a", ("a",)), ("a.b", ("a", "b")), ("å b*", ("b",)), ("..", ()), ("*.>", ()), ("x" * 99, ("x" * 64,))],
)
def test_kinds_are_safe_in_a_subject(predicate: str, kind: tuple[str, ...]) -> None:
    """Whatever the predicate says."""
    assert kind_of(predicate) == kind


@given(st.text(max_size=300))
def test_any_predicate_makes_a_subject(predicate: str) -> None:
    """No predicate can name another subject than its own."""
    kind = kind_of(predicate)
    assert parse_kind(".".join(kind)) == kind


@given(st.lists(st.binary(max_size=12).filter(lambda b: b"\n" not in b), max_size=8), st.integers(1, 7))
def test_lines_do_not_depend_on_how_the_input_is_cut(texts: list[bytes], size: int) -> None:
    """Every line that is not empty comes once, with its number."""
    data = b"\n".join(texts)
    splitter, lines = LineSplitter(), []
    for start in range(0, len(data), size):
        lines += splitter.feed(data[start : start + size])
    lines += splitter.finish()
    stripped = [(number, text.strip()) for number, text in enumerate(texts, start=1)]
    assert lines == [Line(number, text) for number, text in stripped if text]


def test_long_lines_cost_no_memory_and_no_numbers() -> None:
    """They are said to be too long; the next line has the right number."""
    splitter, lines = LineSplitter(), []
    for _ in range(50):
        lines += splitter.feed(b"x" * 100_000)
        assert len(splitter._rest) <= MAX_LINE
    lines += splitter.feed(b"\nnext\r\n\xef\xbb\xbf")
    assert lines == [Line(1, None), Line(2, b"next")]
    assert LineSplitter().feed(b"\xef\xbb\xbf{}\n") == [Line(1, b"{}")]
