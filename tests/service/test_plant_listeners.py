# SPDX-License-Identifier: Apache-2.0
"""The plant interface: nats-facts and the intake behind TLS with certificates of the local CA.

A loopback address plays the plant interface. No boundary runs here, no keeper and no TPM: that is how a quarantined box
works.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
import trio
from cryptography import x509

from appliance.boundary.names import Category, ProducerId
from appliance.brokers.config import MIB, Limits, Plant, write_config
from appliance.brokers.process import BrokerProcess
from appliance.dev.environment import FACTS_PORT, Environment
from appliance.dev.layout import HOST, PLANT
from appliance.factlog.natskeys import UserCredentials
from appliance.factlog.natslogin import CredentialsFile, client_options, client_tls
from appliance.factlog.natswire import NatsWire
from appliance.keys.local.applications import Role
from appliance.keys.local.authority import LocalAuthority
from appliance.keys.local.store import LocalKeys
from appliance.node.local import facts_broker
from tests.brokers import as_client, binary, free_port
from tests.doors import claims_of
from tests.produced import document, payload
from tests.zones import AUDIT, running_zone, two_zones

ADDRESS = ipaddress.ip_address(HOST)
APPEND = "bsfg.v1.BoundaryService/AppendFact"


@dataclass
class PlantSide:
    """A zone whose listeners stand on the plant interface."""

    environment: Environment
    keys: LocalKeys
    authority: LocalAuthority
    https: int

    @property
    def ca(self) -> Path:
        """What plant machines trust."""
        return self.keys.folder / "ca.pem"

    @property
    def port(self) -> int:
        """Of nats-facts."""
        return self.environment.ports[FACTS_PORT[PLANT]]

    def user(self, name: str) -> CredentialsFile:
        """A user's credentials."""
        return CredentialsFile(self.environment.layout.zone(PLANT).user(name))

    def broker(self) -> BrokerProcess:
        """nats-facts with TLS, as the keys say now; not started."""
        files = self.environment.layout.zone(PLANT)
        listen = Plant(HOST, self.port, self.authority.server_file)
        text = facts_broker(self.keys, listen, files.facts_store, Limits(1024 * MIB)).render()
        write_config(files.facts_config, text)
        return BrokerProcess(binary(), files.facts_config, self.environment.layout.log("nats"), listen)


def plant_side(folder: Path) -> PlantSide:
    """Its files."""
    environment = two_zones(folder)
    files = environment.layout.zone(PLANT)
    keys = LocalKeys.open(files.local, PLANT)
    side = PlantSide(environment, keys, keys.authority(), free_port())
    side.authority.ensure_server([ADDRESS, "box.plant.example"], datetime.now(UTC))
    text = files.node_config.read_text()
    text = text.replace('credentials = "local"\n', 'credentials = "local"\nauthority = "local/ca.pem"\n')
    files.node_config.write_text(
        f'{text}[plant]\nhost = "{HOST}"\nport = {side.https}\ncertificate = "local/server.pem"\n'
    )
    return side


@asynccontextmanager
async def running(side: PlantSide) -> AsyncIterator[BrokerProcess]:
    """nats-facts, ended whatever happens."""
    broker = side.broker()
    await broker.start()
    try:
        yield broker
    finally:
        with trio.CancelScope(shield=True):
            await broker.stop()


async def published(side: PlantSide, message_id: str, user: str = "sensors") -> int:
    """A stock producer of the plant sends a fact over TLS; its offset."""

    async def produce() -> int:
        client = await nats.connect(
            f"tls://{HOST}:{side.port}",
            user_credentials=str(side.user(user).path),
            tls=client_tls(side.ca),
            allow_reconnect=False,
        )
        try:
            subject = f"facts.audit.plant-a.all.{user}"
            return (await client.jetstream().publish(subject, payload(message_id), timeout=10)).seq
        finally:
            await client.close()

    return await as_client(produce)


async def curl(side: PlantSide, token: str, body: object, *options: str, port: int = 0) -> tuple[int, dict[str, Any]]:
    """AppendFact with curl: its exit code, and the answer with its HTTP status."""
    command = [
        "curl", "--silent", "--show-error", "--max-time", "10", "--cacert", str(side.ca), *options,
        "--write-out", "\n%{http_code}", "--header", "Content-Type: application/json",
        "--header", f"Authorization: Bearer {token}", "--data", json.dumps(body),
        f"https://{HOST}:{port or side.https}/{APPEND}",
    ]  # fmt: skip
    outcome = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    text, _, status = outcome.stdout.decode().rpartition("\n")
    return outcome.returncode, {**(json.loads(text) if text.startswith("{") else {}), "status": int(status or 0)}


def fact(message_id: str, category: str = "audit") -> dict[str, Any]:
    """A request with one fact."""
    return {"facts": [{"category": category, **document(message_id)}]}


def handshake(port: int, context: ssl.SSLContext) -> x509.Certificate:
    """A TLS handshake with nats-facts; the certificate it shows. Raises what ssl raises."""
    import socket

    with socket.create_connection((HOST, port), timeout=5) as plain:
        greeting = plain.recv(65536)
        assert greeting.startswith(b"INFO ")
        assert b'"tls_required":true' in greeting
        with context.wrap_socket(plain, server_hostname=HOST) as secured:
            secured.sendall(b"PING\r\n")
            return x509.load_der_x509_certificate(secured.getpeercert(True) or b"")


async def test_the_whole_zone_works_behind_tls(tmp_path: Path) -> None:
    """Agent and producers alike speak TLS to nats-facts; through three restarts of everything, without a boundary."""
    side = plant_side(tmp_path)
    for round_number in range(3):
        async with running(side), running_zone(side.environment) as zone:
            assert await published(side, f"tls-{round_number}") == round_number + 1
            assert zone.stores[AUDIT].end.offset == round_number + 1
    soon = datetime.now(UTC) + timedelta(days=30)
    for name in ("agent", "sys", "sensors"):
        assert "exp" not in claims_of(UserCredentials.load(side.user(name).path).jwt)
    certificate = side.authority.server_certificate()
    assert certificate is not None
    assert certificate.not_valid_after_utc > soon


async def test_the_local_ca_is_taken_from_a_handshake_as_documented(tmp_path: Path, root: Path) -> None:
    """The command of docs/flash.md: nobody can fetch a file from a box of the product."""
    text = (root / "docs/flash.md").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("$ openssl s_client")).removeprefix("$ ")
    side = plant_side(tmp_path)
    command = line.replace("192.168.10.5:8443", f"{HOST}:{side.https}").replace("> ca.pem", f"> {tmp_path}/ca.pem")
    async with running(side), running_zone(side.environment):
        await trio.run_process(["sh", "-c", command], capture_stderr=True)
        assert (tmp_path / "ca.pem").read_text().split() == side.ca.read_text().split()


async def test_nothing_but_tls_1_3_of_the_local_ca_is_spoken(tmp_path: Path) -> None:
    """Plain text is refused by the broker, an older TLS too; another CA, or another name, by the client."""
    side = plant_side(tmp_path)
    other = LocalKeys.open(tmp_path / "other", PLANT).authority()
    async with running(side):
        good = client_tls(side.ca)
        assert (await trio.to_thread.run_sync(handshake, side.port, good)).issuer == side.authority.certificate.subject
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(side.ca)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            await trio.to_thread.run_sync(handshake, side.port, old)
        with pytest.raises(ssl.SSLCertVerificationError):
            await trio.to_thread.run_sync(handshake, side.port, client_tls(other.folder / "ca.pem"))

        async def plain() -> None:
            login = client_options(side.user("sensors"))
            with pytest.raises((nats.errors.Error, ssl.SSLError, OSError)):
                await nats.connect(f"nats://{HOST}:{side.port}", allow_reconnect=False, connect_timeout=2, **login)

        await as_client(plain)
        assert (await trio.to_thread.run_sync(speak_plainly, side.port)) != b"PONG"
    side.authority.rotate_server(["elsewhere.example"], datetime.now(UTC))
    async with running(side):
        with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
            await trio.to_thread.run_sync(handshake, side.port, good)


def speak_plainly(port: int) -> bytes:
    """What a broker with TLS answers to CONNECT and PING without it."""
    import socket

    with socket.create_connection((HOST, port), timeout=5) as plain:
        plain.recv(65536)
        plain.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        try:
            return plain.recv(4096)[:4]
        except OSError:
            return b""


async def test_our_clients_never_fall_back_to_plain_text(tmp_path: Path) -> None:
    """Whoever answers without TLS, or speaks before the handshake, learns nothing and is not believed."""
    side = plant_side(tmp_path)
    heard = bytearray()

    async def speak(stream: trio.SocketStream) -> None:
        info = b'INFO {"version":"2.15.1","max_payload":1048576,"headers":true,"nonce":"n"}\r\n'
        await stream.send_all(info + b"PONG\r\nMSG x 1 2\r\nhi\r\n")
        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some():
                heard.extend(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, speak, 0)
        port = listeners[0].socket.getsockname()[1]
        wire = NatsWire(HOST, port, side.user("agent"), name="test", tls=client_tls(side.ca))
        nursery.start_soon(wire.run)
        with trio.fail_after(10):
            while len(heard) < 100:  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.01)
        await trio.sleep(0.2)
        assert not wire.connected
        assert b"CONNECT" not in heard
        assert UserCredentials.load(side.user("agent").path).jwt.encode() not in heard
        nursery.cancel_scope.cancel()


async def test_a_new_certificate_drops_nobody(tmp_path: Path) -> None:
    """Of the broker by SIGHUP, of the intake by itself; whoever is connected stays, whoever comes sees the new one."""
    side = plant_side(tmp_path)
    async with (
        running(side) as broker,
        running_zone(side.environment) as zone,
        trio.open_nursery() as nursery,
    ):
        context = client_tls(side.ca)
        wire = NatsWire(HOST, side.port, side.user("agent"), name="test", tls=context)
        nursery.start_soon(wire.run)
        await wire.wait_connected()
        async with kept_alive(side.https, context) as ask:
            assert await ask() == 401
            before = await trio.to_thread.run_sync(handshake, side.port, context)
            new = side.authority.rotate_server([ADDRESS], datetime.now(UTC))
            broker.reload()
            await trio.sleep(0.5)
            assert await trio.to_thread.run_sync(handshake, side.port, context) == new != before
            assert await trio.to_thread.run_sync(shown, side.https, context) == new
            assert await ask() == 401  # on the connection of before
        (status,) = [one for one in zone.status().certificates if one.name == "plant side"]
        assert (status.kind, status.alarm) == ("local", "")
        assert status.ends_at_unix_ms == new.not_valid_after_utc.timestamp() * 1000
        assert (wire.connected, wire.connects) == (True, 1)
        assert await published(side, "after") == 1
        nursery.cancel_scope.cancel()


def shown(port: int, context: ssl.SSLContext) -> x509.Certificate:
    """The certificate that the intake shows."""
    import socket

    with (
        socket.create_connection((HOST, port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        return x509.load_der_x509_certificate(secured.getpeercert(True) or b"")


@asynccontextmanager
async def kept_alive(port: int, context: ssl.SSLContext) -> AsyncIterator[Callable[[], Any]]:
    """One HTTP/1.1 connection on which is asked again and again, without a token; each answer's status."""
    stream = await trio.open_ssl_over_tcp_stream(HOST, port, ssl_context=context)
    async with stream:

        async def ask() -> int:
            head = f"POST /{APPEND} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
            await stream.send_all(head.encode() + b"\r\n{}")
            answer = b""
            with trio.fail_after(5):
                while b"}" not in answer:
                    piece = bytes(await stream.receive_some())
                    assert piece
                    answer += piece
            return int(answer.split()[1])

        yield ask


async def test_https_with_curl(tmp_path: Path, find_tool: Callable[[str], str]) -> None:
    """Each token for its own producer and categories, over both versions of HTTP; and nothing without TLS 1.3."""
    find_tool("curl")
    side = plant_side(tmp_path)
    limited = side.keys.new(ProducerId("press-4"), Role.PRODUCER, frozenset({Category("telemetry")}))
    assert limited.token is not None
    sensors = side.environment.token(PLANT, "sensors")
    async with running(side), running_zone(side.environment) as zone:
        for number, version in enumerate(("--http1.1", "--http2")):
            code, answer = await curl(side, sensors, fact(f"curl-{number}"), version)
            assert (code, answer["results"][0]["outcome"]) == (0, "APPEND_OUTCOME_STORED")
        assert zone.stores[AUDIT].end.offset == 2
        _, answer = await curl(side, limited.token, fact("limited"))
        assert "category_denied" in json.dumps(answer), answer
        _, answer = await curl(side, limited.token, fact("limited", "telemetry"))
        assert answer["results"][0]["outcome"] == "APPEND_OUTCOME_STORED"
        for token in ("x", "nonsense", limited.token + "x"):
            code, answer = await curl(side, token, fact("nobody"))
            assert (code, answer["status"]) == (0, 401), answer
        assert (await curl(side, sensors, fact("old"), "--tls-max", "1.2"))[0] == 35  # the handshake failed
        other = LocalKeys.open(tmp_path / "other", PLANT).authority().folder / "ca.pem"
        assert (await curl(side, sensors, fact("other"), "--cacert", str(other)))[0] == 60  # not our CA
        plain = await trio.run_process(
            ["curl", "--silent", "--max-time", "5", f"http://{HOST}:{side.https}/"], capture_stdout=True, check=False
        )
        assert plain.returncode != 0
        side.keys.revoke(ProducerId("press-4"))
        assert (await curl(side, limited.token, fact("revoked", "telemetry")))[1]["status"] == 401
        assert (await curl(side, sensors, fact("still")))[1]["status"] == 200


async def test_local_work_does_not_wait_for_the_plant_interface(tmp_path: Path) -> None:
    """An address that is not there yet is a problem in the status; the listener on loopback serves meanwhile."""
    side = plant_side(tmp_path)
    path = side.environment.layout.zone(PLANT).node_config
    path.write_text(path.read_text().replace(f'[plant]\nhost = "{HOST}"', '[plant]\nhost = "192.0.2.5"'))
    async with running(side), running_zone(side.environment) as zone:
        with trio.fail_after(5):
            while "plant interface" not in {problem.where for problem in zone.status().problems}:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert zone.status().ready
        assert await published(side, "local") == 1


def test_nothing_local_knows_the_boundary() -> None:
    """Neither a TPM nor the keeper nor the hub is so much as loaded where local keys are used."""
    modules = ["keys.local.store", "keys.local.authority", "brokers.facts", "node.local", "node.secrets", "peer.plant"]
    program = "import sys\n" + "".join(f"import appliance.{module}\n" for module in modules)
    program += "print(*sorted(sys.modules), sep='\\n')"
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = outcome.stdout.split()
    assert "appliance.keys.local.store" in loaded
    for forbidden in (
        "tpm2_pytss",
        "appliance.keys.tpm.device",
        "appliance.keys.keeper",
        "appliance.hub",
        "appliance.agent",
    ):
        assert not any(name == forbidden or name.startswith(f"{forbidden}.") for name in loaded), forbidden
