# SPDX-License-Identifier: Apache-2.0
"""nats-control on real nats-servers: a hub and two plants, what crosses between them, and what does not.

In a hostile test one side's configuration is opened as far as nats-server allows: what then still does not cross is
held by the other side alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats.errors
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nats.aio.client import Client
from nats.aio.msg import Msg

from appliance.boundary.names import ZoneId
from appliance.brokers.config import CONTROL_USER, SYSTEM_USER, Local
from appliance.brokers.control import ControlHub, ControlLeaf, HubAddress, TlsFiles, zone_account
from appliance.brokers.process import BrokerProcess
from appliance.keys.certificates import Authority, Session, new_device_ca, new_hub_ca, new_session
from appliance.keys.devca import ensure_pki
from appliance.keys.software import PkiFolder, SoftwareKeys
from tests.brokers import LIMITS, SECRETS, as_client, connected, eventually, free_port, knock, local, running
from tests.sessions import calling, serving

HUB = ZoneId("enterprise")
A = ZoneId("plant-a")
B = ZoneId("plant-b")
OWN = SECRETS.owner
REFUSED = re.compile(r"TLS leafnode handshake error|authentication error")
"""What nats-server logs when it does not take a leaf."""

FOREIGN_TO_THE_PLANE = (
    "facts.operational.plant-a.all.press-4.x",
    "log.facts.operational.plant-a.all.press-4.x",
    "dead.x",
    "_INBOX.x",
    "_R_.x.y",
    "other.x",
    "$JS.API.INFO",
    "$KV.b.k",
    "$O.b.x",
)


@dataclass
class Place:
    """A broker's folder, listener and name."""

    zone: ZoneId
    folder: Path
    listen: Local

    @property
    def pki(self) -> PkiFolder:
        """Its keys."""
        return PkiFolder(self.folder / "pki")


class World:
    """A hub and two plants: their files, made; their brokers, not started."""

    def __init__(self, root: Path) -> None:
        self.places = {zone: Place(zone, root / zone, local()) for zone in (HUB, A, B)}
        self.leaf_port = free_port()
        ensure_pki(root / "ca", {zone: place.pki.path for zone, place in self.places.items()})

    def text(self, zone: ZoneId, session: Path | None = None, authorities: Path | None = None) -> str:
        """The configuration of one of the three, by choice with another session, or other roots for leaves."""
        place = self.places[zone]
        tls = TlsFiles(session or place.pki.session, place.pki.hub_ca)
        store = place.folder / "store"
        if zone == HUB:
            return ControlHub(
                HUB, place.listen, store, SECRETS, LIMITS, tls, "127.0.0.1", self.leaf_port, (A, B), authorities
            ).render()
        hub = HubAddress(HUB, "127.0.0.1", self.leaf_port)
        return ControlLeaf(zone, place.listen, store, SECRETS, LIMITS, tls, hub).render()

    def listen(self, zone: ZoneId) -> Local:
        """Where one of the three listens for its local clients."""
        return self.places[zone].listen

    @asynccontextmanager
    async def broker(self, zone: ZoneId, text: str | None = None) -> AsyncIterator[BrokerProcess]:
        """One of the three, running."""
        place = self.places[zone]
        async with running(place.folder, "control", text or self.text(zone), place.listen) as process:
            yield process

    @asynccontextmanager
    async def all(self, **texts: str) -> AsyncIterator[dict[ZoneId, BrokerProcess]]:
        """All three, running and connected; ``texts`` replaces configurations by zone (``-`` as ``_``)."""
        async with AsyncExitStack() as stack:
            brokers = {
                zone: await stack.enter_async_context(self.broker(zone, texts.get(zone.replace("-", "_"))))
                for zone in (HUB, A, B)
            }
            await as_client(lambda: self.joined(A, B))
            yield brokers

    async def leaves(self) -> list[tuple[str, str]]:
        """The hub's leaf connections: server name and account."""
        async with connected(self.listen(HUB), SYSTEM_USER, SECRETS.system) as (client, _):
            answer = await client.request("$SYS.REQ.SERVER.PING.LEAFZ", b"", timeout=5)
        return sorted((leaf["name"], leaf["account"]) for leaf in json.loads(answer.data)["data"].get("leafs") or [])

    async def joined(self, *zones: ZoneId) -> None:
        """Wait until exactly these zones' brokers are connected, each in its own account."""
        wanted = sorted((f"{zone}-control", zone_account(zone)) for zone in zones)

        async def there() -> bool:
            return await self.leaves() == wanted

        # A leaf tries its addresses in turn, and looking up the one that is only a name may take a while.
        await eventually(there, 40)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Made anew for each test."""
    return World(tmp_path)


class Ear:
    """Everything one client hears, without what nats-server tells everybody about its own API."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.heard: list[tuple[str, bytes]] = []

    async def open(self, subject: str = ">") -> Ear:
        """Begin to listen; returns when the broker knows."""

        async def note(message: Msg) -> None:
            if not message.subject.startswith("$JS.EVENT."):
                self.heard.append((message.subject, message.data))

        await self.client.subscribe(subject, cb=note)
        await self.client.flush()
        return self

    def of(self, word: bytes) -> list[str]:
        """The subjects of what was heard with this word in it."""
        return sorted(subject for subject, data in self.heard if word in data)


@asynccontextmanager
async def ears(world: World, *zones: ZoneId) -> AsyncIterator[list[Ear]]:
    """A control client that listens to everything, at each of these brokers."""
    async with AsyncExitStack() as stack:
        opened = []
        for zone in zones:
            client, _ = await stack.enter_async_context(connected(world.listen(zone), CONTROL_USER, OWN))
            opened.append(await Ear(client).open())
        await asyncio.sleep(0.3)  # interest travels over the leaves
        yield opened


async def settle(*listeners: Ear) -> None:
    """Give what was sent time to arrive."""
    for listener in listeners:
        await listener.client.flush()
    await asyncio.sleep(0.3)


async def test_commands_events_and_questions_cross(world: World) -> None:
    """Each command to its plant alone; each event under the prefix of the account it came from."""

    async def scenario() -> None:
        async with ears(world, HUB, A, B) as (hub, a, b):
            await hub.client.publish("zone.plant-a.dv.bsfg.cmd.update", b"command")
            await a.client.publish("dv.bsfg.evt.link.up", b"event of a")
            await b.client.publish("dv.task.evt.succeeded", b"event of b")
            await settle(hub, a, b)
            assert a.of(b"command") == ["dv.bsfg.cmd.update"]
            assert b.of(b"command") == []
            assert hub.of(b"event of a") == ["zone.plant-a.dv.bsfg.evt.link.up"]
            assert hub.of(b"event of b") == ["zone.plant-b.dv.task.evt.succeeded"]
            assert b.of(b"event of a") == a.of(b"event of b") == []

            async def answer(message: Msg) -> None:
                await message.respond(b"pong of a")

            await a.client.subscribe("dv.rpc.bsfg.ping", cb=answer)
            await settle(a)
            response = await hub.client.request("zone.plant-a.dv.rpc.bsfg.ping", b"question to a", timeout=5)
            assert response.data == b"pong of a"
            with pytest.raises(nats.errors.Error):
                await hub.client.request("zone.plant-b.dv.rpc.bsfg.ping", b"question to b", timeout=1)
            assert b.of(b"question") == b.of(b"question to b") == ["dv.rpc.bsfg.ping"]
            assert a.of(b"question") == a.of(b"question to a") == ["dv.rpc.bsfg.ping"]
            assert b.of(b"pong") == []

    async with world.all():
        await as_client(scenario)


async def test_commands_and_events_are_kept_on_both_sides(world: World) -> None:
    """A plant's stream takes a command from the hub and acknowledges it there; the hub's takes the plant's events."""

    async def scenario() -> None:
        async with (
            connected(world.listen(HUB), CONTROL_USER, OWN) as (hub, _),
            connected(world.listen(A), CONTROL_USER, OWN) as (plant, _),
        ):
            await plant.jetstream().add_stream(name="COMMANDS", subjects=["dv.*.cmd.>"])
            await hub.jetstream().add_stream(name="EVENTS", subjects=["zone.*.dv.*.evt.>"])
            await asyncio.sleep(0.3)
            answer = await hub.request("zone.plant-a.dv.bsfg.cmd.update", b"{}", timeout=5)
            assert json.loads(answer.data) == {"stream": "COMMANDS", "domain": "plant-a", "seq": 1}
            await plant.publish("dv.bsfg.evt.link.up", b"{}")

            async def kept() -> bool:
                return (await hub.jetstream().stream_info("EVENTS")).state.messages == 1

            await eventually(kept)
            message = await hub.jetstream().get_msg("EVENTS", 1)
            assert message.subject == "zone.plant-a.dv.bsfg.evt.link.up"

    async with world.all():
        await as_client(scenario)


async def test_nothing_else_crosses(world: World) -> None:
    """No fact, no inbox, no JetStream API, nothing with a foreign prefix; in neither direction."""

    async def scenario() -> None:
        async with ears(world, HUB, A, B) as (hub, a, b):
            up = (*FOREIGN_TO_THE_PLANE, "dv.bsfg.cmd.x", "dv.rpc.bsfg.x", "zone.plant-b.dv.bsfg.evt.x")
            down = (*FOREIGN_TO_THE_PLANE, "dv.bsfg.cmd.x", "zone.plant-a.dv.bsfg.evt.x", "zone.plant-a.other.x")
            for subject in up:
                await a.client.publish(subject, b"from the plant")
            for subject in down:
                await hub.client.publish(subject, b"from the hub")
            await settle(hub, a, b)
            assert set(a.of(b"from the plant")) == set(up)  # it was sent
            assert hub.of(b"from the plant") == b.of(b"from the plant") == []
            assert a.of(b"from the hub") == b.of(b"from the hub") == []
            for domain in ("plant-a", "enterprise"):
                other = hub.client if domain == "plant-a" else a.client
                with pytest.raises(nats.errors.Error):
                    await other.request(f"$JS.{domain}.API.STREAM.NAMES", b"", timeout=0.5)

    async with world.all():
        await as_client(scenario)


def opened(text: str, account: str) -> str:
    """The configuration with a user in an account that has none, and without what the leaf denies."""
    text = re.sub(r"\n *deny_(im|ex)ports: .*", "", text)
    head, _, rest = text.partition(f"  {account}: {{\n")
    assert rest
    evil = f'user: "evil", password: "{OWN}"'
    if "users: [\n" in rest.partition("\n  }\n")[0]:
        rest = rest.replace("users: [\n", f"users: [\n      {{ {evil} }}\n", 1)
        rest = re.sub(r"\n        permissions: \{\n(          .*\n)+        \}", "", rest, count=1)
    else:
        rest = f"    users: [ {{ {evil} }} ]\n{rest}"
    return f"{head}  {account}: {{\n{rest}"


async def test_a_hostile_plant_reaches_its_own_account_alone(world: World) -> None:
    """With every local rule lifted it hears only what is meant for it, and is heard only as itself."""

    async def scenario() -> None:
        async with ears(world, HUB, B) as (hub, b), connected(world.listen(A), "evil", OWN) as (client, _):
            evil = await Ear(client).open()

            async def answer(message: Msg) -> None:
                await message.respond(b"pong of b")

            await b.client.subscribe("dv.rpc.bsfg.ping", cb=answer)
            await asyncio.sleep(0.3)
            for subject in (*FOREIGN_TO_THE_PLANE, "zone.plant-b.dv.bsfg.evt.forged", "dv.bsfg.cmd.forged"):
                await client.publish(subject, b"from evil")
            await client.publish("dv.bsfg.evt.x.y", b"from evil")
            await hub.client.publish("zone.plant-b.dv.bsfg.cmd.update", b"for b alone")
            response = await hub.client.request("zone.plant-b.dv.rpc.bsfg.ping", b"for b alone", timeout=5)
            assert response.data == b"pong of b"
            await settle(hub, b, evil)
            assert hub.of(b"from evil") == ["zone.plant-a.dv.bsfg.evt.x.y"]
            assert b.of(b"from evil") == []
            assert evil.of(b"for b alone") == evil.of(b"pong of b") == []
            assert b.of(b"for b alone")  # it was sent

    async with world.all(plant_a=opened(world.text(A), "UPLINK")):
        await as_client(scenario)


async def test_a_hostile_hub_reaches_the_control_plane_alone(world: World) -> None:
    """With every rule of the hub lifted it hears a plant's events, and the plant hears its commands; no more."""

    async def scenario() -> None:
        async with ears(world, A) as (plant,), connected(world.listen(HUB), "evil", OWN) as (client, _):
            evil = await Ear(client).open()
            await plant.client.jetstream().add_stream(name="COMMANDS", subjects=["dv.*.cmd.>"])
            await asyncio.sleep(0.3)
            for subject in (*FOREIGN_TO_THE_PLANE, "dv.bsfg.evt.forged.x", "$JS.plant-a.API.STREAM.NAMES"):
                await client.publish(subject, b"from evil")
                await plant.client.publish(subject.replace("dv.bsfg.evt", "dv.bsfg.xyz"), b"from the plant")
            await client.publish("dv.bsfg.cmd.update", b"from evil")
            await plant.client.publish("dv.bsfg.evt.link.up", b"from the plant")
            for subject in ("$JS.API.STREAM.DELETE.COMMANDS", "$JS.plant-a.API.STREAM.DELETE.COMMANDS"):
                with pytest.raises(nats.errors.Error):
                    await client.request(subject, b"", timeout=0.5)
            await settle(evil, plant)
            assert plant.of(b"from evil") == ["dv.bsfg.cmd.update"]
            assert evil.of(b"from the plant") == ["dv.bsfg.evt.link.up"]
            assert (await plant.client.jetstream().stream_info("COMMANDS")).state.messages == 1

    async with world.all(enterprise=opened(world.text(HUB), zone_account(A))):
        await as_client(scenario)


def certificate(ca: Authority, common_name: str, names: Sequence[x509.GeneralName]) -> Session:
    """A session with a subject and names of the forger's choice."""
    key = ec.generate_private_key(ec.SECP256R1())
    model = new_session(ca, A, datetime.now(UTC)).certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(model.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
    )
    for found in model.extensions:
        if not isinstance(found.value, x509.SubjectAlternativeName | x509.SubjectKeyIdentifier):
            builder = builder.add_extension(found.value, found.critical)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return Session(key, builder.sign(ca.key, hashes.SHA256()), ca.certificate)


async def test_a_certificate_opens_its_own_zone_and_no_other(world: World) -> None:
    """Whatever a stolen boundary key of plant A signs, it is plant A, or nobody."""
    now = datetime.now(UTC)
    own = SoftwareKeys.load(A, world.places[A].pki.path).boundary
    name_a, name_b = x509.DNSName("plant-a-bsfg"), x509.DNSName("plant-b-bsfg")
    refused = {
        "foreign-ca": new_session(new_device_ca(new_hub_ca(now), A, now), A, now),
        "foreign-name": certificate(own, "plant-a-bsfg", [name_b]),
        "both-names": certificate(own, "plant-a-bsfg", [name_a, name_b]),
        "subject-only": certificate(own, "plant-b-bsfg", []),
        "own-subject-only": certificate(own, "plant-a-bsfg", []),
        "uri": certificate(own, "plant-a-bsfg", [x509.UniformResourceIdentifier("plant-b-bsfg")]),
        "name-and-uri": certificate(own, "plant-a-bsfg", [name_a, x509.UniformResourceIdentifier("plant-b-bsfg")]),
        "name-and-mail": certificate(own, "plant-a-bsfg", [name_a, x509.RFC822Name("plant-b-bsfg")]),
        "name-below": certificate(own, "plant-a-bsfg", [x509.DNSName("x.plant-a-bsfg")]),
        "expired": new_session(own, A, now - timedelta(hours=1), timedelta(minutes=10)),
        "device-ca-itself": Session(own.key, own.certificate, own.certificate),
    }
    async with world.broker(HUB) as hub:
        for kind, session in refused.items():
            path = world.places[A].folder / f"{kind}.pem"
            path.write_bytes(session.pem())
            log = world.places[HUB].folder / "control.log"
            before = len(log.read_text())
            async with world.broker(A, world.text(A, path)):
                with trio.fail_after(10):
                    while not REFUSED.search(log.read_text()[before:]):  # noqa: ASYNC110 - nothing announces it
                        await trio.sleep(0.05)
                assert await as_client(world.leaves) == [], kind
        path = world.places[A].folder / "accepted.pem"
        path.write_bytes(certificate(own, "plant-b-bsfg", [name_a]).pem())
        async with world.broker(A, world.text(A, path)):
            await as_client(lambda: world.joined(A))
        assert hub.pid


async def test_the_leaf_listener_takes_nothing_but_tls_1_3_with_a_certificate(world: World) -> None:
    """Not a plain client, not an older TLS, not one that shows nothing; and it says nothing before."""
    plant = SoftwareKeys.load(A, world.places[A].pki.path)
    old, bare = calling(plant), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    bare.load_verify_locations(world.places[A].pki.hub_ca)

    def dial(context: ssl.SSLContext | None) -> bytes:
        with socket.create_connection(("127.0.0.1", world.leaf_port), timeout=2) as plain:
            if context is None:
                plain.settimeout(0.5)
                return plain.recv(100)
            with context.wrap_socket(plain, server_hostname="enterprise-bsfg") as secure:
                assert secure.version() == "TLSv1.3"
                return secure.recv(100)

    async with world.broker(HUB):
        assert (await trio.to_thread.run_sync(dial, calling(plant))).startswith(b"INFO ")
        for context in (old, bare):
            with pytest.raises(ssl.SSLError):
                await trio.to_thread.run_sync(dial, context)
        with pytest.raises(TimeoutError):
            await trio.to_thread.run_sync(dial, None)


async def test_a_leafs_user_cannot_come_in_by_the_local_listener(world: World) -> None:
    """It has no password; only a certificate opens it."""
    async with world.broker(HUB):
        for password in ("", "plant-a-bsfg", OWN):
            assert "Authorization Violation" in knock(world.listen(HUB), "plant-a-bsfg", password)
        assert knock(world.listen(HUB), CONTROL_USER, OWN) == "PONG"


async def test_a_plant_works_without_its_hub_and_joins_when_it_is_there(world: World) -> None:
    """Also after the hub was away for a while."""

    async def works() -> None:
        async with ears(world, A) as (plant,):
            await plant.client.publish("dv.bsfg.evt.link.down", b"alone")
            js = plant.client.jetstream()
            await js.add_stream(name="EVENTS", subjects=["dv.*.evt.>"])
            assert (await js.publish("dv.bsfg.evt.link.down", b"kept")).domain == "plant-a"
            await settle(plant)
            assert plant.of(b"alone") == ["dv.bsfg.evt.link.down"]

    async with world.broker(A):
        await as_client(works)
        async with world.broker(HUB) as hub:
            await as_client(lambda: world.joined(A))
            await hub.kill()
            await hub.start()
            await as_client(lambda: world.joined(A))


async def test_a_renewed_session_is_used_after_a_reload(world: World) -> None:
    """Connections stay; the next one shows the new certificate."""
    keys, hub = SoftwareKeys.load(A, world.places[A].pki.path), SoftwareKeys.load(HUB, world.places[HUB].pki.path)
    context = serving(hub)

    def serial(server: socket.socket) -> int:
        """Whose connection comes next; anything else it wants is refused."""
        plain, _ = server.accept()
        with plain, context.wrap_socket(plain, server_side=True) as secure:
            return x509.load_der_x509_certificate(secure.getpeercert(True) or b"").serial_number

    with socket.create_server(("127.0.0.1", world.leaf_port)) as server:
        server.settimeout(15)
        async with world.broker(A) as plant:
            first = keys.session()
            assert first is not None
            assert await trio.to_thread.run_sync(serial, server) == first.serial_number
            keys.renew_session()
            plant.reload()
            second = keys.session()
            assert second is not None
            shown = set()
            with trio.fail_after(15):
                while second.serial_number not in shown:
                    shown.add(await trio.to_thread.run_sync(serial, server))
            assert shown <= {first.serial_number, second.serial_number}
            assert second.serial_number != first.serial_number


async def test_commands_and_events_go_on_while_sessions_are_renewed(world: World) -> None:
    """Each renewal is followed by a reload, on both sides; the leaf connection stays, and nothing is lost."""
    brokers: dict[ZoneId, BrokerProcess] = {}

    def renew(zone: ZoneId) -> None:
        SoftwareKeys.load(zone, world.places[zone].pki.path).renew_session()
        brokers[zone].reload()

    async def scenario() -> None:
        connections = await leaf_ids(world)
        async with (
            connected(world.listen(HUB), CONTROL_USER, OWN) as (hub, _),
            connected(world.listen(A), CONTROL_USER, OWN) as (plant, _),
        ):
            await plant.jetstream().add_stream(name="COMMANDS", subjects=["dv.*.cmd.>"])
            await hub.jetstream().add_stream(name="EVENTS", subjects=["zone.*.dv.*.evt.>"])
            await asyncio.sleep(0.3)
            for number in range(60):
                if number % 10 == 0:
                    renew((A, HUB)[number // 10 % 2])
                answer = await hub.request("zone.plant-a.dv.bsfg.cmd.update", b"{}", timeout=5)
                assert json.loads(answer.data)["seq"] == number + 1
                await plant.publish("dv.bsfg.evt.link.up", b"%d" % number)
                await asyncio.sleep(0.03)

            async def kept() -> bool:
                return (await hub.jetstream().stream_info("EVENTS")).state.messages == 60

            await eventually(kept)
        assert await leaf_ids(world) == connections

    async with world.all() as running_brokers:
        brokers |= running_brokers
        await as_client(scenario)


async def leaf_ids(world: World) -> list[int]:
    """The hub's leaf connections; another number is another connection."""
    async with connected(world.listen(HUB), SYSTEM_USER, SECRETS.system) as (client, _):
        answer = await client.request("$SYS.REQ.SERVER.PING.LEAFZ", b"", timeout=5)
    return sorted(leaf["id"] for leaf in json.loads(answer.data)["data"]["leafs"])
