# SPDX-License-Identifier: Apache-2.0
"""What becomes of a received page: stored, diverted, or refused as a whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from appliance.boundary.claims import Key
from appliance.boundary.errors import RefusedError
from appliance.boundary.judging import Judged, check_facts, judge
from appliance.boundary.names import Category, MessageId, ProducerId, ZoneId
from appliance.boundary.pages import START, Fact, Gap, GapReason, Page, Position, link
from appliance.boundary.reasons import Reason
from appliance.boundary.records import DUPLICATE, STORED, KnownId, LogId

PLANT, HUB = ZoneId("plant-a"), ZoneId("enterprise")
AUDIT, TELEMETRY = Category("audit"), Category("telemetry")
LOG, OLD = LogId(PLANT, AUDIT, b"1" * 16), LogId(PLANT, AUDIT, b"0" * 16)
PRESS = ProducerId("press-4")
SUBJECT = "facts.audit.plant-a.all.press-4.t"


def content(name: str, value: int = 0, to: str = "all") -> bytes:
    """A message of PRESS."""
    envelope = {"message_id": name, "from_zone": "plant-a-bsfg", "to_zone": to, "produced_at_unix_ms": 0}
    fact = {"subject": "press-4", "predicate": "t", "object_json": {"v": value}}
    return json.dumps({"envelope": envelope, "fact": fact}).encode()


def fact(offset: int, name: str = "", value: int = 0, *, prev: int | None = None) -> Fact:
    """A fact at an offset, behind the one before."""
    message = content(name or f"m-{offset}", value)
    return Fact(offset, offset - 1 if prev is None else prev, SUBJECT, message, hashlib.sha256(message).digest())


def gap(first: int, last: int) -> Gap:
    """A range that retention took."""
    return Gap(first, last, GapReason.RETENTION)


def page(*items: Fact | Gap, after: Position = START) -> Page:
    """A page as an honest sender makes it."""
    head = after.head
    for item in items:
        head = link(head, item)
    last = items[-1] if items else None
    end = after.offset if last is None else last.last if isinstance(last, Gap) else last.offset
    facts = tuple(item for item in items if isinstance(item, Fact))
    gaps = tuple(item for item in items if isinstance(item, Gap))
    return Page(PLANT, AUDIT, LOG.epoch, after, Position(end, head), facts, gaps)


def judged(of: Page, known: dict[Key, KnownId] | None = None, seq: int = 0) -> Judged:
    """The judgement at HUB."""
    return judge(LOG, of, check_facts(LOG, HUB, of), known or {}, seq)


def taken(name: str, digest: bytes, category: Category = AUDIT) -> dict[Key, KnownId]:
    """An id that another epoch holds."""
    return {(PRESS, MessageId(name)): KnownId(digest, replace(OLD, category=category), 5)}


def outcomes(of: Judged) -> list[tuple[int, str, int]]:
    """Offset, outcome and local sequence of each row."""
    return [(row.offset, row.outcome, row.seq) for row in of.rows]


def markers(of: Judged) -> list[str]:
    """What the records are: facts have no name."""
    return [record.marker for record in of.records]


def test_good_facts_are_stored() -> None:
    """Behind the log's end, each with its offset, id, digest and position; the rows carry the chain."""
    received = page(fact(1), fact(2), fact(4, prev=2))  # offset 3 is for another zone
    result = judged(received, seq=10)
    assert result.through == received.through
    assert outcomes(result) == [(1, STORED, 11), (2, STORED, 12), (4, STORED, 13)]
    assert result.dead == []
    assert [record.payload for record in result.records] == [f.message for f in received.facts]
    head = link(link(b"", received.facts[0]), received.facts[1])
    assert result.records[1].subject == SUBJECT
    assert dict(result.records[1].headers) == {
        "Bsfg-Id": "m-2",
        "Bsfg-Digest": received.facts[1].digest.hex(),
        "Bsfg-Origin": "2",
        "Bsfg-Position": f"2:{head.hex()}",
    }
    assert [row.head for row in result.rows][1:] == [head, received.through.head]
    assert {(row.to, row.producer) for row in result.rows} == {("all", PRESS)}


def test_a_page_goes_on_from_its_frontier() -> None:
    """The chain is that over everything before it, too."""
    first = page(fact(1), fact(2))
    second = page(fact(3), after=first.through)
    assert judged(second).through == second.through
    assert second.through == page(fact(1), fact(2), fact(3)).through


def test_a_gap_is_told_on() -> None:
    """A marker for every reader and a row in the account, in order with the facts."""
    result = judged(page(gap(1, 3), fact(4, prev=3), gap(5, 5)), seq=7)
    assert outcomes(result) == [(3, "retention", 8), (4, STORED, 9), (5, "retention", 10)]
    assert markers(result) == ["gap", "", "gap"]
    assert result.records[0].headers["Bsfg-Gap"] == "1-3:retention"
    assert result.gaps == 2


def test_a_duplicate_of_another_epoch_is_consumed() -> None:
    """It is there already: no record, no dead letter, but a row."""
    received = page(fact(1), fact(2))
    result = judged(received, taken("m-1", received.facts[0].digest))
    assert outcomes(result) == [(1, DUPLICATE, 0), (2, STORED, 1)]
    assert result.dead == []
    assert markers(result) == [""]


def test_a_duplicate_inside_the_page_is_consumed() -> None:
    """The first counts."""
    result = judged(page(fact(1, "m"), fact(2, "m"), fact(3)))
    assert outcomes(result) == [(1, STORED, 1), (2, DUPLICATE, 0), (3, STORED, 2)]


@pytest.mark.parametrize("inside", [True, False], ids=["of the page", "of another epoch"])
def test_another_content_under_a_taken_id_is_diverted(*, inside: bool) -> None:
    """The letter says both digests; what is stored stays."""
    before, late = fact(1, "m"), fact(2, "m", value=1)
    received = page(before, late, fact(3)) if inside else page(replace(late, offset=1, prev=0), fact(2), fact(3))
    result = judged(received, {} if inside else taken("m", before.digest))
    place = 2 if inside else 1
    assert [row.outcome for row in result.rows if row.offset == place] == [Reason.CONFLICTING_DUPLICATE]
    assert [row.outcome for row in result.rows if row.offset != place] == [STORED, STORED]
    (letter,) = result.dead
    assert (letter.log, letter.offset, letter.reason) == (LOG, place, Reason.CONFLICTING_DUPLICATE)
    assert (letter.subject, letter.message, letter.digest) == (SUBJECT, late.message, late.digest)
    assert before.digest.hex() in letter.detail
    assert late.digest.hex() in letter.detail


def test_an_id_of_another_category_is_taken() -> None:
    """Even with the same content: it crossed under other rules."""
    received = page(fact(1), fact(2))
    result = judged(received, taken("m-1", received.facts[0].digest, TELEMETRY))
    assert outcomes(result) == [(1, Reason.CONFLICTING_DUPLICATE, 0), (2, STORED, 1)]
    assert "telemetry" in result.dead[0].detail


POISON = {
    Reason.MALFORMED_JSON: replace(fact(2), message=b"\xff", digest=hashlib.sha256(b"\xff").digest()),
    Reason.DIGEST_MISMATCH: replace(fact(2), digest=bytes(32)),
    Reason.BAD_NAME: replace(fact(2), subject="facts.audit.>"),
    Reason.MISSING_FIELD: replace(fact(2), message=b"{}", digest=hashlib.sha256(b"{}").digest()),
    Reason.ZONE_MISMATCH: replace(fact(2), subject="facts.telemetry.plant-a.all.press-4"),
}


@pytest.mark.parametrize("reason", POISON)
def test_a_poisoned_fact_stops_nothing(reason: Reason) -> None:
    """It is kept as it came, under its reason, and takes no id; those around it are stored."""
    received = page(fact(1), POISON[reason], fact(3, "m-2"))
    result = judged(received)
    assert outcomes(result) == [(1, STORED, 1), (2, reason, 0), (3, STORED, 2)]
    assert result.through == received.through
    (letter,) = result.dead
    assert (letter.offset, letter.reason, letter.message) == (2, reason, POISON[reason].message)
    row = result.rows[1]
    assert (row.to, row.producer, row.message_id, row.digest) == ("", "", "", POISON[reason].digest)


@pytest.mark.parametrize(
    ("subject", "to"),
    [
        ("facts.audit.plant-a.plant-b.press-4", "plant-b-bsfg"),
        ("facts.audit.plant-c.all.press-4", "all"),
        ("facts.telemetry.plant-a.all.press-4", "all"),
    ],
    ids=["of another reader", "of another origin", "of another category"],
)
def test_what_does_not_belong_here_is_diverted(subject: str, to: str) -> None:
    """Well made, but not of this log, or not for this zone."""
    message = content("m-1", to=to).replace(b"plant-a-bsfg", f"{subject.split('.')[2]}-bsfg".encode())
    stray = Fact(1, 0, subject, message, hashlib.sha256(message).digest())
    assert [letter.reason for letter in judged(page(stray)).dead] == [Reason.ZONE_MISMATCH]


@pytest.mark.parametrize("last", [POISON[Reason.MALFORMED_JSON], fact(2, "m-1"), fact(2, "m-1", value=1)])
def test_a_page_that_ends_with_a_diverted_fact_leaves_a_marker(last: Fact) -> None:
    """Otherwise the log would ask for that fact for ever."""
    received = page(fact(1), last)
    result = judged(received)
    assert markers(result) == ["", "position"]
    assert result.records[-1].headers == {
        "Bsfg-Position": f"{received.through.offset}:{received.through.head.hex()}",
    }
    assert markers(judged(page(fact(1), last, fact(3)))) == ["", ""]  # a stored fact behind it says it itself


def test_a_page_of_nothing_changes_nothing() -> None:
    """A probe has no end of its own to mark."""
    result = judged(page())
    assert (result.records, result.rows, result.dead, result.through) == ([], [], [], START)


WRONG_ORDER = {
    "another fact before it": page(fact(1), fact(3, prev=1), fact(4, prev=2)),
    "not at the frontier": page(fact(2)),
    "a fact before itself": page(fact(1, prev=0), fact(2, prev=2)),
    "gap over a fact": page(fact(1), fact(2), gap(2, 3)),
    "gap with a hole before it": page(fact(1), gap(3, 4)),
    "gap that ends before it begins": page(gap(1, 0)),
    "fact inside a gap": page(gap(1, 5), fact(3, prev=2)),
    "fact that ignores a gap": page(gap(1, 3), fact(4, prev=0)),
}


@pytest.mark.parametrize("name", WRONG_ORDER)
def test_offsets_that_do_not_rise_are_refused(name: str) -> None:
    """The page as a whole is not what its sender says."""
    with pytest.raises(RefusedError) as refused:
        judged(WRONG_ORDER[name])
    assert refused.value.reason is Reason.BAD_REQUEST


GOOD = page(fact(1), gap(2, 3), fact(4, prev=3))
OTHER_CHAIN = {
    "head": replace(GOOD, through=Position(4, bytes(32))),
    "offset": replace(GOOD, through=replace(GOOD.through, offset=5)),
    "start": replace(GOOD, after=Position(0, bytes(32))),
    "digest": replace(GOOD, facts=(replace(GOOD.facts[0], digest=bytes(32)), GOOD.facts[1])),
    "gap's reason": replace(GOOD, gaps=(Gap(2, 3, GapReason.LOG_LOST),)),
    "missing end": replace(GOOD, facts=GOOD.facts[:1]),
}


@pytest.mark.parametrize("name", OTHER_CHAIN)
def test_a_page_with_another_chain_is_refused(name: str) -> None:
    """Both sides compute it from the bytes: nothing can be altered, left out or added."""
    assert judged(GOOD).through == GOOD.through
    with pytest.raises(RefusedError) as refused:
        judged(OTHER_CHAIN[name])
    assert refused.value.reason is Reason.CHAIN_BROKEN
