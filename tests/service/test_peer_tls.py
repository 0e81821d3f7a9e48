# SPDX-License-Identifier: Apache-2.0
"""Who may speak at all: every wrong certificate is refused with a reason, and the right ones are who they prove."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.peer.client import ClientConfig, open_peer
from appliance.peer.tls import OwnCredential
from tests.contracts.peer import HUB, PLANT, RecordingService, make_page
from tests.peer_world import LOOPBACK, World
from tests.pki import Pki, Registered


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

    def bare() -> OwnCredential:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(world.pki.hub_file)
        context.set_alpn_protocols(["h2"])
        return replace(world.plant.for_client(), context=context)

    await refused(world.client(port, tls=bare), "does not accept ours")


async def test_foreign_certificates_are_refused(world: World, port: int, tmp_path: Path) -> None:
    """Theirs by us, ours by them."""
    foreign = Pki(tmp_path / "foreign")
    _, stranger = foreign.zone(PLANT)
    unknown = replace(stranger, authorities=world.pki.hub_file)
    await refused(world.client(port, tls=unknown.for_client), "does not accept ours")
    suspicious = replace(world.plant, authorities=foreign.hub_file)
    await refused(world.client(port, tls=suspicious.for_client), "the peer's")


async def test_a_hub_ca_of_a_sites_pki_is_the_trust_anchor(
    world: World, service: RecordingService, nursery: trio.Nursery
) -> None:
    """Though it is not a root; and what else the site's root has signed is foreign, also with the whole chain shown."""
    sibling = world.pki.under_site()
    (world.plant_ca, world.plant), (world.hub_ca, world.hub) = (world.pki.zone(zone) for zone in (PLANT, HUB))
    port = await world.serve(nursery, service)
    async with open_peer(world.client(port)) as peer:
        await peer.append_page(PLANT, make_page())
    assert [sender for _, sender, _ in service.calls] == [PLANT]
    _, stranger = sibling.zone(PLANT)
    with stranger.session.open("ab") as file:
        file.write(sibling.hub_file.read_bytes())
    unknown = replace(stranger, authorities=world.pki.hub_file)
    await refused(world.client(port, tls=unknown.for_client), "does not accept ours")
    suspicious = replace(world.plant, authorities=sibling.hub_file)
    await refused(world.client(port, tls=suspicious.for_client), "the peer's")
    assert len(service.calls) == 1


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("plant-a-bsfg", "x.plant-a-bsfg"), "2 subject alternative names"),
        (("x.plant-a-bsfg",), "x.plant-a"),
        ((), "not the extensions of a session certificate"),
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
    """Not by TLS, which would ask the wall clock: by the side that holds it, and by the other side by its own time."""
    past = datetime.now(UTC) - timedelta(minutes=1)
    world.plant = world.pki.credential(world.plant_ca, "plant-a-bsfg", not_after=past)
    await refused(world.client(port), "ours ended at")
    assert world.handshakes.refused == {}  # nobody was dialled
    early = (past - timedelta(minutes=1)).timestamp()
    await refused(world.client(port, now=lambda: early), "valid from")
    assert world.handshakes.refused == {"bad_certificate": 1}


async def test_a_dead_clock_battery_changes_nothing(world: World, service: RecordingService) -> None:
    """Boundary time decides on both sides, here ten years from the wall clock; TLS does not ask the wall clock."""
    then = datetime.now(UTC) + timedelta(days=3653)
    start, end = then - timedelta(minutes=5), then + timedelta(minutes=5)
    world.pki.renew_hub(end)
    world.plant_ca, world.hub_ca = (world.pki.device_ca(zone, not_after=end) for zone in (PLANT, HUB))
    world.plant = world.pki.credential(world.plant_ca, "plant-a-bsfg", not_before=start, not_after=end)
    world.hub = world.pki.credential(world.hub_ca, "enterprise-bsfg", not_before=start, not_after=end)
    async with trio.open_nursery() as nursery:
        port = await world.serve(nursery, service, now=then.timestamp)
        async with open_peer(world.client(port, now=then.timestamp)) as peer:
            await peer.append_page(PLANT, make_page())
        await refused(world.client(port), "ours begins at")
        nursery.cancel_scope.cancel()


async def test_a_chain_without_its_device_ca_is_refused(world: World, port: int) -> None:
    """The hub does not guess."""
    session = world.plant.session
    session.write_text(session.read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n")
    await refused(world.client(port), "does not accept ours")


async def test_the_wrong_hub_is_refused(world: World, port: int) -> None:
    """By name, and by its device CA; a plant must not be able to pass for the hub."""
    await refused(world.client(port, registry=world.registered(HUB, world.plant_ca)), "registered")
    await refused(world.client(port, registry=Registered(world.pki.hub.der)), "enterprise-bsfg", Reason.UNKNOWN_PEER)
    world.hub = world.plant
    await refused(world.client(port), "the peer's")


async def test_another_zone_does_not_answer_for_the_hub(world: World, port: int) -> None:
    """Not even when the context forgot to compare names."""

    def lax() -> OwnCredential:
        own = world.plant.for_client()
        own.context.check_hostname = False
        return own

    world.hub = world.plant
    registry = Registered.of(world.pki.hub, {HUB: [world.hub_ca], PLANT: [world.plant_ca]})
    await refused(world.client(port, tls=lax, registry=registry), "plant-a answers for enterprise")


async def test_a_missing_own_certificate_is_named(world: World, port: int, tmp_path: Path) -> None:
    """As in quarantine, when there is none."""
    gone = replace(world.plant, session=tmp_path / "gone.pem")
    error = await refusal(world.client(port, tls=gone.for_client))
    assert (type(error), error.reason) == (UnavailableError, Reason.NO_SESSION)


async def test_a_server_without_a_certificate_goes_on(world: World, port: int) -> None:
    """It refuses connections, and serves again when there is one."""
    good = world.hub
    world.hub = replace(good, session=Path("gone.pem"))
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

    def tls() -> OwnCredential:
        seen.append(world.plant)
        return world.plant.for_client()

    async with open_peer(world.client(port, tls=tls)) as peer:
        await peer.append_page(PLANT, make_page())
        await peer.append_page(PLANT, make_page())
    assert seen == [world.plant]
