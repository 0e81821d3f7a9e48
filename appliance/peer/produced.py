# SPDX-License-Identifier: Apache-2.0
"""What a local producer sends through AppendFact, as JSON text for the intake, and the results on their way back.

The intake judges one kind of input: a subject and the JSON text of ``{envelope, fact}``, whichever way it came. So a
protobuf fact is written down here as that text, with the fields that are set and nothing else, and every finding about
its content is left to the intake, which answers fact by fact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct, Value

from appliance.boundary.errors import RefusedError
from appliance.boundary.messages import MAX_EXACT_INTEGER
from appliance.boundary.names import EVERYONE, ZoneId
from appliance.boundary.pages import MAX_PAGE_FACTS
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact, Producer
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.peer.codec import bad_request

_IDENTITY_SUFFIX: Final = "-bsfg"
_OUTCOMES: Final = {
    AppendOutcome.STORED: pb.APPEND_OUTCOME_STORED,
    AppendOutcome.DUPLICATE: pb.APPEND_OUTCOME_DUPLICATE,
    AppendOutcome.CONFLICT: pb.APPEND_OUTCOME_CONFLICT,
    AppendOutcome.INVALID: pb.APPEND_OUTCOME_INVALID,
    AppendOutcome.NOT_STORED: pb.APPEND_OUTCOME_NOT_STORED,
}


def facts_from_proto(request: pb.AppendFactRequest, zone: ZoneId, producer: Producer) -> list[ProducedFact]:
    """The facts a producer sends; a page is refused.

    :param zone: the zone that takes them in.
    :raises RefusedError: ``bad_request``, ``too_large`` for more than 1000 facts.
    """
    if request.HasField("page") or request.HasField("countersigned") or request.HasField("countersignature"):
        raise bad_request("a producer appends facts, not a page")
    if not request.facts:
        raise bad_request("no facts")
    if len(request.facts) > MAX_PAGE_FACTS:
        raise RefusedError(Reason.TOO_LARGE, f"{len(request.facts)} facts, {MAX_PAGE_FACTS} are allowed")
    return [_fact_from_proto(fact, zone, producer) for fact in request.facts]


def _fact_from_proto(message: pb.ProducerFact, zone: ZoneId, producer: Producer) -> ProducedFact:
    body: dict[str, Any] = {field.name: value for field, value in message.fact.ListFields()}
    if message.fact.HasField("object_json"):
        body["object_json"] = _object(message.fact.object_json)
    document = {"envelope": _envelope(message.envelope), "fact": body}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return ProducedFact(_subject(message, zone, producer), text.encode())


def _subject(message: pb.ProducerFact, zone: ZoneId, producer: Producer) -> str:
    """``facts.<category>.<own zone>.<to>.<producer>[.<kind>...]``.

    A dot inside a name would move every token behind it, so that another producer's name could be written where the
    credential's belongs. It becomes a character that no name may have, and the intake refuses the fact.
    """
    to_zone = message.envelope.to_zone
    to = to_zone if to_zone == EVERYONE else to_zone.removesuffix(_IDENTITY_SUFFIX)
    tokens = ["facts", message.category.replace(".", "_"), zone, to.replace(".", "_"), producer.id]
    return ".".join([*tokens, message.kind] if message.kind else tokens)


def _envelope(message: pb.Envelope) -> dict[str, Any]:
    fields: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    if message.labels:
        fields["labels"] = dict(message.labels)
    return fields


def _object(struct: Struct) -> dict[str, Any]:
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    """A protobuf value as JSON has it. Numbers are doubles here; those that are whole and exact become integers."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) <= MAX_EXACT_INTEGER else number
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _object(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "null_value":
            return None
        case _:
            raise bad_request("a value of object_json has no kind")


def results_to_proto(results: Sequence[AppendResult]) -> pb.AppendFactResponse:
    """What became of each fact, in order."""
    return pb.AppendFactResponse(
        results=[
            pb.AppendResult(
                outcome=_OUTCOMES[result.outcome],
                offset=result.offset,
                reason=result.reason or "",
                detail=result.detail,
            )
            for result in results
        ]
    )
