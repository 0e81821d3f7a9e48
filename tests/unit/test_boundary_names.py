# SPDX-License-Identifier: Apache-2.0
"""Names: what is safe in a subject, a header, a file name and a log line, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import (
    Category,
    FactSubject,
    ProducerId,
    ZoneId,
    forward_stream,
    identity_of,
    parse_addressee,
    parse_category,
    parse_kind,
    parse_message_id,
    parse_producer,
    parse_zone,
    store_stream,
    stream_token,
    zone_of_identity,
)
from appliance.boundary.reasons import Reason

WORDS: list[Callable[[str], str]] = [parse_zone, parse_category, parse_producer, parse_addressee]
BAD_WORDS = [
    *("", "-", "-a", "a-", "a--b", "A", "a_b", "a.b", "a*", ">", "a b", "a\n", "a\r\n", "\na", "a\0", "é", "\u0661"),
    "x" * 33,
]


@pytest.mark.parametrize("parse", WORDS)
@pytest.mark.parametrize("value", ["a", "0", "plant-a", "a-b-c-1", "x" * 32])
def test_words(parse: Callable[[str], str], value: str) -> None:
    """Small letters, digits, single dashes inside."""
    assert parse(value) == value


@pytest.mark.parametrize("parse", WORDS)
@pytest.mark.parametrize("value", BAD_WORDS, ids=ascii)
def test_other_words_are_refused(parse: Callable[[str], str], value: str) -> None:
    """Wildcards, separators, line breaks, letters and digits of other scripts, length."""
    with pytest.raises(RefusedError) as refused:
        parse(value)
    assert refused.value.reason is Reason.BAD_NAME
    assert "\n" not in str(refused.value)


def test_everyone_is_no_zone() -> None:
    """But it may be addressed."""
    assert parse_addressee("all") == "all"
    with pytest.raises(RefusedError):
        parse_zone("all")
    with pytest.raises(RefusedError):
        zone_of_identity("all-bsfg")


@pytest.mark.parametrize("value", ["m", "A.b_c:d-9", "x" * 128])
def test_message_ids(value: str) -> None:
    """What UUIDs, ULIDs and numbered names are made of."""
    assert parse_message_id(value) == value


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a\n", "a\r\nb", "a/b", "a*", "é"], ids=ascii)
def test_other_message_ids_are_refused(value: str) -> None:
    """They stand in headers."""
    with pytest.raises(RefusedError) as refused:
        parse_message_id(value)
    assert refused.value.reason is Reason.BAD_NAME
    assert "\n" not in str(refused.value)


def test_identities() -> None:
    """A zone's identity and back; without the suffix it is none."""
    assert identity_of(ZoneId("plant-a")) == "plant-a-bsfg"
    assert zone_of_identity("plant-a-bsfg") == "plant-a"
    for other in ("plant-a", "-bsfg", "", "plant_a-bsfg", "plant-a-bsfg "):
        with pytest.raises(RefusedError):
            zone_of_identity(other)


def test_streams() -> None:
    """Dots and dashes have no place there; epochs tell forward streams apart."""
    assert stream_token("plant-a") == "PLANT_A"
    assert store_stream(Category("batch-records")) == "FACTS_BATCH_RECORDS"
    one = forward_stream(Category("audit"), ZoneId("plant-a"), bytes.fromhex("0a1b2c3d" + "00" * 12))
    assert one == "FACTS_AUDIT_FROM_PLANT_A_0A1B2C3D"
    assert one != forward_stream(Category("audit"), ZoneId("plant-a"), bytes(16))


def test_a_subject_is_parsed_and_written() -> None:
    """Every token has its place; the tail is free and may be missing."""
    subject = FactSubject.parse("facts.audit.plant-a.enterprise.press-4.Cycle_1.end")
    assert subject == FactSubject(
        Category("audit"), ZoneId("plant-a"), "enterprise", ProducerId("press-4"), ("Cycle_1", "end")
    )
    assert str(subject) == "facts.audit.plant-a.enterprise.press-4.Cycle_1.end"
    assert FactSubject.parse("facts.audit.plant-a.all.press-4").kind == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "facts",
        "facts.audit.plant-a.all",
        "log.audit.plant-a.all.press-4",
        "facts.audit.all.all.press-4",
        "facts.audit.plant-a.all.press-4.",
        "facts.audit.plant-a.all.press-4..a",
        "facts.audit.plant-a..press-4",
        "facts.audit.plant-a.all.press-4.>",
        "facts.audit.plant-a.*.press-4",
        "facts.audit.plant-a.all.press-4.a b",
        "facts.audit.plant-a.all.press-4.a\r\nPUB x 0",
        "facts.audit.plant-a.all.press-4\n",
        "facts.audit.plant-a.all.press-4." + ".".join("abcdefghi"),
        "facts.audit.plant-a.all.press-4." + "x" * 65,
    ],
    ids=ascii,
)
def test_other_subjects_are_refused(text: str) -> None:
    """A peer's subject is not to become a wildcard or a second command."""
    with pytest.raises(RefusedError) as refused:
        FactSubject.parse(text)
    assert refused.value.reason is Reason.BAD_NAME


def test_kinds() -> None:
    """Up to eight tokens."""
    assert parse_kind("") == ()
    assert parse_kind("a.B_1.c-d") == ("a", "B_1", "c-d")
    assert len(parse_kind(".".join("abcdefgh"))) == 8
    for text in ("a..b", ".", "a.", " ", ".".join("abcdefghi")):
        with pytest.raises(RefusedError):
            parse_kind(text)


@pytest.mark.parametrize(("to", "zone", "served"), [("all", "plant-b", True), ("plant-b", "plant-b", True)])
def test_who_is_addressed(to: str, zone: str, *, served: bool) -> None:
    """The addressee or everyone; a third zone is not."""
    subject = FactSubject.parse(f"facts.audit.plant-a.{to}.press-4")
    assert subject.addresses(ZoneId(zone)) is served
    assert subject.addresses(ZoneId("plant-c")) is (to == "all")
