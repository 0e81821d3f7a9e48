# SPDX-License-Identifier: Apache-2.0
"""Who may speak at all: every wrong certificate is refused with a reason, and the right ones are who they prove."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.peer.client import ClientConfig, open_peer
from tests.contracts.peer import HUB, PLANT, RecordingService, make_page
from tests.peer_world import LOOPBACK, World
from tests.pki import Credential, Pki


@pytest.fixture
def world(tmp_path: Path) -> World:
    """PLANT and HUB."""
    return World.make(tmp_path)


@pytest.fixture
def service() -> RecordingService:
    """Behind the server."""
    return RecordingService()


@pytest.fixture
async def port(world: World, service: RecordingService, nursery: trio.Nursery) -> int:
    """Of HUB's server."""
    return await world.serve(nursery, service)


async def refusal(config: ClientConfig) -> BsfgError:
    """Why a call fails."""
    async with open_peer(config) as peer:
        with trio.fail_after(10), pytest.raises(BsfgError) as caught:
            await peer.append_page(config.zone, make_page())
    return caught.value


async def refused(config: ClientConfig, text: str, reason: Reason = Reason.BAD_CERTIFICATE) -> None:
    """A call is denied, with this reason and text."""
    error = await refusal(config)
    assert isinstance(error, DeniedError)
    assert error.reason == reason
    assert text in error.detail


async def test_the_right_certificate_is_its_zone(world: World, port: int, service: RecordingService) -> None:
    """Whatever its subject says."""
    world.plant = world.pki.credential(world.plant_ca, "plant-a-bsfg", common_name="enterprise-bsfg")
    async with open_peer(world.client(port)) as peer:
        await peer.append_page(PLANT, make_page())
    assert [sender for _, sender, _ in service.calls] == [PLANT]
    assert [(record.caller, record.outcome, record.facts) for record in world.audit] == [(PLANT, "ok", 3)]


async def test_no_certificate_is_refused(world: World, port: int) -> None:
    """TLS itself asks for one."""

    def bare() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(world.pki.hub_file)
        context.set_alpn_protocols(["h2"])
        return context

    await refused(world.client(port, tls=bare), "does not accept ours")


async def test_foreign_certificates_are_refused(world: World, port: int, tmp_path: Path) -> None:
    """Theirs by us, ours by them."""
    foreign = Pki(tmp_path / "foreign")
    _, stranger = foreign.zone(PLANT)
    unknown = Credential(stranger.chain, stranger.key, world.pki.hub_file, stranger.certificate)
    await refused(world.client(port, tls=unknown.for_client), "does not accept ours")
    suspicious = Credential(world.plant.chain, world.plant.key, foreign.hub_file, world.plant.certificate)
    await refused(world.client(port, tls=suspicious.for_client), "the peer's")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("plant-a-bsfg", "x.plant-a-bsfg"), "2 subject alternative names"),
        (("x.plant-a-bsfg",), "x.plant-a"),
        ((), "0 subject alternative names"),
    ],
)
async def test_names_that_tls_lets_pass_are_refused(
    world: World, port: int, service: RecordingService, names: tuple[str, ...], text: str
) -> None:
    """The chain is good; the caller hears what is wrong, and the audit keeps it."""
    world.plant = world.pki.credential(world.plant_ca, *names, common_name="plant-a-bsfg")
    await refused(world.client(port), text)
    assert service.calls == []
    assert [(record.caller, record.outcome) for record in world.audit] == [("", "bad_certificate")]


async def test_names_outside_the_constraint_are_refused(world: World, port: int) -> None:
    """By TLS."""
    world.plant = world.pki.credential(world.plant_ca, "plant-b-bsfg")
    await refused(world.client(port), "does not accept ours")


async def test_unregistered_zones_are_refused(world: World, port: int) -> None:
    """The hub CA may have signed them; nobody enrolled them here."""
    _, world.plant = world.pki.zone(ZoneId("plant-b"))
    await refused(world.client(port), "plant-b-bsfg", Reason.UNKNOWN_PEER)


async def test_another_device_ca_of_the_same_zone_is_refused(world: World, port: int) -> None:
    """A second CA that the hub CA signed by mistake."""
    _, world.plant = world.pki.zone(PLANT)
    await refused(world.client(port), "registered")


async def test_expired_certificates_are_refused(world: World, port: int) -> None:
    """By TLS, and named."""
    past = datetime.now(UTC) - timedelta(minutes=1)
    world.plant = world.pki.credential(world.plant_ca, "plant-a-bsfg", not_after=past)
    await refused(world.client(port), "expired")


async def test_a_chain_without_its_device_ca_is_refused(world: World, port: int) -> None:
    """The hub does not guess."""
    chain = world.plant.chain
    chain.write_text(chain.read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n")
    await refused(world.client(port), "does not accept ours")


async def test_the_wrong_hub_is_refused(world: World, port: int) -> None:
    """By name, and by its device CA; a plant must not be able to pass for the hub."""
    await refused(world.client(port, registry={HUB: [world.plant_ca.der]}), "registered")
    await refused(world.client(port, registry={}), "enterprise-bsfg", Reason.UNKNOWN_PEER)
    world.hub = world.plant
    await refused(world.client(port), "the peer's")


async def test_another_zone_does_not_answer_for_the_hub(world: World, port: int) -> None:
    """Not even when the context forgot to compare names."""

    def lax() -> ssl.SSLContext:
        context = world.plant.for_client()
        context.check_hostname = False
        return context

    world.hub = world.plant
    registry = {HUB: [world.hub_ca.der], PLANT: [world.plant_ca.der]}
    await refused(world.client(port, tls=lax, registry=registry), "plant-a answers for enterprise")


async def test_a_missing_own_certificate_is_named(world: World, port: int, tmp_path: Path) -> None:
    """As in quarantine, when there is none."""
    gone = Credential(tmp_path / "gone.pem", world.plant.key, world.pki.hub_file, world.plant.certificate)
    await refused(world.client(port, tls=gone.for_client), "ours cannot be used")


async def test_a_server_without_a_certificate_goes_on(world: World, port: int) -> None:
    """It refuses connections, and serves again when there is one."""
    good = world.hub
    world.hub = Credential(Path("gone.pem"), good.key, good.authorities, good.certificate)
    assert (await refusal(world.client(port))).reason == Reason.LINK_DOWN
    world.hub = good
    async with open_peer(world.client(port)) as peer:
        await peer.append_page(PLANT, make_page())


def handshake(world: World, port: int, context: ssl.SSLContext) -> tuple[ssl.SSLSocket, bytes]:
    """Shake hands with the standard library alone, and read what the server says first."""
    context.load_verify_locations(world.pki.hub_file)
    context.load_cert_chain(world.plant.chain, world.plant.key)
    with socket.create_connection((LOOPBACK, port), timeout=10) as plain:
        secure = context.wrap_socket(plain, server_hostname="enterprise-bsfg")
        with secure:
            first = secure.recv(1000)
            session = secure.session
            assert session is None or not session.has_ticket
            return secure, first


async def test_only_tls_1_3_is_spoken(world: World, port: int) -> None:
    """And no ticket is given that would resume a session without its certificates."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match=r"(?i)version"):
        await trio.to_thread.run_sync(handshake, world, port, old)
    new = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    new.set_alpn_protocols(["h2"])
    secure, first = await trio.to_thread.run_sync(handshake, world, port, new)
    assert secure.context is new
    assert first[3:4] == b"\x04"  # a SETTINGS frame


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
async def test_only_http_2_is_spoken(world: World, port: int, protocols: list[str]) -> None:
    """Nobody who does not ask for it gets an answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if protocols:
        context.set_alpn_protocols(protocols)
    _, first = await trio.to_thread.run_sync(handshake, world, port, context)
    assert first == b""


async def test_renewed_certificates_need_no_restart(world: World, port: int) -> None:
    """The next connection uses them, on both sides."""
    async with open_peer(world.client(port)) as peer:
        await peer.append_page(PLANT, make_page())
    world.hub = world.pki.credential(world.hub_ca, "enterprise-bsfg")
    world.plant = world.pki.credential(world.plant_ca, "plant-a-bsfg")
    seen = []

    def tls() -> ssl.SSLContext:
        seen.append(world.plant)
        return world.plant.for_client()

    async with open_peer(world.client(port, tls=tls)) as peer:
        await peer.append_page(PLANT, make_page())
        await peer.append_page(PLANT, make_page())
    assert seen == [world.plant]
