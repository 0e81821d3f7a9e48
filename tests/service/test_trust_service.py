# SPDX-License-Identifier: Apache-2.0
"""TrustService over real TLS on loopback: our client, curl, and callers who mean no good. The TPM is simulated here."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.hub.trust import AttestationBook, AttestationPolicy, TrustHooks, TrustService
from appliance.keys.attestation.firmware_log import FIRMWARE_LOG_BYTES
from appliance.keys.certificates import (
    certificate_der,
    certificate_pem,
    new_device_ca,
    new_hub_ca,
    new_session,
)
from appliance.keys.time_token import HubTrust, TimeToken
from appliance.peer.audit import AuditRecord
from appliance.peer.dial import HttpProxy
from appliance.peer.trust_client import TrustClient, trust_client_context
from appliance.peer.trust_server import (
    TRUST_CONNECTIONS,
    AddressLimits,
    TrustServerConfig,
    serve_trust,
    trust_server_context,
)
from tests.attesting import PLANT, SimulatedTpm, boot, measurements, phases
from tests.pki import Pki
from tests.proxies import ConnectProxy

HUB = ZoneId("enterprise")
LOOPBACK = "127.0.0.1"
NONCE = bytes(range(16))
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass
class Hub:
    """A hub's trust service on loopback, with software keys.

    :param began: when its certificates were made; the session lives ten minutes.
    """

    folder: Path
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    limits: AddressLimits = field(default_factory=AddressLimits)
    enrol_s: float = 0.0

    def __post_init__(self) -> None:
        self.tpm = SimulatedTpm()
        self.firmware_log = boot(self.tpm)
        self.runtime_log = phases(self.tpm, "enter-initrd", "ready")
        self.ca = new_hub_ca(self.began)
        self.boundary = new_device_ca(self.ca, HUB, self.began)
        self.ca_file, self.session = self.folder / "hub-ca.pem", self.folder / "session.pem"
        self.ca_file.write_bytes(certificate_pem(self.ca.certificate))
        self.session.write_bytes(new_session(self.boundary, HUB, self.began).pem())
        self.book = AttestationBook(AttestationPolicy.REQUIRED)
        self.records: list[AuditRecord] = []
        published, enrolled = measurements(self.tpm), self.tpm.enrolled()
        hooks = TrustHooks(self.sign, self.enrol, {PLANT: enrolled}.get, lambda: published)
        self.service = TrustService(HUB, hooks, self.book)
        self.port = 0

    async def sign(self, statement: bytes) -> Signature:
        """The hub's boundary key."""
        value = self.boundary.key.sign(statement, ec.ECDSA(hashes.SHA256()))
        return Signature(value, certificate_der(self.boundary.certificate))

    async def enrol(self, document: bytes) -> bytes:
        """The enrolment dialogue's place: may take long, refuse, or fail."""
        await trio.sleep(self.enrol_s)
        if document == b"refuse":
            raise DeniedError(Reason.BAD_VOUCHER, "of another zone")
        if document == b"fail":
            raise ZeroDivisionError
        return document[::-1]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[TrustClient]:
        """The service, and a client of it."""
        async with trio.open_nursery() as nursery:
            tls = partial(trust_server_context, self.session)
            quick = replace(TRUST_CONNECTIONS, grace_s=0.2, linger_s=0.2)
            config = TrustServerConfig(LOOPBACK, 0, tls, self.records.append, connections=quick, addresses=self.limits)
            self.port = await nursery.start(serve_trust, self.service, config)
            yield self.client()
            nursery.cancel_scope.cancel()

    def client(self, hub: ZoneId = HUB, ca_file: Path | None = None, proxy: HttpProxy | None = None) -> TrustClient:
        """A box that trusts this CA. :param proxy: asked for the hub by a name that only it knows."""
        tls = partial(trust_client_context, ca_file or self.ca_file)
        host = LOOPBACK if proxy is None else "hub.example.com"
        return TrustClient(hub, host, self.port, tls, connect_s=5, call_s=10, proxy=proxy)

    async def curl(self, method: str, body: object, *options: str) -> tuple[int, object]:
        """HTTP status and JSON answer."""
        name = identity_of(HUB)
        command = ["curl", "--silent", "--http2", "--cacert", str(self.ca_file), "--resolve"]
        command += [f"{name}:{self.port}:{LOOPBACK}", "--header", "Content-Type: application/json"]
        command += ["--data-binary", "@-", "--write-out", "\n%{http_code}", *options]
        command += [f"https://{name}:{self.port}/bsfg.v1.TrustService/{method}"]
        text = body if isinstance(body, str) else json.dumps(body)
        done = await trio.run_process(command, stdin=text.encode(), capture_stdout=True, check=False)
        answer, _, status = done.stdout.decode().rpartition("\n")
        return int(status), json.loads(answer) if answer else None


async def test_the_hub_ca_may_be_an_intermediate_of_a_sites_pki(tmp_path: Path) -> None:
    """The box trusts it alone; what else the site's root has signed is foreign to it."""
    pki = Pki(tmp_path / "site")
    sibling = pki.under_site()
    hub = Hub(tmp_path)
    for each, trusted in ((pki, True), (sibling, False)):
        hub.session.write_bytes(each.zone(HUB)[1].session.read_bytes() + sibling.hub_file.read_bytes())
        hub.ca_file.write_bytes(pki.hub_file.read_bytes())
        async with hub.serving() as client:
            if trusted:
                assert await client.enrol(b"abc") == b"cba"
            else:
                with pytest.raises(DeniedError, match="bad_certificate"):
                    await client.enrol(b"abc")


async def test_a_box_without_a_clock_gets_the_time_enrols_and_attests(tmp_path: Path) -> None:
    """The hub's certificates ended 25 years ago by this machine's clock, and the client does not mind."""
    hub = Hub(tmp_path, began=LONG_AGO)
    async with hub.serving() as client:
        before = time.time_ns() // 1_000_000
        token = TimeToken.parse(await client.get_time(NONCE))
        HubTrust(HUB, hub.ca.certificate, (certificate_der(hub.boundary.certificate),)).check(token)
        assert token.nonce == NONCE
        assert before <= token.unix_ms <= time.time_ns() // 1_000_000
        assert await client.enrol(b"abc") == b"cba"
        nonce = await client.begin_attestation(PLANT)
        evidence = hub.tpm.evidence(nonce, firmware_log=hub.firmware_log, runtime_log=hub.runtime_log)
        answer = await client.attest(PLANT, evidence.render())
        assert (answer.accepted, answer.findings, answer.valid_for_s) == (True, (), 900)
    assert [record.method for record in hub.records] == ["GetTime", "Enrol", "BeginAttestation", "Attest"]
    assert {record.caller for record in hub.records} == {LOOPBACK}


async def test_what_the_hub_refuses_arrives_with_its_reason(tmp_path: Path) -> None:
    """And of the class that says who must act; a finding is an answer, and no error."""
    hub = Hub(tmp_path)
    async with hub.serving() as client:
        for call, kind, reason in (
            (partial(client.enrol, b"refuse"), DeniedError, Reason.BAD_VOUCHER),
            (partial(client.enrol, b"fail"), UnavailableError, Reason.INTERNAL),
            (partial(client.get_time, b"short"), RefusedError, Reason.BAD_REQUEST),
            (partial(client.get_time, bytes(33)), RefusedError, Reason.BAD_REQUEST),
            (partial(client.begin_attestation, ZoneId("Not a zone")), RefusedError, Reason.BAD_NAME),
            (partial(client.begin_attestation, ZoneId("plant-z")), DeniedError, Reason.UNKNOWN_PEER),
            (partial(client.attest, PLANT, b"{}"), RefusedError, Reason.BAD_DOCUMENT),
            (partial(client.attest, PLANT, hub.tpm.evidence().render()), DeniedError, Reason.BAD_EVIDENCE),
        ):
            with pytest.raises(BsfgError) as refused:
                await call()
            assert isinstance(refused.value, kind)
            assert refused.value.reason is reason
        hub.tpm.extend(7, bytes(32))
        answer = await client.attest(PLANT, hub.tpm.evidence(await client.begin_attestation(PLANT)).render())
        assert not answer.accepted
        assert "PCR 7" in answer.findings[0]
    assert hub.records[-1].outcome == Reason.ATTESTATION_FAILED


async def test_the_longest_evidence_fits_and_nothing_longer(tmp_path: Path) -> None:
    """Two megabytes; a body beyond that is refused while it comes."""
    hub = Hub(tmp_path)
    async with hub.serving() as client:
        long = hub.tpm.evidence(await client.begin_attestation(PLANT), firmware_log=bytes(FIRMWARE_LOG_BYTES))
        answer = await client.attest(PLANT, replace(long, runtime_log=bytes(128 * 1024)).render())
        assert "cannot be read" in answer.findings[0]
        with pytest.raises(RefusedError, match="too_large"):
            await client.attest(PLANT, bytes(2 * 1024 * 1024))


async def test_somebody_else_cannot_answer_for_the_hub(tmp_path: Path) -> None:
    """Another CA, another zone of the same CA, no TLS 1.3: refused before anything is said."""
    (tmp_path / "foreign").mkdir()
    hub, foreign = Hub(tmp_path), Hub(tmp_path / "foreign")
    async with hub.serving(), foreign.serving():
        for client in (hub.client(ca_file=foreign.ca_file), hub.client(hub=ZoneId("plant-a"))):
            with pytest.raises(DeniedError) as refused:
                await client.get_time(NONCE)
            assert refused.value.reason is Reason.BAD_CERTIFICATE
        plant = new_device_ca(hub.ca, PLANT, hub.began)
        hub.session.write_bytes(new_session(plant, PLANT, hub.began).pem())
        with pytest.raises(DeniedError) as refused:
            await hub.client().get_time(NONCE)
        assert refused.value.reason is Reason.BAD_CERTIFICATE
        hub.session.write_bytes(new_session(hub.boundary, HUB, hub.began).pem())
        await hub.client().get_time(NONCE)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(hub.ca_file)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        stream = trio.SSLStream(await trio.open_tcp_stream(LOOPBACK, hub.port), old, server_hostname=identity_of(HUB))
        with pytest.raises(trio.BrokenResourceError) as broken:
            await stream.do_handshake()
        assert isinstance(broken.value.__cause__, ssl.SSLError)
        await trio.aclose_forcefully(stream)
    assert [record.method for record in hub.records] == ["GetTime"]


async def test_a_hub_that_is_not_there_or_does_not_answer(tmp_path: Path) -> None:
    """``link_down``, within the client's patience."""
    hub = Hub(tmp_path)
    listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
    hub.port = listeners[0].socket.getsockname()[1]
    with pytest.raises(UnavailableError, match="link_down"):
        await replace(hub.client(), connect_s=0.3).get_time(NONCE)
    await listeners[0].aclose()
    with pytest.raises(UnavailableError, match="link_down"):
        await hub.client().get_time(NONCE)
    hub.enrol_s = 60
    async with hub.serving() as client:
        with pytest.raises(UnavailableError, match="peer_timeout"):
            await replace(client, call_s=0.3).enrol(b"x")
    with pytest.raises(DeniedError, match="bad_certificate"):
        await hub.client(ca_file=tmp_path / "none").get_time(NONCE)


async def test_curl_can_ask(tmp_path: Path) -> None:
    """In JSON, with the documents in base64; refusals say what and why."""
    hub = Hub(tmp_path)
    async with hub.serving():
        status, answer = await hub.curl("GetTime", {"nonce": base64.b64encode(NONCE).decode()})
        assert status == 200
        assert isinstance(answer, dict)
        token = TimeToken.parse(base64.b64decode(answer["token"]))
        HubTrust(HUB, hub.ca.certificate).check(token)
        status, answer = await hub.curl("BeginAttestation", {"zone": "plant-a"})
        assert isinstance(answer, dict)
        nonce = base64.b64decode(answer["nonce"])
        evidence = base64.b64encode(hub.tpm.evidence(nonce).render()).decode()
        status, answer = await hub.curl("Attest", {"zone": "plant-a", "evidence": evidence})
        assert (status, answer) == (200, {"accepted": True, "validForS": 900})
        status, answer = await hub.curl("Attest", {"zone": "plant-a", "evidence": evidence})
        assert status == 403
        assert isinstance(answer, dict)
        assert answer["details"][0]["debug"]["reason"] == "bad_evidence"


async def test_what_is_no_call_is_refused(tmp_path: Path) -> None:
    """Other services, methods, types and shapes; HTTP/1.1 is not spoken at all."""
    hub = Hub(tmp_path)
    async with hub.serving():
        for method, body, options, expected in (
            ("GetTimes", {}, (), 501),
            ("GetTime", "[]", (), 400),
            ("GetTime", {"nonce": "?"}, (), 400),
            ("GetTime", {"nonce": "AAAA", "more": 1}, (), 400),
            ("GetTime", '{"a":' * 5000, (), 400),
            ("GetTime", json.dumps({"nonce": [1] * 1000}), (), 400),
            ("GetTime", "{}", ("--header", "Content-Type: text/plain"), 415),
            ("../bsfg.v1.BoundaryService/FetchFacts", {}, (), 404),
            ("GetTime", {}, ("--request", "GET"), 405),
        ):
            status, _ = await hub.curl(method, body, *options)
            assert status == expected, (method, body)
        status, _ = await hub.curl("GetTime", {}, "--http1.1")
        assert status == 0


async def test_an_address_has_a_budget(tmp_path: Path) -> None:
    """Of connections and calls, at once and over time; afterwards it hears ``busy`` or nothing at all."""
    hub = Hub(tmp_path, limits=AddressLimits(burst=20, per_s=5))
    async with hub.serving() as client:
        outcomes: list[object] = []

        async def ask() -> None:
            try:
                await client.get_time(NONCE)
                outcomes.append("ok")
            except UnavailableError as error:
                outcomes.append(error.reason)

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask)
        assert 20 <= outcomes.count("ok") <= 24
        assert set(outcomes) <= {"ok", Reason.BUSY, Reason.LINK_DOWN}
        await trio.sleep(1)
        await client.get_time(NONCE)


async def test_an_address_has_a_number_of_connections(tmp_path: Path) -> None:
    """Those who only sit there keep their own address out, and only as long as they sit."""
    hub = Hub(tmp_path, limits=AddressLimits(connections=4))
    async with hub.serving() as client:
        idle = [await trio.open_tcp_stream(LOOPBACK, hub.port) for _ in range(4)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        with pytest.raises(UnavailableError, match="link_down"):
            await client.get_time(NONCE)
        for stream in idle:
            await stream.aclose()
        await _soon(lambda: client.get_time(NONCE))


async def _soon(call: Callable[[], object]) -> None:
    """Try until it works."""
    with trio.fail_after(5):
        while True:
            try:
                await call()  # type: ignore[misc]
                return
            except UnavailableError:
                await trio.sleep(0.05)


async def test_a_renewed_session_is_used_by_the_next_connection(tmp_path: Path) -> None:
    """The file is read for every one."""
    hub = Hub(tmp_path)
    async with hub.serving():
        serials = set()
        for _ in range(2):
            session = new_session(hub.boundary, HUB, hub.began)
            hub.session.write_bytes(session.pem())
            stream = trio.SSLStream(
                await trio.open_tcp_stream(LOOPBACK, hub.port),
                trust_client_context(hub.ca_file),
                server_hostname=identity_of(HUB),
            )
            await stream.do_handshake()
            assert stream.getpeercert(True) == certificate_der(session.certificate)
            serials.add(session.certificate.serial_number)
            await trio.aclose_forcefully(stream)
        assert len(serials) == 2


def test_openssl_agrees_that_dates_alone_are_not_checked(tmp_path: Path) -> None:
    """The same chain without the flag is refused for its dates, so the flag is what lets it pass."""
    hub = Hub(tmp_path, began=LONG_AGO)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(hub.ca_file), "-untrusted", str(hub.session)]
    refused = subprocess.run([*command, str(hub.session)], capture_output=True, text=True, check=False)
    assert "expired" in refused.stderr
    subprocess.run([*command, "-no_check_time", str(hub.session)], check=True, capture_output=True)


async def test_a_box_enrols_through_a_proxy(tmp_path: Path) -> None:
    """Which knows the hub by name; what it refuses is no fault of the hub."""
    hub, proxy = Hub(tmp_path), ConnectProxy()
    async with hub.serving(), trio.open_nursery() as nursery:
        through = hub.client(proxy=HttpProxy(LOOPBACK, await nursery.start(proxy.run)))
        assert await through.enrol(b"abc") == b"cba"
        proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
        with pytest.raises(UnavailableError) as caught:
            await through.enrol(b"abc")
        assert caught.value.reason is Reason.PROXY_REFUSED
        assert "wants a user and a password" in caught.value.detail
        assert proxy.asked == [f"hub.example.com:{hub.port}"] * 2
        nursery.cancel_scope.cancel()
