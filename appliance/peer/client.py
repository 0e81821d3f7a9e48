# SPDX-License-Identifier: Apache-2.0
"""Our Connect client: a peer as :class:`~appliance.boundary.ports.BoundaryPort`, over one HTTP/2 connection at a time.

The connection is made when a call needs it and made anew when it has ended; one attempt serves all calls that wait for
it. Before its certificates end another one is made with newer ones: new calls go there, those under way are finished on
the old one. If there are no newer ones, it ends with them.

Only calls that the peer has certainly not begun are repeated here; everything else is the caller's to decide.
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

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.reasons import Reason
from appliance.peer.connect import SERVICE
from appliance.peer.dial import HttpProxy, open_tcp
from appliance.peer.faults import error_from_json
from appliance.peer.frames import quiet_frames
from appliance.peer.handshakes import NO_HTTP2, TIMED_OUT, HandshakeCounts
from appliance.peer.identity import LONGEST_SESSION_S, PeerIdentity, PeerRegistry
from appliance.peer.link import Headers, Link, LinkLimits, Reply, UnprocessedError, stream_error
from appliance.peer.proof import Prover
from appliance.peer.stub import PeerStub
from appliance.peer.tls import ALPN, OwnCredential
from appliance.peer.wire import parse_binary

M = TypeVar("M", bound=Message)

_PROTO: Final = "application/proto"
REPLACE_LEAD_S: Final = 60.0
"""So long before its certificates end a connection is replaced; longer than any call, half of what is left at most.
"""
REPLACE_AGAIN_S: Final = 2.0
_CLOCK_CHECK_S: Final = 10.0
"""Boundary time may step while a connection lives."""


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
    tls: Callable[[], OwnCredential]
    registry: PeerRegistry
    call_s: float = 15.0
    connect_s: float = 10.0
    now: Callable[[], float] = time.time
    limits: LinkLimits = field(default=LinkLimits())
    handshakes: HandshakeCounts = field(default_factory=HandshakeCounts)
    longest_session_s: float = LONGEST_SESSION_S
    proxy: HttpProxy | None = None


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
    ends_at: float = 0.0
    error: BsfgError = field(default_factory=lambda: UnavailableError(Reason.LINK_DOWN, "the client was closed"))

    @property
    def useless(self) -> bool:
        """Whether a new attempt is needed."""
        return self.over.is_set() and (self.link is None or not self.link.usable)

    def succeed(self, link: Link, ends_at: float) -> None:
        """There is a connection, for as long as its certificates last."""
        self.link, self.ends_at = link, ends_at
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
                stream, identity, prover = await self._dial()
        except trio.TooSlowError:
            self._config.handshakes.refuse(TIMED_OUT)
            attempt.fail(UnavailableError(Reason.LINK_DOWN, f"no connection within {self._config.connect_s:g} s"))
            return
        except BsfgError as error:
            attempt.fail(error)
            return
        link = Link(stream, identity_of(identity.zone), self._config.limits)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            nursery.start_soon(_end_with_proof, link, prover, identity)
            try:
                await link.hello(self._config.connect_s)
            except BsfgError as error:
                self._config.handshakes.refuse(error)
                attempt.fail(error)
            else:
                attempt.succeed(link, prover.ends_at(identity))
                nursery.start_soon(self._replace_in_time, attempt)
            await link.ended.wait()
            nursery.cancel_scope.cancel()

    async def _replace_in_time(self, attempt: _Attempt) -> None:
        """Make another connection before this one's certificates end, and let this one run out."""
        lead_s = min(REPLACE_LEAD_S, (attempt.ends_at - self._config.now()) / 2)
        while (left_s := attempt.ends_at - lead_s - self._config.now()) > 0:  # noqa: ASYNC110 - time alone decides
            await trio.sleep(min(left_s, _CLOCK_CHECK_S))
        while self._attempt is attempt:
            newer = _Attempt()
            self._nursery.start_soon(self._run, newer)
            await newer.over.wait()
            if newer.link is not None and newer.ends_at > attempt.ends_at and self._attempt is attempt:
                self._attempt = newer
            for useless in (attempt, newer):
                if useless.link is not None and useless is not self._attempt:
                    useless.link.retire()
            await trio.sleep(min(REPLACE_AGAIN_S, lead_s / 3))

    async def _dial(self) -> tuple[trio.SSLStream[trio.SocketStream], PeerIdentity, Prover]:
        """Connect, shake hands and check who is there."""
        config = self._config
        own = config.tls()
        own.check(config.now())
        prover = Prover(config.registry, config.now, own.ends_at, config.handshakes, config.longest_session_s)
        tcp = await open_tcp(config.host, config.port, config.proxy)
        try:
            tls = trio.SSLStream(tcp, own.context, server_hostname=identity_of(config.peer), https_compatible=True)
            await tls.do_handshake()
            if tls.selected_alpn_protocol() != ALPN:
                config.handshakes.refuse(NO_HTTP2)
                raise UnavailableError(Reason.PEER_FAULT, "the peer does not speak HTTP/2")
            identity = prover.prove(tls.getpeercert(True) or b"", expected=config.peer)
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                config.handshakes.refuse(error.__cause__)
            await trio.aclose_forcefully(tcp)
            raise stream_error(error) from error
        except BaseException:
            await trio.aclose_forcefully(tcp)
            raise
        return tls, identity, prover


async def _end_with_proof(link: Link, prover: Prover, identity: PeerIdentity) -> None:
    denied = await prover.ended(identity)
    link.end(UnavailableError(Reason.LINK_DOWN, f"the connection's proof ended: {denied.detail}"))
