# SPDX-License-Identifier: Apache-2.0
"""Connections and the life of certificates: replaced in time without a lost call, cut when the proof is gone."""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import FetchRequest, Page
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import BACKDATE
from appliance.keys.denied import Denial, allow, deny
from appliance.keys.devca import ensure_pki
from appliance.keys.registry import LiveRegistry
from appliance.keys.software import SoftwareKeys
from appliance.peer.client import ClientConfig, PeerClient, open_peer
from appliance.peer.handshakes import HandshakeCounts
from appliance.peer.server import ServerConfig, serve
from appliance.peer.tls import SessionFiles
from tests.contracts.peer import AUDIT, HUB, PLANT, RecordingService, make_page

LOOPBACK = "127.0.0.1"


@dataclass
class Zone:
    """One side: software keys in files, which connections follow."""

    keys: SoftwareKeys
    files: SessionFiles
    registry: LiveRegistry
    handshakes: HandshakeCounts = field(default_factory=HandshakeCounts)

    @classmethod
    def load(cls, zone: ZoneId, path: Path, side: int) -> Zone:
        """From a node's folder."""
        keys = SoftwareKeys.load(zone, path)
        files = SessionFiles(side, keys.folder.session, keys.folder.hub_ca)
        return cls(keys, files, keys.registry)

    async def renew(self, every_s: float, validity: timedelta) -> None:
        """As a keeper does."""
        while True:
            await trio.to_thread.run_sync(self.keys.renew_session, validity)
            await trio.sleep(every_s)


@dataclass
class Two:
    """A plant that dials a hub, whose service answers polls after a while."""

    plant: Zone
    hub: Zone
    port: int
    service: RecordingService

    def client(self) -> ClientConfig:
        """How the plant dials."""
        plant = self.plant
        return ClientConfig(
            PLANT, HUB, LOOPBACK, self.port, plant.files, plant.registry, handshakes=plant.handshakes, connect_s=2.0
        )


async def _slow_page(_request: FetchRequest) -> Page:
    await trio.sleep(0.7)
    return make_page(1)


@pytest.fixture
async def two(tmp_path: Path, nursery: trio.Nursery) -> Two:
    """Both sides, up, with sessions of ten minutes."""
    folders = {PLANT: tmp_path / "plant", HUB: tmp_path / "hub"}
    ensure_pki(tmp_path / "ca", folders, timedelta(minutes=10))
    plant = Zone.load(PLANT, folders[PLANT], ssl.PROTOCOL_TLS_CLIENT)
    hub = Zone.load(HUB, folders[HUB], ssl.PROTOCOL_TLS_SERVER)
    service = RecordingService()
    service.page = _slow_page
    for zone in (plant, hub):
        nursery.start_soon(zone.registry.run)
    config = ServerConfig(LOOPBACK, 0, hub.files, hub.registry, handshakes=hub.handshakes)
    port = await nursery.start(serve, service, config)
    return Two(plant, hub, port, service)


@dataclass
class Load:
    """Calls of both kinds under way all the time, and what became of them."""

    done: int = 0
    failed: list[BsfgError] = field(default_factory=list)

    async def run(self, peer: PeerClient, *, polls: int = 4, pushes: int = 4, patient: bool = True) -> None:
        """Call until cancelled, or until a call fails."""

        async def poll() -> None:
            await peer.fetch_page(PLANT, FetchRequest(AUDIT, wait_ms=5000))

        async def push() -> None:
            await peer.append_page(PLANT, make_page())
            await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            for call in [poll] * polls + [push] * pushes:
                nursery.start_soon(self._repeat, call, patient)

    async def _repeat(self, call: Callable[[], Awaitable[None]], patient: bool) -> None:
        while True:
            try:
                await call()
                self.done += 1
            except BsfgError as error:
                self.failed.append(error)
                if not patient:
                    return
                await trio.sleep(0.05)


async def test_no_call_fails_while_certificates_come_and_go(two: Two, nursery: trio.Nursery) -> None:
    """Sessions of four seconds on both sides, renewed at half their life, for two lives; polls are always open."""
    life = timedelta(seconds=4)
    for zone in (two.plant, two.hub):
        zone.keys.renew_session(life)
        nursery.start_soon(zone.renew, 2.0, life)
    load = Load()
    async with open_peer(two.client()) as peer:
        with trio.move_on_after(8.5):
            await load.run(peer)
    assert load.failed == []
    assert load.done > 100
    assert two.plant.files.renewals >= 3
    assert two.hub.files.renewals >= 3
    assert two.hub.handshakes.accepted == two.plant.handshakes.accepted >= 3
    assert two.hub.handshakes.refused == two.plant.handshakes.refused == {}


async def test_without_a_newer_certificate_the_connection_ends_with_the_old_one(two: Two) -> None:
    """Not earlier, and no later; calls go on to that moment, and go through again with a new one."""
    ends = two.plant.keys.renew_session(timedelta(seconds=3))
    load = Load()
    async with open_peer(two.client()) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(load.run, peer)
        with trio.fail_after(10):
            while not load.failed:  # noqa: ASYNC110 - the load is what counts
                await trio.sleep(0.01)
        assert abs(datetime.now(UTC) - ends) < timedelta(seconds=1)
        assert {error.reason for error in load.failed} <= {Reason.LINK_DOWN, Reason.BAD_CERTIFICATE}
        await trio.sleep(0.5)
        assert load.failed[-1].reason == Reason.BAD_CERTIFICATE
        assert "ours ended at" in load.failed[-1].detail
        two.plant.keys.renew_session()
        done, failed = load.done, len(load.failed)
        await trio.sleep(1)
        assert load.done > done + 20
        assert len(load.failed) <= failed + 8
        nursery.cancel_scope.cancel()


async def test_our_own_end_cuts_a_connection_too(two: Two) -> None:
    """A hub whose session ended serves nobody, not even those who are connected, and look at no clock."""
    two.hub.keys.renew_session(timedelta(seconds=2))
    stopped = time.time()
    async with open_peer(replace(two.client(), now=lambda: stopped)) as peer:
        await peer.append_page(PLANT, make_page())
        with trio.fail_after(5):
            await Load().run(peer, polls=0, pushes=1, patient=False)
        with pytest.raises(BsfgError) as caught:
            await peer.append_page(PLANT, make_page())
        assert caught.value.reason == Reason.LINK_DOWN
    assert two.hub.handshakes.refused["bad_certificate"] >= 1
    two.hub.keys.renew_session()
    async with open_peer(two.client()) as peer:
        await peer.append_page(PLANT, make_page())


@pytest.mark.parametrize("denier", ["hub", "plant"])
async def test_a_denied_peer_is_cut_within_two_seconds(two: Two, denier: str) -> None:
    """In the middle of its calls, whichever side denies; refused from then on, and welcome when it is taken back."""
    judge, accused = (two.hub, two.plant) if denier == "hub" else (two.plant, two.hub)
    load = Load()
    async with open_peer(two.client()) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(load.run, peer)
        await trio.sleep(0.5)
        assert load.failed == []
        denial = Denial.of(accused.keys.boundary.certificate, accused.keys.zone, "stolen", 1)
        deny(judge.keys.folder.denied, denial)
        with trio.fail_after(2):
            while not load.failed:  # noqa: ASYNC110 - the load is what counts
                await trio.sleep(0.01)
        await trio.sleep(0.5)
        done = load.done
        with pytest.raises(DeniedError) as caught:
            await peer.append_page(PLANT, make_page())
        assert caught.value.reason == Reason.BOX_REVOKED
        assert load.done == done
        assert judge.handshakes.refused["box_revoked"] >= 1
        allow(judge.keys.folder.denied, [denial.certificate])
        with trio.fail_after(6):
            while load.done == done:  # noqa: ASYNC110 - the load is what counts
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_session_file_that_is_not_there_yet_is_waited_for(two: Two) -> None:
    """A renewed file is found by its place and time; a broken one is refused, and the next good one is used."""
    path = two.plant.keys.folder.session
    good = path.read_bytes()
    path.unlink()
    async with open_peer(two.client()) as peer:
        for content in (None, b"", good[:300]):
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(BsfgError) as caught:
                await peer.append_page(PLANT, make_page())
            assert caught.value.reason == Reason.NO_SESSION
        path.write_bytes(good)
        await peer.append_page(PLANT, make_page())
    assert two.plant.files.renewals == 0
    assert timedelta(minutes=5) == BACKDATE
