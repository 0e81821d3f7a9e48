# SPDX-License-Identifier: Apache-2.0
"""What a server's methods look at before they ask the service."""

from __future__ import annotations

import pytest

from appliance.boundary.errors import DeniedError
from appliance.boundary.pages import FetchRequest
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.peer import codec
from appliance.peer.methods import peer_methods
from tests.contracts.peer import AUDIT, PLANT, RecordingService, make_receipt


@pytest.mark.parametrize("consumer", ["", "plant-b", "plant-a-bsfg"])
async def test_the_consumer_is_the_caller(consumer: str) -> None:
    """Whoever names another zone than its certificate is denied, and the service not asked."""
    service = RecordingService()
    methods = peer_methods(service)
    receipt = pb.ConfirmReceiptRequest(consumer=consumer, receipt=codec.receipt_to_proto(make_receipt()))
    for name, request in (
        ("FetchFacts", codec.fetch_to_proto(consumer, FetchRequest(AUDIT))),
        ("ConfirmReceipt", receipt),
    ):
        with pytest.raises(DeniedError) as caught:
            await methods[name].handle(PLANT, request)
        assert caught.value.reason == Reason.ZONE_MISMATCH
    assert service.calls == []


def test_only_the_long_poll_may_be_cut_short() -> None:
    """What writes is brought to its end."""
    assert [name for name, method in peer_methods(RecordingService()).items() if method.waits] == ["FetchFacts"]
