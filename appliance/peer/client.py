# SPDX-License-Identifier: Apache-2.0
"""Our Connect client: a peer as :class:`~appliance.boundary.ports.BoundaryPort`, over one HTTP/2 connection at a time.

The connection is made when a call needs it and made anew when it has ended; one attempt serves all calls that wait for
it. Only calls that the peer has certainly not begun are repeated here; everything else is the caller's to decide.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio
from google.protobuf.message import Message

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.reasons import Reason
from appliance.peer.connect import SERVICE
from appliance.peer.faults import error_from_json
from appliance.peer.frames import quiet_frames
from appliance.peer.identity import PeerIdentity, Registry, prove_identity
from appliance.peer.link import Headers, Link, LinkLimits, Reply, UnprocessedError, stream_error
from appliance.peer.stub import PeerStub
from appliance.peer.tls import ALPN
from appliance.peer.wire import parse_binary

M = TypeVar("M", bound=Message)

_PROTO: Final = "application/proto"
_CLOCK_CHECK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Whom to call, and who calls.

    ``tls`` is called for every connection, so renewed certificates are used. ``registry`` holds the device CAs known
    for the peer. ``call_s`` is the time a call may take beyond its own ``wait_ms`` and the time its bytes take.
    """

    zone: ZoneId
    peer: ZoneId
    host: str
    port: int
    tls: Callable[[], ssl.SSLContext]
    registry: Registry
    call_s: float = 15.0
    connect_s: float = 10.0
    now: Callable[[], float] = time.time
    limits: LinkLimits = field(default=LinkLimits())


@asynccontextmanager
async def open_peer(config: ClientConfig) -> AsyncIterator[PeerClient]:
    """A client whose connection lives no longer than the block."""
    quiet_frames()
    try:
        async with trio.open_nursery() as nursery:
            yield PeerClient(config, nursery)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # What the block raises is for its caller to catch by its own class, not wrapped in the nursery's group.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


@dataclass(eq=False, slots=True)
class _Attempt:
    """An attempt to connect, and what came of it."""

    over: trio.Event = field(default_factory=trio.Event)
    link: Link | None = None
    error: BsfgError = field(default_factory=lambda: UnavailableError(Reason.LINK_DOWN, "the client was closed"))

    @property
    def useless(self) -> bool:
        """Whether a new attempt is needed."""
        return self.over.is_set() and (self.link is None or not self.link.usable)

    def succeed(self, link: Link) -> None:
        """There is a connection."""
        self.link = link
        self.over.set()

    def fail(self, error: BsfgError) -> None:
        """There is none."""
        self.error = error
        self.over.set()


class PeerClient(PeerStub):
    """A peer over the network; see :func:`open_peer`.

    Besides what the port documents, every method raises

    * UnavailableError: ``link_down``, ``peer_timeout``, ``peer_fault``, ``busy``;
    * DeniedError: ``bad_certificate`` (ours or theirs), ``unknown_peer``.
    """

    def __init__(self, config: ClientConfig, nursery: trio.Nursery) -> None:
        super().__init__(config.zone)
        self._config = config
        self._nursery = nursery
        self._attempt: _Attempt | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection that calls can use now."""
        return self._attempt is not None and self._attempt.over.is_set() and not self._attempt.useless

    async def connect(self) -> None:
        """Make sure there is a connection. :raises BsfgError: as every call."""
        await self._link()

    async def _call(
        self, method: str, request: Message, answer: type[M], *, wait_s: float = 0.0, page_field: int = 0
    ) -> M:
        """See :class:`~appliance.peer.stub.PeerStub`."""
        patience_s = wait_s + self._config.call_s
        headers: Headers = [
            ("content-type", _PROTO),
            ("connect-protocol-version", "1"),
            ("connect-timeout-ms", str(int(patience_s * 1000))),
        ]
        reply = await self._request(f"/{SERVICE}/{method}", headers, request.SerializeToString(), patience_s)
        if reply.status != 200:
            raise error_from_json(reply.status, reply.body)
        if reply.content_type != _PROTO:
            raise UnavailableError(Reason.PEER_FAULT, f"an answer in {reply.content_type[:64]!r}")
        try:
            return parse_binary(answer, reply.body, page_field)
        except RefusedError as error:
            raise UnavailableError(Reason.PEER_FAULT, f"{error.reason}: {error.detail}") from error

    async def _request(self, path: str, headers: Headers, body: bytes, patience_s: float) -> Reply:
        try:
            return await (await self._link()).call(path, headers, body, patience_s)
        except UnprocessedError:
            return await (await self._link()).call(path, headers, body, patience_s)

    async def _link(self) -> Link:
        attempt = self._attempt
        if attempt is None or attempt.useless:
            attempt = self._attempt = _Attempt()
            self._nursery.start_soon(self._run, attempt)
        await attempt.over.wait()
        if attempt.link is None:
            raise attempt.error
        return attempt.link

    async def _run(self, attempt: _Attempt) -> None:
        """Connect, tell those who wait, and serve the connection until it ends."""
        try:
            with trio.fail_after(self._config.connect_s):
                stream, identity = await self._dial()
        except trio.TooSlowError:
            attempt.fail(UnavailableError(Reason.LINK_DOWN, f"no connection within {self._config.connect_s:g} s"))
            return
        except BsfgError as error:
            attempt.fail(error)
            return
        link = Link(stream, identity_of(identity.zone), self._config.limits)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            nursery.start_soon(self._end_with_proof, link, identity.ends_at)
            try:
                await link.hello(self._config.connect_s)
                attempt.succeed(link)
            except BsfgError as error:
                attempt.fail(error)
            await link.ended.wait()
            nursery.cancel_scope.cancel()

    async def _dial(self) -> tuple[trio.SSLStream[trio.SocketStream], PeerIdentity]:
        """Connect, shake hands and check who is there."""
        config = self._config
        try:
            context = config.tls()
        except OSError as error:  # which ssl.SSLError is, too
            raise DeniedError(Reason.BAD_CERTIFICATE, f"ours cannot be used: {error}") from error
        try:
            tcp = await trio.open_tcp_stream(config.host, config.port)
        except OSError as error:
            raise UnavailableError(Reason.LINK_DOWN, str(error)) from error
        try:
            tls = trio.SSLStream(tcp, context, server_hostname=identity_of(config.peer), https_compatible=True)
            await tls.do_handshake()
            if tls.selected_alpn_protocol() != ALPN:
                raise UnavailableError(Reason.PEER_FAULT, "the peer does not speak HTTP/2")
            identity = prove_identity(tls.getpeercert(True) or b"", config.registry, config.now())
            if identity.zone != config.peer:
                raise DeniedError(Reason.BAD_CERTIFICATE, f"{identity.zone} answers for {config.peer}")
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(tcp)
            raise stream_error(error) from error
        except BaseException:
            await trio.aclose_forcefully(tcp)
            raise
        return tls, identity

    async def _end_with_proof(self, link: Link, ends_at: float) -> None:
        while True:
            left = ends_at - self._config.now()
            if left <= 0:
                break
            await trio.sleep(min(left, _CLOCK_CHECK_S))
        link.end(UnavailableError(Reason.LINK_DOWN, "the peer's certificate ended"))
