# SPDX-License-Identifier: Apache-2.0
"""A peer as the calling side sees it: the boundary's port, its calls put into messages and the answers taken apart.

How a message gets there is the subclass's business: :class:`~appliance.peer.client.PeerClient` over the network, the
tests' fake in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from google.protobuf.message import Message

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Countersigned, FetchRequest, Page, PageAnswer, Receipt, Signature
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.peer import codec
from appliance.peer.methods import APPEND_FACT, CONFIRM_RECEIPT, FETCH_FACTS

M = TypeVar("M", bound=Message)

_PAGE_OF_FETCH = pb.FetchFactsResponse.PAGE_FIELD_NUMBER


class PeerStub(ABC):
    """The three calls a peer may make, as :class:`~appliance.boundary.ports.BoundaryPort`.

    The zone arguments of its methods must be the own zone: the certificate would prove another one a liar.

    :param zone: the own zone.
    """

    def __init__(self, zone: ZoneId) -> None:
        self._zone = zone

    @abstractmethod
    async def _call(
        self, method: str, request: Message, answer: type[M], *, wait_s: float = 0.0, page_field: int = 0
    ) -> M:
        """Make a call.

        :param wait_s: how long the other side may take before it answers, beyond its usual time.
        :param page_field: the number of the answer's field that is a page.
        """

    async def append_page(self, sender: ZoneId, page: Page, countersigned: Countersigned | None = None) -> PageAnswer:
        """See :class:`~appliance.boundary.ports.SinkPort`."""
        self._check_zone(sender)
        request = codec.append_to_proto(page, countersigned)
        answer = await self._call(APPEND_FACT, request, pb.AppendFactResponse)
        try:
            return codec.page_answer_from_proto(answer)
        except RefusedError as error:
            raise _outside_contract(error) from error

    async def fetch_page(self, reader: ZoneId, request: FetchRequest) -> Page:
        """See :class:`~appliance.boundary.ports.SourcePort`."""
        self._check_zone(reader)
        message = codec.fetch_to_proto(reader, request)
        wait_s = request.wait_ms / 1000
        answer = await self._call(FETCH_FACTS, message, pb.FetchFactsResponse, wait_s=wait_s, page_field=_PAGE_OF_FETCH)
        try:
            return codec.page_from_proto(answer.page)
        except RefusedError as error:
            raise _outside_contract(error) from error

    async def confirm_receipt(self, reader: ZoneId, receipt: Receipt) -> Signature:
        """See :class:`~appliance.boundary.ports.SourcePort`."""
        self._check_zone(reader)
        request = pb.ConfirmReceiptRequest(consumer=reader, receipt=codec.receipt_to_proto(receipt))
        answer = await self._call(CONFIRM_RECEIPT, request, pb.ConfirmReceiptResponse)
        try:
            return codec.signature_from_proto(answer.countersignature)
        except RefusedError as error:
            raise _outside_contract(error) from error

    def _check_zone(self, zone: ZoneId) -> None:
        if zone != self._zone:
            raise RefusedError(Reason.ZONE_MISMATCH, f"{zone} calls as {self._zone}")


def _outside_contract(error: RefusedError) -> UnavailableError:
    return UnavailableError(Reason.PEER_FAULT, f"{error.reason}: {error.detail}")
