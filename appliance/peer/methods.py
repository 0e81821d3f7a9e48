# SPDX-License-Identifier: Apache-2.0
"""The operations of a server: each takes a request apart, asks the boundary's service, and puts the answer together."""

from __future__ import annotations

from typing import Final

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.ports import BoundaryPort, ProducerPort
from appliance.boundary.producing import Producer
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.peer import codec, produced
from appliance.peer.audit import OK
from appliance.peer.connect import Answer, Method

APPEND_FACT: Final = "AppendFact"
FETCH_FACTS: Final = "FetchFacts"
CONFIRM_RECEIPT: Final = "ConfirmReceipt"

_PAGE_OF_APPEND: Final = pb.AppendFactRequest.PAGE_FIELD_NUMBER


def peer_methods(service: BoundaryPort) -> dict[str, Method[ZoneId]]:
    """What a peer may call; the caller is its proven zone."""

    async def append_fact(sender: ZoneId, request: pb.AppendFactRequest) -> Answer:
        page, countersigned = codec.append_from_proto(request)
        answer = await service.append_page(sender, page, countersigned)
        return Answer(codec.page_answer_to_proto(answer), len(page.facts))

    async def fetch_facts(reader: ZoneId, request: pb.FetchFactsRequest) -> Answer:
        _check_consumer(reader, request.consumer)
        page = await service.fetch_page(reader, codec.fetch_from_proto(request))
        return Answer(pb.FetchFactsResponse(page=codec.page_to_proto(page)), len(page.facts))

    async def confirm_receipt(reader: ZoneId, request: pb.ConfirmReceiptRequest) -> Answer:
        _check_consumer(reader, request.consumer)
        signature = await service.confirm_receipt(reader, codec.receipt_from_proto(request.receipt))
        return Answer(pb.ConfirmReceiptResponse(countersignature=codec.signature_to_proto(signature)))

    return {
        APPEND_FACT: Method(pb.AppendFactRequest, append_fact, page_field=_PAGE_OF_APPEND),
        FETCH_FACTS: Method(pb.FetchFactsRequest, fetch_facts, waits=True),
        CONFIRM_RECEIPT: Method(pb.ConfirmReceiptRequest, confirm_receipt),
    }


def producer_methods(service: ProducerPort, zone: ZoneId) -> dict[str, Method[Producer]]:
    """What a local producer may call, in the zone that takes its facts in."""

    async def append_fact(producer: Producer, request: pb.AppendFactRequest) -> Answer:
        facts = produced.facts_from_proto(request, zone, producer)
        results = await service.append_facts(producer, facts)
        outcome = next((str(result.reason) for result in results if result.reason), OK)
        return Answer(produced.results_to_proto(results), len(facts), outcome)

    return {APPEND_FACT: Method(pb.AppendFactRequest, append_fact, page_field=_PAGE_OF_APPEND)}


def _check_consumer(reader: ZoneId, consumer: str) -> None:
    if consumer != reader:
        raise DeniedError(Reason.ZONE_MISMATCH, f"consumer {consumer[:64]!r}, and the certificate says {reader}")
