# SPDX-License-Identifier: Apache-2.0
"""The fake peer keeps the peer's contract, and its faults do what they say."""

from __future__ import annotations

import pytest
import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from tests.contracts.peer import PLANT, PeerContract, RecordingService, make_page
from tests.fakes.peer import NO_FAULT, FakePeer, Fault


class TestFakePeer(PeerContract):
    """In memory."""

    @pytest.fixture
    def peer(self, service: RecordingService) -> FakePeer:
        """Speaks for PLANT."""
        return FakePeer(PLANT, service)


async def test_faults_lose_what_they_say() -> None:
    """A lost request does nothing, a lost answer was done; both look the same to the caller."""
    service = RecordingService()
    faults = [Fault(request_lost=True), Fault(answer_lost=True), NO_FAULT]
    peer = FakePeer(PLANT, service, lambda _method: faults.pop(0))
    seen = []
    for _ in range(2):
        with pytest.raises(UnavailableError) as caught:
            await peer.append_page(PLANT, make_page())
        assert caught.value.reason == Reason.LINK_DOWN
        seen.append(len(service.calls))
    assert await peer.append_page(PLANT, make_page()) == service.answer
    assert [*seen, len(service.calls)] == [0, 1, 2]


async def test_a_delay_takes_its_time(autojump_clock: object) -> None:
    """In the simulation's time."""
    assert autojump_clock
    peer = FakePeer(PLANT, RecordingService(), lambda _method: Fault(delay_s=3600))
    before = trio.current_time()
    await peer.append_page(PLANT, make_page())
    assert trio.current_time() - before >= 3600
