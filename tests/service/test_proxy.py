# SPDX-License-Identifier: Apache-2.0
"""Everything a box dials, through a real HTTP proxy: facts, trust, and the leaf of a real nats-server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers.config import CONTROL_USER
from appliance.brokers.control import ControlLeaf, HubAddress, ProxyAddress, TlsFiles
from appliance.peer.client import open_peer
from appliance.peer.dial import HttpProxy
from tests.brokers import LIMITS, SECRETS, as_client, connected, eventually
from tests.contracts.peer import PLANT, RecordingService, make_page
from tests.peer_world import World
from tests.proxies import ESTABLISHED, LOOPBACK, ConnectProxy
from tests.service.test_brokers_control import HUB, A
from tests.service.test_brokers_control import World as ControlWorld

FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\n\r\n"
NAME = "hub.example.com"
"""Known to the proxy alone."""


@pytest.fixture
async def proxy(nursery: trio.Nursery) -> ConnectProxy:
    """Running."""
    made = ConnectProxy()
    await nursery.start(made.run)
    return made


async def test_facts_cross_through_a_proxy(tmp_path: Path, nursery: trio.Nursery, proxy: ConnectProxy) -> None:
    """The hub's name is the proxy's to look up. What it refuses says so, and is used as soon as it connects."""
    world = World.make(tmp_path)
    port = await world.serve(nursery, RecordingService())
    proxy.leads[f"{NAME}:{port}"] = port
    through = world.client(port, host=NAME, proxy=HttpProxy(LOOPBACK, proxy.port))
    async with open_peer(through) as peer:
        proxy.answer = FORBIDDEN
        with pytest.raises(UnavailableError) as caught:
            await peer.append_page(PLANT, make_page())
        assert caught.value.reason is Reason.PROXY_REFUSED
        assert f"answered 403 when asked to connect to {NAME}:{port}" in caught.value.detail
        proxy.answer = ESTABLISHED
        await peer.append_page(PLANT, make_page())
        assert peer.connected
    assert proxy.asked == [f"{NAME}:{port}"] * 2
    nursery.cancel_scope.cancel()


async def test_a_proxy_that_leads_elsewhere_proves_nothing(
    tmp_path: Path, nursery: trio.Nursery, proxy: ConnectProxy
) -> None:
    """It connects to a server of its own, with the right name and another CA: not a byte of a fact is sent."""
    world, foreign = World.make(tmp_path / "ours"), World.make(tmp_path / "theirs")
    port = await foreign.serve(nursery, RecordingService())
    through = world.client(port, host=NAME, proxy=HttpProxy(LOOPBACK, proxy.port))
    async with open_peer(through) as peer:
        with pytest.raises(DeniedError) as caught:
            await peer.append_page(PLANT, make_page())
    assert caught.value.reason is Reason.BAD_CERTIFICATE
    assert proxy.asked == [f"{NAME}:{port}"]
    nursery.cancel_scope.cancel()


async def test_a_slow_proxy_is_a_link_down_in_time(tmp_path: Path, nursery: trio.Nursery, proxy: ConnectProxy) -> None:
    """It takes the connection and says nothing."""
    proxy.delay_s = 60
    through = World.make(tmp_path).client(7422, host=NAME, proxy=HttpProxy(LOOPBACK, proxy.port), connect_s=0.3)
    async with open_peer(through) as peer:
        with trio.fail_after(5), pytest.raises(UnavailableError) as caught:
            await peer.append_page(PLANT, make_page())
    assert caught.value.reason is Reason.LINK_DOWN
    assert proxy.asked == [f"{NAME}:7422"]
    nursery.cancel_scope.cancel()


async def test_the_control_plane_goes_through_a_proxy(
    tmp_path: Path, nursery: trio.Nursery, proxy: ConnectProxy
) -> None:
    """By a stock nats-server: refused at first, then let through. Nothing leads to the hub beside it."""
    world = ControlWorld(tmp_path)
    place, port = world.places[A], world.leaf_port
    leaf = ControlLeaf(
        A,
        place.listen,
        place.folder / "store",
        SECRETS,
        LIMITS,
        TlsFiles(place.pki.session, place.pki.hub_ca),
        HubAddress(HUB, "192.0.2.7", port),  # nothing is there: only the proxy leads to the hub
        ProxyAddress(LOOPBACK, proxy.port),
    )
    proxy.leads[f"192.0.2.7:{port}"] = port
    proxy.answer = FORBIDDEN

    async def crosses() -> None:
        await world.joined(A)
        async with (
            connected(world.listen(HUB), CONTROL_USER, SECRETS.owner) as (hub, _),
            connected(world.listen(A), CONTROL_USER, SECRETS.owner) as (plant, _),
        ):
            heard = await hub.subscribe("zone.plant-a.dv.>")
            await hub.flush()
            await asyncio.sleep(0.3)  # interest travels over the leaf
            await plant.publish("dv.bsfg.evt.link.up", b"through")
            assert (await heard.next_msg(5)).data == b"through"

    async def asked() -> bool:
        return len(proxy.asked) > 0

    async with world.broker(HUB), world.broker(A, leaf.render()):
        await as_client(lambda: eventually(asked))
        assert await as_client(world.leaves) == []
        proxy.answer = ESTABLISHED
        await as_client(crosses)
    assert f"192.0.2.7:{port}" in proxy.asked
    nursery.cancel_scope.cancel()
