# SPDX-License-Identifier: Apache-2.0
"""A producer's protobuf fact becomes the JSON text the intake judges, and nobody speaks as somebody else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from appliance.boundary.errors import RefusedError
from appliance.boundary.messages import parse_produced
from appliance.boundary.names import FactSubject, ProducerId
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact, Producer
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.peer.produced import facts_from_proto, results_to_proto
from tests.contracts.peer import PLANT

PRESS = Producer(ProducerId("press-4"))
FACT: dict[str, Any] = {
    "category": "audit",
    "kind": "press.done",
    "envelope": {
        "message_id": "m-1",
        "from_zone": "plant-a-bsfg",
        "to_zone": "enterprise-bsfg",
        "produced_at_unix_ms": 1_700_000_000_000,
        "labels": {"line": "4"},
    },
    "fact": {
        "subject": "order:7",
        "predicate": "pressed",
        "object_json": {
            "n": 3,
            "whole": 4.0,
            "x": 0.25,
            "big": 2.0**53,
            "deep": {"list": [1, None, True, "ø", {}]},
        },
    },
}


def produced(changes: dict[str, Any] | None = None) -> ProducedFact:
    """The one fact of a request, changed here and there."""
    document = json.loads(json.dumps(FACT))
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        target = document
        for name in parents:
            target = target[name]
        target[last] = value
    request = ParseDict({"facts": [document]}, pb.AppendFactRequest())
    return facts_from_proto(request, PLANT, PRESS)[0]


def test_the_text_says_what_was_set() -> None:
    """Fields that are set, whole doubles as integers, others as they are."""
    fact = produced()
    assert fact.subject == "facts.audit.plant-a.enterprise.press-4.press.done"
    document = json.loads(fact.payload)
    assert document["envelope"] == FACT["envelope"]
    assert document["fact"] == FACT["fact"]
    numbers = document["fact"]["object_json"]
    assert [type(numbers[name]) for name in ("n", "whole", "x", "big")] == [int, int, float, float]


def test_the_intake_accepts_it() -> None:
    """What this writes is what that reads."""
    message = parse_produced(produced({"fact.object_json": {"n": 3, "x": 0.25}}))
    assert (message.message_id, message.subject.producer) == ("m-1", "press-4")


def test_what_is_missing_stays_missing() -> None:
    """An empty fact gets a per-fact finding from the intake, not a refused request here."""
    request = pb.AppendFactRequest(facts=[pb.ProducerFact()])
    (fact,) = facts_from_proto(request, PLANT, PRESS)
    assert json.loads(fact.payload) == {"envelope": {}, "fact": {}}
    with pytest.raises(RefusedError):
        parse_produced(fact)


@pytest.mark.parametrize("to_zone", ["all", "enterprise-bsfg"])
def test_the_addressee_is_a_zone_or_everyone(to_zone: str) -> None:
    """The identity's zone stands in the subject."""
    subject = FactSubject.parse(produced({"envelope.to_zone": to_zone}).subject)
    assert subject.to == to_zone.removesuffix("-bsfg")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("category", "audit.plant-a.all.other"),
        ("category", "*"),
        ("category", ""),
        ("envelope.to_zone", "enterprise.other-bsfg"),
        ("envelope.to_zone", "all.other"),
        ("envelope.to_zone", ""),
        ("kind", ">"),
        ("kind", "a..b"),
        ("kind", "a b\r\nPUB x"),
    ],
)
def test_no_name_moves_the_tokens(path: str, value: str) -> None:
    """The producer's token is the credential's, or the fact is refused."""
    fact = produced({path: value})
    try:
        subject = FactSubject.parse(fact.subject)
    except RefusedError:
        return
    assert (subject.origin, subject.producer) == (PLANT, PRESS.id)
    pytest.fail(f"{fact.subject} should have been refused")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 2.0**60])
def test_numbers_that_cannot_be_kept_are_the_intakes_finding(number: float) -> None:
    """They arrive there as they are, and are refused by reason."""
    request = pb.AppendFactRequest(facts=[ParseDict(FACT, pb.ProducerFact())])
    request.facts[0].fact.object_json.fields["n"].number_value = number
    (fact,) = facts_from_proto(request, PLANT, PRESS)
    with pytest.raises(RefusedError) as caught:
        parse_produced(fact)
    assert caught.value.reason == Reason.NUMBER_RANGE


def test_requests_out_of_shape_are_refused() -> None:
    """No facts, too many, a page, a value without a kind."""
    kindless = pb.ProducerFact()
    kindless.fact.object_json.fields["x"].Clear()
    for request in (
        pb.AppendFactRequest(),
        pb.AppendFactRequest(facts=[pb.ProducerFact()] * 1001),
        pb.AppendFactRequest(facts=[pb.ProducerFact()], page=pb.Page()),
        pb.AppendFactRequest(facts=[pb.ProducerFact()], countersigned=pb.Receipt()),
        pb.AppendFactRequest(facts=[kindless]),
    ):
        with pytest.raises(RefusedError):
            facts_from_proto(request, PLANT, PRESS)


def test_results_name_reason_and_offset() -> None:
    """Every outcome has its number on the wire."""
    results = [AppendResult(outcome, 7, Reason.BAD_NAME, "x") for outcome in AppendOutcome]
    message = results_to_proto([*results, AppendResult(AppendOutcome.STORED, 8)])
    names = [pb.AppendOutcome.Name(result.outcome) for result in message.results]
    assert names[:-1] == [f"APPEND_OUTCOME_{outcome.name}" for outcome in AppendOutcome]
    assert (message.results[0].reason, message.results[-1].reason, message.results[-1].offset) == ("bad_name", "", 8)
