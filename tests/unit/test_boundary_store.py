# SPDX-License-Identifier: Apache-2.0
"""What becomes of produced facts: the decision against the ledger, as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pytest

from appliance.boundary.claims import Key
from appliance.boundary.messages import Message
from appliance.boundary.names import Category, FactSubject, MessageId
from appliance.boundary.producing import AppendOutcome, AppendResult
from appliance.boundary.reasons import Reason
from appliance.boundary.records import KnownId, LogId
from appliance.boundary.store import Placed, Unit, Verdict, decide

EPOCH = bytes(16)
NOTHING: Mapping[Key, KnownId] = {}
INVALID = AppendResult(AppendOutcome.INVALID, reason=Reason.MALFORMED_JSON)
NOT_STORED = AppendResult(AppendOutcome.NOT_STORED)


def message(name: str, content: str = "", category: str = "audit", producer: str = "press-4") -> Message:
    """A message whose bytes are its name, or some other content."""
    canonical = (content or name).encode()
    subject = FactSubject.parse(f"facts.{category}.plant-a.all.{producer}")
    return Message(subject, MessageId(name), 0, canonical, hashlib.sha256(canonical).digest())


def known(
    name: str, offset: int, *, content: str = "", category: str = "audit", live: bool = True
) -> dict[Key, KnownId]:
    """What the ledger says of one id."""
    held = message(name, content)
    return {held.key: KnownId(held.digest, LogId(held.subject.origin, Category(category), EPOCH), offset, live)}


def stored(index: int) -> Placed:
    """To be stored at this place of the batch."""
    return Placed(AppendOutcome.STORED, index)


def repeats(index: int) -> Placed:
    """The same as the fact at this place of the batch."""
    return Placed(AppendOutcome.DUPLICATE, index)


def duplicate(offset: int) -> AppendResult:
    """The same as a stored fact."""
    return AppendResult(AppendOutcome.DUPLICATE, offset=offset)


def outcomes(verdicts: list[list[Verdict]]) -> list[list[Verdict | AppendOutcome]]:
    """The verdicts, conflicts without their words."""
    return [
        [verdict.outcome if verdict.outcome is AppendOutcome.CONFLICT else verdict for verdict in unit]
        for unit in verdicts
    ]


A, B, C = message("a"), message("b"), message("c")
OTHER_A = message("a", "other content")
CONFLICT = AppendOutcome.CONFLICT

CASES: dict[str, tuple[list[Unit], Mapping[Key, KnownId], list[list[Verdict | AppendOutcome]], list[Message]]] = {
    "nothing": ([], NOTHING, [], []),
    "empty unit": ([[], [A]], NOTHING, [[], [stored(0)]], [A]),
    "new facts": ([[A, B], [C]], NOTHING, [[stored(0), stored(1)], [stored(2)]], [A, B, C]),
    "already stored": ([[A, B]], known("a", 7), [[duplicate(7), stored(0)]], [B]),
    "nothing new": ([[A], [B]], known("a", 7) | known("b", 9), [[duplicate(7)], [duplicate(9)]], []),
    "twice in a unit": ([[A, B, A]], NOTHING, [[stored(0), stored(1), repeats(0)]], [A, B]),
    "twice in a batch": ([[A, B], [C, B]], NOTHING, [[stored(0), stored(1)], [stored(2), repeats(1)]], [A, B, C]),
    "other content, stored": ([[OTHER_A]], known("a", 7), [[CONFLICT]], []),
    "other content, lost": ([[OTHER_A]], known("a", 7, live=False), [[CONFLICT]], []),
    "other content in a unit": ([[A, OTHER_A]], NOTHING, [[NOT_STORED, CONFLICT]], []),
    "other content in a batch": ([[A], [OTHER_A], [B]], NOTHING, [[stored(0)], [CONFLICT], [stored(1)]], [A, B]),
    "another category": ([[A]], known("a", 7, category="telemetry"), [[CONFLICT]], []),
    "another category, lost": ([[A]], known("a", 7, category="telemetry", live=False), [[CONFLICT]], []),
    "lost with its log": ([[B, A, A]], known("a", 7, live=False), [[stored(0), stored(1), repeats(1)]], [B, A]),
    "refused before": ([[A, INVALID, B]], NOTHING, [[NOT_STORED, INVALID, NOT_STORED]], []),
    "a refusal takes duplicates along": ([[A, INVALID]], known("a", 7), [[NOT_STORED, INVALID]], []),
    "other units stay": ([[A], [B, INVALID], [C]], NOTHING, [[stored(0)], [NOT_STORED, INVALID], [stored(1)]], [A, C]),
    "an id of a unit that failed is free": (
        [[A, INVALID], [OTHER_A]],
        NOTHING,
        [[NOT_STORED, INVALID], [stored(0)]],
        [OTHER_A],
    ),
    "a unit that failed is tried again": ([[A, INVALID], [A]], NOTHING, [[NOT_STORED, INVALID], [stored(0)]], [A]),
}


@pytest.mark.parametrize("case", CASES)
def test_decisions(case: str) -> None:
    """Units are stored whole or not at all; an id means one content, in the batch as in the ledger."""
    units, ledger, expected, to_store = CASES[case]
    verdicts, messages = decide(units, ledger)
    assert outcomes(verdicts) == expected
    assert messages == to_store


def test_ids_belong_to_producers() -> None:
    """Two producers may use the same id."""
    press, oven = message("a"), message("a", "other content", producer="oven-1")
    verdicts, messages = decide([[press, oven]], NOTHING)
    assert verdicts == [[stored(0), stored(1)]]
    assert messages == [press, oven]


@pytest.mark.parametrize("units", [[[OTHER_A]], [[A], [OTHER_A]]], ids=["stored", "in the batch"])
def test_a_conflict_says_which_contents(units: list[Unit]) -> None:
    """So that the producer's operator can find both."""
    verdicts, _ = decide(units, known("a", 7) if len(units) == 1 else NOTHING)
    verdict = verdicts[-1][0]
    assert isinstance(verdict, AppendResult)
    assert verdict.reason is Reason.CONFLICTING_DUPLICATE
    assert A.digest.hex() in verdict.detail
    assert OTHER_A.digest.hex() in verdict.detail


def test_a_conflict_of_categories_says_which() -> None:
    """The same content, but stored where its readers may not be these."""
    verdicts, _ = decide([[A]], known("a", 7, category="telemetry"))
    verdict = verdicts[0][0]
    assert isinstance(verdict, AppendResult)
    assert "telemetry" in verdict.detail
