# SPDX-License-Identifier: Apache-2.0
"""The real client and the real server keep the peer's contract, over mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from appliance.peer.client import ClientConfig, PeerClient, open_peer
from appliance.peer.server import ServerConfig, serve
from tests.contracts.peer import HUB, PLANT, PeerContract, RecordingService
from tests.pki import Pki, Registered


class TestPeerOverTheNetwork(PeerContract):
    """Client, TLS, HTTP/2, server."""

    @pytest.fixture
    async def peer(self, service: RecordingService, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[PeerClient]:
        """Speaks for PLANT to HUB."""
        pki = Pki(tmp_path)
        plant_ca, plant = pki.zone(PLANT)
        hub_ca, hub = pki.zone(HUB)
        config = ServerConfig("127.0.0.1", 0, hub.for_server, Registered.of(pki.hub, {PLANT: [plant_ca]}))
        port: int = await nursery.start(serve, service, config)
        async with open_peer(
            ClientConfig(PLANT, HUB, "127.0.0.1", port, plant.for_client, Registered.of(pki.hub, {HUB: [hub_ca]}))
        ) as client:
            yield client
