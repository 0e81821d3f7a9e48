# SPDX-License-Identifier: Apache-2.0
"""The Connect protocol, call by call, without a server: what is answered, what is bounded, what is recorded."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
from google.protobuf.message import Message

from appliance.boundary.errors import DeniedError, PositionError, RefusedError
from appliance.boundary.proto.bsfg.v1 import bsfg_pb2 as pb
from appliance.boundary.reasons import Reason
from appliance.peer.audit import AuditRecord
from appliance.peer.connect import Answer, Caller, ConnectApp, Method, Scope
from appliance.peer.limits import CallLimits

Handle = Callable[[str, Any], Awaitable[Answer]]

BODY = pb.FetchFactsRequest(consumer="plant-a", max_facts=3).SerializeToString()
LIMITS = CallLimits(body_bytes=1000, call_s=30, held_bytes=20_000, calls=12)


@dataclass
class Exchange:
    """One request and what came back."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    connection_ended: bool = False
    unread: int = 0
    """Pieces of the request that nobody took."""

    @property
    def error(self) -> dict[str, Any]:
        """The Connect error of the answer, with its details' text beside it."""
        document: dict[str, Any] = json.loads(self.body)
        return {"code": document["code"], **document["details"][0]["debug"]}


class Bench:
    """An application with one writing method and one long poll, its audit, and a way to call it."""

    def __init__(self, handle: Handle | None = None, limits: CallLimits = LIMITS) -> None:
        self.seen: list[tuple[str, Message]] = []
        self.audit: list[AuditRecord] = []
        self.stopping = trio.Event()
        methods: dict[str, Method[str]] = {
            "Write": Method(pb.FetchFactsRequest, handle or self._echo),
            "Wait": Method(pb.FetchFactsRequest, handle or self._echo, waits=True),
        }
        self._app = ConnectApp(
            methods, self._authenticate, limits=limits, audit=self.audit.append, stopping=self.stopping
        )

    async def _echo(self, caller: str, request: pb.FetchFactsRequest) -> Answer:
        self.seen.append((caller, request))
        await trio.lowlevel.checkpoint()
        return Answer(pb.FetchFactsRequest(consumer=caller, max_facts=request.max_facts), facts=5)

    def _authenticate(self, _scope: Scope, headers: Mapping[bytes, bytes]) -> Caller[str]:
        name = headers.get(b"x-name", b"somebody").decode()
        if name == "nobody":
            raise DeniedError(Reason.UNKNOWN_PEER, name)
        return Caller(name, name)

    async def call(
        self,
        path: str = "/bsfg.v1.BoundaryService/Write",
        body: bytes | list[bytes | float | None] = BODY,
        *,
        method: str = "POST",
        take_s: float = 0,
        **headers: str,
    ) -> Exchange:
        """Make a request.

        :param body: pieces; an empty one is its end, a number a pause in seconds, ``None`` the caller's disappearance.
        :param take_s: how long the caller takes to accept each piece of the answer.
        """
        pieces = list(body) if isinstance(body, list) else [body]
        if b"" not in pieces:
            pieces.append(b"")
        exchange = Exchange()
        names = {"content_type": "application/proto", **headers}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in names.items()],
            "state": {"end_connection": lambda: setattr(exchange, "connection_ended", True)},
        }

        async def receive() -> MutableMapping[str, Any]:
            while pieces:
                piece = pieces.pop(0)
                if isinstance(piece, bytes):
                    await trio.lowlevel.checkpoint()
                    return {"type": "http.request", "body": piece, "more_body": piece != b""}
                if piece is None:
                    return {"type": "http.disconnect"}
                await trio.sleep(piece)
            await trio.sleep_forever()
            raise AssertionError

        async def send(event: dict[str, Any]) -> None:
            await trio.sleep(0 if event["type"] == "http.response.start" else take_s)
            if event["type"] == "http.response.start":
                exchange.status, exchange.headers = event["status"], dict(event["headers"])
            else:
                exchange.body += event["body"]

        await self._app(scope, receive, send)
        exchange.unread = len(pieces)
        return exchange


# -- what is answered --------------------------------------------------------------------------------------------------


async def test_a_call_is_handled_in_both_codecs() -> None:
    """Binary and JSON, with or without parameters of the content type."""
    bench = Bench()
    answer = await bench.call()
    assert (answer.status, answer.headers[b"content-type"]) == (200, b"application/proto")
    assert pb.FetchFactsRequest.FromString(answer.body) == pb.FetchFactsRequest(consumer="somebody", max_facts=3)
    for content_type in ("application/json", "application/json; charset=utf-8"):
        answer = await bench.call(body=b'{"max_facts": 3}', content_type=content_type)
        assert (answer.status, answer.headers[b"content-type"]) == (200, b"application/json")
        assert json.loads(answer.body) == {"consumer": "somebody", "maxFacts": 3}


@pytest.mark.parametrize(
    ("change", "status", "header"),
    [
        ({"method": "GET"}, 405, (b"allow", b"POST")),
        ({"method": "OPTIONS"}, 405, (b"allow", b"POST")),
        ({"content_type": "text/plain"}, 415, (b"accept-post", b"application/proto, application/json")),
        ({"content_type": "application/grpc"}, 415, (b"accept-post", b"application/proto, application/json")),
        ({"content_type": ""}, 415, (b"accept-post", b"application/proto, application/json")),
        ({"path": "/"}, 404, (b"content-length", b"0")),
        ({"path": "/bsfg.v2.BoundaryService/Write"}, 404, (b"content-length", b"0")),
    ],
    ids=str,
)
async def test_what_is_no_call_gets_a_plain_answer(
    change: dict[str, str], status: int, header: tuple[bytes, bytes]
) -> None:
    """As the protocol says, and nothing is handled."""
    bench = Bench()
    arguments: dict[str, Any] = {**change}
    answer = await bench.call(**arguments)
    assert answer.status == status
    assert header in answer.headers.items()
    assert bench.seen == []


@pytest.mark.parametrize(
    ("change", "status", "code", "reason"),
    [
        ({"path": "/bsfg.v1.BoundaryService/Nothing"}, 501, "unimplemented", "unsupported"),
        ({"connect_protocol_version": "2"}, 400, "invalid_argument", "bad_request"),
        ({"connect_timeout_ms": "-1"}, 400, "invalid_argument", "bad_request"),
        ({"connect_timeout_ms": "12345678901"}, 400, "invalid_argument", "bad_request"),
        ({"content_encoding": "br"}, 501, "unimplemented", "unsupported"),
        ({"content_encoding": "gzip"}, 400, "invalid_argument", "bad_request"),  # and it is not
        ({"x_name": "nobody"}, 403, "permission_denied", "unknown_peer"),
        ({"body": b"\xff"}, 400, "invalid_argument", "bad_request"),
        ({"body": bytes(1001)}, 400, "invalid_argument", "too_large"),
        ({"body": [bytes(600), bytes(600)]}, 400, "invalid_argument", "too_large"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_refused_call_says_why(change: dict[str, Any], status: int, code: str, reason: str) -> None:
    """By status, code and reason; and it is recorded."""
    bench = Bench()
    answer = await bench.call(**change)
    assert (answer.status, answer.error["code"], answer.error["reason"]) == (status, code, reason)
    assert answer.headers[b"content-type"] == b"application/json"
    assert bench.seen == []
    (record,) = bench.audit
    assert (record.outcome, record.facts) == (reason, 0)


async def test_gzip_is_accepted() -> None:
    """The official client compresses unless told otherwise; what comes out is bounded."""
    bench = Bench()
    assert (await bench.call(body=gzip.compress(BODY), content_encoding="gzip")).status == 200
    answer = await bench.call(body=gzip.compress(bytes(1001)), content_encoding="gzip")
    assert answer.error["reason"] == "too_large"


async def test_a_handlers_error_carries_its_details() -> None:
    """Here the frontier."""

    async def handle(_caller: str, _request: Message) -> Answer:
        raise PositionError(Reason.OUT_OF_ORDER, "there", epoch=bytes(16), offset=41, head=bytes(32))

    answer = await Bench(handle).call()
    assert answer.error["frontier"]["offset"] == "41"


async def test_a_defect_tells_nothing_of_the_inside() -> None:
    """It is answered, recorded and logged."""

    async def handle(_caller: str, _request: Message) -> Answer:
        raise RuntimeError("secret")

    bench = Bench(handle)
    for path in ("Write", "Wait"):
        answer = await bench.call(f"/bsfg.v1.BoundaryService/{path}")
        assert (answer.status, answer.error["reason"]) == (500, "internal")
        assert b"secret" not in answer.body
    assert [record.outcome for record in bench.audit] == ["internal", "internal"]


async def test_websockets_are_closed() -> None:
    """The HTTP library offers them; nobody here does."""
    sent: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(event)

    bench = Bench()
    await bench._app({"type": "websocket"}, _nothing, send)
    assert sent == [{"type": "websocket.close"}]


async def _nothing() -> MutableMapping[str, Any]:
    await trio.sleep_forever()
    raise AssertionError


# -- what is recorded --------------------------------------------------------------------------------------------------


async def test_every_call_is_recorded() -> None:
    """Who, what, how it ended, how many facts, how long."""
    bench = Bench()
    await bench.call(x_name="plant-a")
    (record,) = bench.audit
    assert record == AuditRecord("plant-a", "Write", "ok", 5, record.ms)
    assert 0 < record.ms < 10_000


async def test_a_method_may_record_another_outcome() -> None:
    """A producer's refused facts are an answer, and yet no success."""

    async def handle(_caller: str, _request: Message) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(pb.AppendFactResponse(), 2, "conflicting_duplicate")

    bench = Bench(handle)
    assert (await bench.call()).status == 200
    assert bench.audit[0].outcome == "conflicting_duplicate"


# -- what is bounded ---------------------------------------------------------------------------------------------------


async def test_a_slow_body_is_given_up(autojump_clock: object) -> None:
    """Byte by byte for hours is too slow; a slow but honest line is not."""
    assert autojump_clock
    bench = Bench(limits=replace(LIMITS, body_bytes=1_000_000, held_bytes=10_000_000))
    before = trio.current_time()
    answer = await bench.call(body=[b"x", 9.0] * 1000)
    assert answer.error["reason"] == "peer_timeout"
    assert trio.current_time() - before < 60
    large = pb.FetchFactsRequest(consumer="x" * 500_000).SerializeToString()
    pieces: list[bytes | float | None] = []
    for start in range(0, len(large), 50_000):
        pieces += [large[start : start + 50_000], 10.0]  # 5000 bytes a second
    honest = await bench.call(body=pieces)
    assert honest.status == 200


async def test_a_body_that_never_comes_is_given_up(autojump_clock: object) -> None:
    """And one that never ends is not read to its end."""
    assert autojump_clock
    answer = await Bench().call(body=[3600.0])
    assert answer.error["reason"] == "peer_timeout"
    endless: list[bytes | float | None] = [bytes(500)] * 1000
    answer = await Bench().call(body=endless)
    assert answer.error["reason"] == "too_large"


async def test_a_caller_that_takes_no_answer_loses_its_connection(autojump_clock: object) -> None:
    """Its buffers would stay full for ever."""
    assert autojump_clock
    before = trio.current_time()
    answer = await Bench().call(take_s=3600)
    assert answer.connection_ended
    assert trio.current_time() - before < 60
    assert not (await Bench().call(take_s=1)).connection_ended


@pytest.mark.parametrize(
    ("limits", "body", "names"),
    [
        (LIMITS, BODY, ["one"] * 5),  # a quarter of the calls
        (replace(LIMITS, calls=4), BODY, []),
        (replace(LIMITS, calls=1000, held_bytes=6000), bytes([0x28, 0]) * 400, ["one"] * 5),  # a quarter of the bytes
        (replace(LIMITS, calls=1000, held_bytes=2500), bytes([0x28, 0]) * 200, ["one", "two", "three", "four"] * 4),
    ],
    ids=["calls-of-one", "calls", "bytes-of-one", "bytes"],
)
async def test_too_much_at_once_is_put_off(limits: CallLimits, body: bytes, names: list[str]) -> None:
    """By number of calls and by bytes, of one caller and of all; and it passes."""
    go = trio.Event()

    async def handle(_caller: str, _request: Message) -> Answer:
        await go.wait()
        return Answer(pb.FetchFactsRequest())

    bench = Bench(handle, limits)
    answers: list[Exchange] = []

    async def call(name: str) -> None:
        answers.append(await bench.call(body=body, x_name=name))

    async with trio.open_nursery() as nursery:
        for name in names or [f"caller-{number}" for number in range(6)]:
            nursery.start_soon(call, name)
            await trio.testing.wait_all_tasks_blocked()
        assert {answer.error["reason"] for answer in answers} == {"busy"}
        assert {answer.status for answer in answers} == {429}
        if set(names) == {"one"}:
            nursery.start_soon(call, "another")  # it is not kept out
            await trio.testing.wait_all_tasks_blocked()
            assert {answer.status for answer in answers} == {429}
        refused = len(answers)
        go.set()
    assert {answer.status for answer in answers[refused:]} == {200}
    assert (await bench.call(body=body, x_name="one")).status == 200


async def test_a_caller_that_takes_some_of_an_answer_is_waited_for(autojump_clock: object) -> None:
    """An answer of 1 MiB over a slow line: each piece has its own patience."""
    assert autojump_clock

    async def handle(_caller: str, _request: Message) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(pb.FetchFactsRequest(consumer="x" * 1_000_000))

    answer = await Bench(handle).call(take_s=15)
    assert not answer.connection_ended
    assert len(answer.body) > 1_000_000
    assert (await Bench(handle).call(take_s=40)).connection_ended


# -- what is cut short, and what is not --------------------------------------------------------------------------------


async def test_a_long_poll_ends_with_its_time(autojump_clock: object) -> None:
    """The caller's, or ours."""
    assert autojump_clock

    async def handle(_caller: str, _request: Message) -> Answer:
        await trio.sleep_forever()
        raise AssertionError

    cases: list[tuple[dict[str, Any], float]] = [({"connect_timeout_ms": "2000"}, 2), ({}, LIMITS.call_s)]
    for headers, longest_s in cases:
        before = trio.current_time()
        answer = await Bench(handle).call("/bsfg.v1.BoundaryService/Wait", **headers)
        assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
        assert trio.current_time() - before == pytest.approx(longest_s, abs=0.1)


async def test_a_long_poll_ends_with_its_caller() -> None:
    """Nobody is answered, and the record says so."""
    cancelled = []

    async def handle(_caller: str, _request: Message) -> Answer:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(True)
            raise
        raise AssertionError

    bench = Bench(handle)
    answer = await bench.call("/bsfg.v1.BoundaryService/Wait", body=[BODY, b"", 0.01, None])
    assert (answer.status, cancelled) == (0, [True])
    assert bench.audit[0].outcome == "cancelled"


async def test_a_long_poll_ends_with_the_server() -> None:
    """It is told to come back."""

    async def handle(_caller: str, _request: Message) -> Answer:
        await trio.sleep_forever()
        raise AssertionError

    bench = Bench(handle)
    bench.stopping.set()
    answer = await bench.call("/bsfg.v1.BoundaryService/Wait")
    assert (answer.status, answer.error["reason"]) == (503, "not_ready")


async def test_what_writes_is_brought_to_its_end(autojump_clock: object) -> None:
    """Whatever the caller's patience, or the server's end; only our own bound stops it."""
    assert autojump_clock
    done = []

    async def handle(_caller: str, request: pb.FetchFactsRequest) -> Answer:
        await trio.sleep(request.max_facts)
        done.append(request.max_facts)
        return Answer(pb.FetchFactsRequest())

    bench = Bench(handle)
    bench.stopping.set()
    answer = await bench.call(body=[BODY, b"", 0.1, None], connect_timeout_ms="100")
    assert (answer.status, done) == (200, [3])
    endless = pb.FetchFactsRequest(max_facts=10**6).SerializeToString()
    answer = await bench.call(body=endless)
    assert (answer.error["reason"], done) == ("peer_timeout", [3])


async def test_a_caller_that_leaves_while_sending_is_forgotten() -> None:
    """Nothing is handled, nothing answered, something recorded."""
    bench = Bench()
    answer = await bench.call(body=[b"x", None])
    assert (answer.status, bench.seen) == (0, [])
    assert [record.outcome for record in bench.audit] == ["cancelled"]


async def test_errors_before_the_body_let_it_pass() -> None:
    """The refusal is read by whoever first sends all it has."""
    pieces: list[bytes | float | None] = [bytes(100), 0.001, bytes(100), b""]
    bench = Bench()
    answer = await bench.call(body=pieces, x_name="nobody")
    assert (answer.status, answer.unread) == (403, 0)


async def test_refusals_are_errors_of_ours() -> None:
    """A RefusedError in a long poll is answered like any other."""

    async def handle(_caller: str, _request: Message) -> Answer:
        raise RefusedError(Reason.BAD_RECEIPT)

    answer = await Bench(handle).call("/bsfg.v1.BoundaryService/Wait")
    assert answer.error["reason"] == "bad_receipt"
