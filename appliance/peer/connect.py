# SPDX-License-Identifier: Apache-2.0
"""The Connect protocol for unary calls, as an ASGI application over a table of methods.

https://connectrpc.com/docs/protocol/#unary-rpcs, checked in the tests against the official client and curl. Own lines
and not connectrpc's application: ours carries our error details, bounds what a call may cost, and takes no memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import trio
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.peer.audit import CANCELLED, OK, AuditHook, AuditRecord
from appliance.peer.body import Body, GoneError, Hold, Holding, Receive
from appliance.peer.codec import bad_request
from appliance.peer.faults import error_json
from appliance.peer.limits import MIN_BYTES_PER_S, CallLimits
from appliance.peer.wire import gunzip, parse_binary, parse_json

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SERVICE: Final = "bsfg.v1.BoundaryService"
_PROTO: Final = "application/proto"
_JSON: Final = "application/json"
_PIECE_BYTES: Final = 64 * 1024
"""Answers are sent in pieces, so that a caller that takes nothing is told from a slow one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method answers, and what the audit record says of it."""

    message: Message
    facts: int = 0
    outcome: str = OK


@dataclass(frozen=True, slots=True)
class Caller(Generic[T]):
    """An authenticated caller: its name for the audit, and what the methods know it by."""

    name: str
    who: T


@dataclass(frozen=True, slots=True)
class Method(Generic[T]):
    """One operation.

    ``waits`` marks a long poll: it changes nothing and is cut short when the caller goes away or its time is up. What
    writes is always brought to its end, because its outcome would otherwise be unknown for no reason.
    """

    request: type[Message]
    handle: Callable[[T, Any], Awaitable[Answer]]
    page_field: int = 0
    waits: bool = False


@dataclass(slots=True)
class _Note:
    """What becomes the audit record."""

    method: str
    caller: str = ""
    outcome: str = CANCELLED
    facts: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    """The head of a call: where it goes and how its body is written."""

    method: str
    headers: Mapping[bytes, bytes]
    content_type: str

    def header(self, name: bytes) -> str:
        """A header's text, empty when it is missing."""
        return self.headers.get(name, b"").decode("latin-1")


class ConnectApp(Generic[T]):
    """An ASGI application that serves one table of methods.

    :param authenticate: who calls, from the ASGI scope and its headers; raises DeniedError.
    :param stopping: set when the server ends; long polls are answered at once then.
    :param service: its name in the contract, which paths begin with.
    """

    def __init__(
        self,
        methods: Mapping[str, Method[T]],
        authenticate: Callable[[Scope, Mapping[bytes, bytes]], Caller[T]],
        *,
        limits: CallLimits,
        audit: AuditHook,
        stopping: trio.Event,
        service: str = SERVICE,
    ) -> None:
        self._prefix = f"/{service}/"
        self._methods = methods
        self._authenticate = authenticate
        self._limits = limits
        self._audit = audit
        self._stopping = stopping
        self._holding = Holding(limits.held_bytes, limits.calls)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see https://asgi.readthedocs.io/en/latest/specs/www.html."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        content_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if not scope["path"].startswith(self._prefix):
            await _send_empty(send, 404)
        elif scope["method"] != "POST":
            await _send_empty(send, 405, (b"allow", b"POST"))
        elif content_type not in (_PROTO, _JSON):
            await _send_empty(send, 415, (b"accept-post", f"{_PROTO}, {_JSON}".encode()))
        else:
            request = _Request(scope["path"].removeprefix(self._prefix), headers, content_type)
            await self._serve(scope, request, receive, send)

    async def _serve(self, scope: Scope, request: _Request, receive: Receive, send: Send) -> None:
        note = _Note(request.method[:64])
        started = time.perf_counter()
        with self._holding.call() as hold:
            body = Body(receive, self._limits, hold)
            status, content_type = 200, request.content_type
            try:
                answer = await self._call(scope, request, body, hold, note)
                content = _encode(answer.message, content_type)
                note.outcome, note.facts = answer.outcome, answer.facts
            except GoneError:
                return
            except BsfgError as error:
                note.outcome = error.reason
                (status, content), content_type = error_json(error), _JSON
            except Exception:  # noqa: BLE001 - a defect of one call is answered and logged
                _log.exception("%s failed", request.method[:64])
                note.outcome = Reason.INTERNAL
                (status, content), content_type = error_json(BsfgError(Reason.INTERNAL)), _JSON
            finally:
                ms = (time.perf_counter() - started) * 1000
                self._audit(AuditRecord(note.caller, note.method, note.outcome, note.facts, ms))
            hold.add(len(content))
            await body.discard()
            await self._respond(scope, send, status, content_type, content)

    async def _respond(self, scope: Scope, send: Send, status: int, content_type: str, content: bytes) -> None:
        """Send an answer; a caller that does not take it loses its connection, whose buffers would stay full."""
        with trio.CancelScope() as patience:
            headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(content))]
            patience.deadline = trio.current_time() + self._limits.stall_s
            await send({"type": "http.response.start", "status": status, "headers": headers})
            for start in range(0, len(content) or 1, _PIECE_BYTES):
                patience.deadline = trio.current_time() + self._limits.stall_s + _PIECE_BYTES / MIN_BYTES_PER_S
                piece, more = content[start : start + _PIECE_BYTES], start + _PIECE_BYTES < len(content)
                await send({"type": "http.response.body", "body": piece, "more_body": more})
        if patience.cancelled_caught:
            scope["state"]["end_connection"]()

    async def _call(self, scope: Scope, request: _Request, body: Body, hold: Hold, note: _Note) -> Answer:
        """Authenticate, read, parse, handle. Raises what the answer is to say."""
        caller = self._authenticate(scope, request.headers)
        note.caller = caller.name
        hold.belongs_to(caller.name)
        method = self._methods.get(request.method)
        if method is None:
            offered = ", ".join(self._methods)
            raise RefusedError(Reason.UNSUPPORTED, f"{request.method[:64]!r}; offered here: {offered}")
        if (version := request.header(b"connect-protocol-version")) not in ("", "1"):
            raise bad_request(f"connect-protocol-version {version[:16]!r}, not 1")
        patience_s = _timeout_s(request.header(b"connect-timeout-ms"), self._limits.call_s)
        encoding = request.header(b"content-encoding").strip().lower()
        if encoding not in ("", "identity", "gzip"):
            raise RefusedError(Reason.UNSUPPORTED, f"content-encoding {encoding[:16]!r}; identity and gzip are")
        content = await body.read()
        if encoding == "gzip":
            content = gunzip(content, self._limits.body_bytes)
        message: Message
        if request.content_type == _JSON:
            message = parse_json(method.request, content, self._limits.json_tokens)
        else:
            message = parse_binary(method.request, content, method.page_field)
        if method.waits:
            return await self._wait(method.handle(caller.who, message), patience_s, body)
        with trio.move_on_after(self._limits.call_s):
            return await method.handle(caller.who, message)
        raise UnavailableError(Reason.PEER_TIMEOUT, f"not done within {self._limits.call_s:g} s")

    async def _wait(self, handling: Awaitable[Answer], patience_s: float, body: Body) -> Answer:
        """Run a long poll that ends early when the caller is gone, its time is up or the server stops."""
        result: Answer | Exception = GoneError()

        async def give_up_when_stopping() -> None:
            nonlocal result
            await self._stopping.wait()
            result = UnavailableError(Reason.NOT_READY, "the server is stopping")
            nursery.cancel_scope.cancel()

        async def give_up_when_gone() -> None:
            await body.gone()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up_when_stopping)
            nursery.start_soon(give_up_when_gone)
            with trio.move_on_after(patience_s) as patience:
                try:
                    result = await handling
                except Exception as error:  # noqa: BLE001 - raised again below, outside the nursery
                    result = error
            if patience.cancelled_caught:
                result = UnavailableError(Reason.PEER_TIMEOUT, f"not done within {patience_s:g} s")
            nursery.cancel_scope.cancel()
        if isinstance(result, Exception):
            raise result
        return result


async def _send_empty(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    """Answer what is no call."""
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _encode(message: Message, content_type: str) -> bytes:
    return MessageToJson(message, indent=None).encode() if content_type == _JSON else message.SerializeToString()


def _timeout_s(value: str, longest_s: float) -> float:
    """Seconds from a ``connect-timeout-ms`` header: up to ten digits."""
    if not value:
        return longest_s
    if not (value.isascii() and value.isdigit() and len(value) <= 10):
        raise bad_request(f"connect-timeout-ms {value[:16]!r}: up to ten digits")
    return min(int(value) / 1000, longest_s)
