# SPDX-License-Identifier: Apache-2.0
"""Clients that are not ours: the official Connect client and curl, against both servers."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from connectrpc.client import ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from google.protobuf.json_format import ParseDict
from pyqwest import HTTPVersion, SyncClient, SyncHTTPTransport

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ProducerId
from appliance.boundary.pages import FetchRequest, Page, Position
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact, Producer
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.peer import codec
from appliance.peer.audit import AuditRecord
from appliance.peer.server import ProducerServerConfig, serve_producers
from appliance.peer.tokens import Grant, TokenTable
from tests.contracts.peer import AUDIT, HEAD, PLANT, RecordingService, make_page, make_receipt
from tests.peer_world import LOOPBACK, World

TOKEN = "token-of-press-4"
SERVICE = "bsfg.v1.BoundaryService"
PRESS = Producer(ProducerId("press-4"))
FACT = {
    "category": "audit",
    "envelope": {"message_id": "m-1", "from_zone": "plant-a-bsfg", "to_zone": "all", "produced_at_unix_ms": 1},
    "fact": {"subject": "order:7", "predicate": "pressed", "object_json": {"n": 3}},
}

append_fact = MethodInfo(
    name="AppendFact",
    service_name=SERVICE,
    input=pb.AppendFactRequest,
    output=pb.AppendFactResponse,
    idempotency_level=IdempotencyLevel.UNKNOWN,
    stream_type=StreamType.UNARY,
)
fetch_facts = MethodInfo(
    name="FetchFacts",
    service_name=SERVICE,
    input=pb.FetchFactsRequest,
    output=pb.FetchFactsResponse,
    idempotency_level=IdempotencyLevel.UNKNOWN,
    stream_type=StreamType.UNARY,
)
confirm_receipt = MethodInfo(
    name="ConfirmReceipt",
    service_name=SERVICE,
    input=pb.ConfirmReceiptRequest,
    output=pb.ConfirmReceiptResponse,
    idempotency_level=IdempotencyLevel.UNKNOWN,
    stream_type=StreamType.UNARY,
)


@dataclass
class RecordingIntake:
    """Notes what producers append, and stores everything."""

    calls: list[tuple[Producer, list[ProducedFact]]] = field(default_factory=list)

    async def append_facts(self, producer: Producer, facts: Sequence[ProducedFact]) -> list[AppendResult]:
        """Note and answer."""
        await trio.lowlevel.checkpoint()
        self.calls.append((producer, list(facts)))
        return [AppendResult(AppendOutcome.STORED, offset) for offset, _ in enumerate(facts, 1)]


@dataclass
class Producers:
    """A server for producers, and what it saw."""

    intake: RecordingIntake = field(default_factory=RecordingIntake)
    audit: list[AuditRecord] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{LOOPBACK}:{self.port}"


@pytest.fixture
async def producers(nursery: trio.Nursery) -> Producers:
    """A running server."""
    made = Producers()
    table = TokenTable({hashlib.sha256(TOKEN.encode()).digest(): Grant(PRESS)})
    config = ProducerServerConfig(LOOPBACK, 0, PLANT, table, audit=made.audit.append)
    made.port = await nursery.start(serve_producers, made.intake, config)
    return made


@pytest.fixture
def world(tmp_path: Path) -> World:
    """PLANT and HUB."""
    return World.make(tmp_path)


@contextmanager
def official(url: str, transport: SyncHTTPTransport, **options: Any) -> Iterator[ConnectClientSync]:
    """The official client."""
    options = {"codec": google_protobuf_binary_codec(), **options}
    with transport, ConnectClientSync(url, http_client=SyncClient(transport), timeout_ms=10_000, **options) as client:
        yield client


def call(url: str, transport: SyncHTTPTransport, method: Any, request: Any, **options: Any) -> Any:
    """One call by the official client."""
    headers = options.pop("headers", None)
    with official(url, transport, **options) as client:
        return client.execute_unary(request=request, method=method, headers=headers)


def peer_transport(world: World) -> SyncHTTPTransport:
    """The official client's transport, as PLANT."""
    return SyncHTTPTransport(
        tls_ca_cert=world.pki.hub_file.read_bytes(),
        tls_key=world.plant.key.read_bytes(),
        tls_cert=world.plant.chain.read_bytes(),
        dns_overrides={"enterprise-bsfg": [LOOPBACK]},
        enable_otel=False,
    )


async def in_thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run what blocks."""
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(partial(function, *arguments, **options))


CODECS = pytest.mark.parametrize(
    "make_codec", [google_protobuf_binary_codec, google_protobuf_json_codec], ids=["proto", "json"]
)


# -- the official client as a peer -------------------------------------------------------------------------------------


@CODECS
async def test_the_official_client_is_a_peer(
    world: World, nursery: trio.Nursery, make_codec: Callable[[], Any]
) -> None:
    """All three calls over mutual TLS, in both codecs, compressed as it likes to."""
    service = RecordingService()
    service.page = make_page(1000, size=1000)
    url = f"https://enterprise-bsfg:{await world.serve(nursery, service)}"
    ask = partial(in_thread, call, url, codec=make_codec())
    answer = await ask(peer_transport(world), append_fact, codec.append_to_proto(make_page(1000, size=1000), None))
    assert codec.page_answer_from_proto(answer) == service.answer
    request = codec.fetch_to_proto(PLANT, FetchRequest(AUDIT))
    fetched = await ask(peer_transport(world), fetch_facts, request)
    assert codec.page_from_proto(fetched.page) == service.page
    receipt = pb.ConfirmReceiptRequest(consumer=PLANT, receipt=codec.receipt_to_proto(make_receipt()))
    confirmed = await ask(peer_transport(world), confirm_receipt, receipt)
    assert codec.signature_from_proto(confirmed.countersignature) == service.signature
    assert [(name, zone) for name, zone, _ in service.calls] == [
        ("append", PLANT),
        ("fetch", PLANT),
        ("confirm", PLANT),
    ]


async def test_the_official_client_reads_our_errors(world: World, nursery: trio.Nursery) -> None:
    """Code, message and the typed detail."""
    service = RecordingService()
    url = f"https://enterprise-bsfg:{await world.serve(nursery, service)}"
    service.answer = RefusedError(Reason.BAD_RECEIPT, "the detail")
    with pytest.raises(ConnectError) as caught:
        await in_thread(call, url, peer_transport(world), append_fact, codec.append_to_proto(make_page(), None))
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert "the detail" in caught.value.message
    (detail,) = caught.value.details
    info = pb.ErrorInfo.FromString(detail.message_bytes)
    assert (detail.type_name, info.reason, info.detail) == ("bsfg.v1.ErrorInfo", "bad_receipt", "the detail")
    request = codec.fetch_to_proto("plant-b", FetchRequest(AUDIT))
    with pytest.raises(ConnectError) as caught:
        await in_thread(call, url, peer_transport(world), fetch_facts, request)
    assert "plant-b" in caught.value.message


async def test_the_official_clients_patience_is_kept(world: World, nursery: trio.Nursery) -> None:
    """Its deadline reaches the long poll."""
    service = RecordingService()

    async def wait(_request: FetchRequest) -> Page:
        await trio.sleep_forever()
        raise AssertionError

    service.page = wait
    url = f"https://enterprise-bsfg:{await world.serve(nursery, service)}"

    def impatient() -> None:
        with official(url, peer_transport(world)) as client:
            request = codec.fetch_to_proto(PLANT, FetchRequest(AUDIT, wait_ms=20_000))
            client.execute_unary(request=request, method=fetch_facts, timeout_ms=300)

    with pytest.raises(ConnectError) as caught:
        await in_thread(impatient)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    with trio.fail_after(2):
        while not world.audit:  # noqa: ASYNC110 - the server's task has no event for us
            await trio.sleep(0.01)
    assert world.audit[0].outcome in ("peer_timeout", "cancelled")
    assert service.cancelled == 1


# -- the official client as a producer ---------------------------------------------------------------------------------


@CODECS
@pytest.mark.parametrize("version", [HTTPVersion.HTTP1, HTTPVersion.HTTP2], ids=["http/1.1", "h2c"])
async def test_the_official_client_is_a_producer(
    producers: Producers, make_codec: Callable[[], Any], version: HTTPVersion
) -> None:
    """On loopback without TLS, in both codecs and both versions of HTTP."""
    transport = SyncHTTPTransport(http_version=version, enable_otel=False)
    request = ParseDict({"facts": [FACT] * 100}, pb.AppendFactRequest())
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = await in_thread(call, producers.url, transport, append_fact, request, codec=make_codec(), headers=headers)
    assert [result.offset for result in answer.results] == list(range(1, 101))
    ((producer, facts),) = producers.intake.calls
    assert producer == PRESS
    assert {fact.subject for fact in facts} == {"facts.audit.plant-a.all.press-4"}
    assert json.loads(facts[0].payload) == {"envelope": FACT["envelope"], "fact": FACT["fact"]}
    assert [(record.caller, record.facts, record.outcome) for record in producers.audit] == [("press-4", 100, "ok")]


async def test_producers_call_nothing_else(producers: Producers) -> None:
    """No pages, no fetching, no stranger."""
    headers = {"authorization": f"Bearer {TOKEN}"}

    async def refused(method: Any, request: Any, headers: dict[str, str]) -> Code:
        transport = SyncHTTPTransport(enable_otel=False)
        with pytest.raises(ConnectError) as caught:
            await in_thread(call, producers.url, transport, method, request, headers=headers)
        return caught.value.code

    page = codec.append_to_proto(make_page(), None)
    good = ParseDict({"facts": [FACT]}, pb.AppendFactRequest())
    assert await refused(append_fact, page, headers) == Code.INVALID_ARGUMENT
    assert await refused(fetch_facts, pb.FetchFactsRequest(), headers) == Code.UNIMPLEMENTED
    assert await refused(confirm_receipt, pb.ConfirmReceiptRequest(), headers) == Code.UNIMPLEMENTED
    assert await refused(append_fact, good, {}) == Code.UNAUTHENTICATED
    assert await refused(append_fact, good, {"authorization": "Bearer guess"}) == Code.UNAUTHENTICATED
    assert producers.intake.calls == []


async def test_peers_append_no_facts(world: World, nursery: trio.Nursery) -> None:
    """A producer's request at the peers' door."""
    service = RecordingService()
    url = f"https://enterprise-bsfg:{await world.serve(nursery, service)}"
    good = ParseDict({"facts": [FACT]}, pb.AppendFactRequest())
    with pytest.raises(ConnectError) as caught:
        await in_thread(call, url, peer_transport(world), append_fact, good)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert service.calls == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost", "example.org", ""])  # noqa: S104
async def test_producers_are_served_on_loopback_only(host: str) -> None:
    """Not by name either: a name may resolve to anything."""
    config = ProducerServerConfig(host, 0, PLANT, TokenTable({}))
    with pytest.raises(RefusedError) as caught:
        await serve_producers(RecordingIntake(), config)
    assert caught.value.reason == Reason.BAD_INPUT


# -- curl --------------------------------------------------------------------------------------------------------------


def curl(*arguments: str | Path, data: str = "") -> tuple[int, Any]:
    """HTTP status and JSON answer of a request by curl."""
    command = shutil.which("curl")
    if command is None:
        pytest.skip("curl is not installed")
    outcome = subprocess.run(
        [
            command,
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--write-out",
            "\n%{http_code}",
            "--data-binary",
            "@-",
        ]
        + [str(argument) for argument in arguments],
        input=data.encode(),
        capture_output=True,
        check=True,
    )
    body, _, status = outcome.stdout.rpartition(b"\n")
    return int(status), json.loads(body) if body else None


JSON_TYPE = "content-type: application/json"


@pytest.mark.parametrize("version", ["--http1.1", "--http2", "--http2-prior-knowledge"])
async def test_curl_is_a_producer(producers: Producers, version: str) -> None:
    """With JSON, as the documentation shows; long bodies too."""
    url = f"{producers.url}/{SERVICE}/AppendFact"
    ask = partial(in_thread, curl, version, "-H", JSON_TYPE, "-H", f"authorization: Bearer {TOKEN}", url)
    status, answer = await ask(data=json.dumps({"facts": [FACT]}))
    assert (status, answer) == (200, {"results": [{"outcome": "APPEND_OUTCOME_STORED", "offset": "1"}]})
    long = json.loads(json.dumps(FACT))
    long["fact"]["object_json"]["text"] = "x" * 200_000
    status, answer = await ask(data=json.dumps({"facts": [long] * 10}))
    assert (status, len(answer["results"])) == (200, 10)
    status, answer = await ask(data=json.dumps({"facts": [long] * 40}))
    assert (status, answer["details"][0]["debug"]["reason"]) == (400, "too_large")


async def test_curl_reads_why(producers: Producers) -> None:
    """Reason and hint stand in the answer."""
    url = f"{producers.url}/{SERVICE}/AppendFact"
    status, answer = await in_thread(curl, "-H", JSON_TYPE, url, data="{}")
    assert (status, answer["code"]) == (401, "unauthenticated")
    assert answer["details"][0]["debug"]["hint"]
    authorized = ("-H", f"authorization: Bearer {TOKEN}")
    status, answer = await in_thread(curl, "-H", JSON_TYPE, *authorized, url, data='{"facts": [{"categry": "x"}]}')
    assert status == 400
    assert "categry" in answer["message"]
    assert await in_thread(curl, *authorized, url) == (415, None)  # curl's own form type, as a web page's form sends
    assert await in_thread(curl, "-H", "content-type: text/plain", *authorized, url) == (415, None)
    assert await in_thread(curl, "-X", "OPTIONS", "-H", JSON_TYPE, url) == (405, None)
    assert await in_thread(curl, "-H", JSON_TYPE, f"{producers.url}/favicon.ico") == (404, None)


async def test_curl_is_a_peer(world: World, nursery: trio.Nursery) -> None:
    """With certificate and key, over HTTP/2 because that is what the server speaks."""
    service = RecordingService()
    service.page = make_page(2)
    port = await world.serve(nursery, service)
    secure: list[str | Path] = ["--cert", world.plant.chain, "--key", world.plant.key, "--cacert", world.pki.hub_file]
    secure += ["--resolve", f"enterprise-bsfg:{port}:{LOOPBACK}", "-H", JSON_TYPE]
    url = f"https://enterprise-bsfg:{port}/{SERVICE}"
    request = {"consumer": "plant-a", "category": "audit", "max_facts": 10}
    status, answer = await in_thread(curl, *secure, f"{url}/FetchFacts", data=json.dumps(request))
    assert status == 200
    assert [fact["offset"] for fact in answer["page"]["facts"]] == ["1", "2"]
    assert answer["page"]["through"] == {"offset": "2", "head": base64.b64encode(HEAD).decode()}
    assert service.calls[0][2] == FetchRequest(AUDIT, b"", Position(0), 10)
    status, answer = await in_thread(curl, *secure, f"{url}/Nothing", data="{}")
    assert (status, answer["code"]) == (501, "unimplemented")
    with pytest.raises(subprocess.CalledProcessError):
        await in_thread(curl, "--cacert", world.pki.hub_file, *secure[6:], f"{url}/FetchFacts", data="{}")
