# SPDX-License-Identifier: Apache-2.0
"""Servers of the contract: for peers over mutual TLS, and for local producers on loopback.

Both are plain async functions: started with ``nursery.start``, they return their port; cancelled, they say goodbye,
finish the calls under way within a grace time, and end.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.ports import BoundaryPort, ProducerPort
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason
from appliance.peer.audit import AuditHook, log_audit
from appliance.peer.connect import Caller, ConnectApp, Scope
from appliance.peer.connection import Connection, PeerConnection, http_config
from appliance.peer.frames import quiet_frames
from appliance.peer.handshakes import HandshakeCounts
from appliance.peer.identity import LONGEST_SESSION_S, PeerIdentity, PeerRegistry
from appliance.peer.limits import PRODUCER_CALLS, CallLimits, ConnectionLimits
from appliance.peer.methods import peer_methods, producer_methods
from appliance.peer.proof import Prover
from appliance.peer.tls import OwnCredential
from appliance.peer.tokens import bearer_token

_log = logging.getLogger(__name__)

AcceptedStream = trio.SocketStream
Status = trio.TaskStatus[int]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How peers are served.

    ``tls`` is called for every connection, so renewed certificates are used without a restart. ``registry`` is looked
    up for every connection and while it lives, so a zone can be enrolled, removed or denied while the server runs.
    ``now`` is boundary time; it alone decides about dates. ``longest_session_s``: see
    :func:`~appliance.peer.identity.prove_identity`.
    """

    host: str
    port: int
    tls: Callable[[], OwnCredential]
    registry: PeerRegistry
    audit: AuditHook = log_audit
    now: Callable[[], float] = time.time
    calls: CallLimits = field(default=CallLimits())
    connections: ConnectionLimits = field(default=ConnectionLimits())
    handshakes: HandshakeCounts = field(default_factory=HandshakeCounts)
    longest_session_s: float = LONGEST_SESSION_S
    admits: Callable[[ZoneId], BsfgError | None] = lambda _zone: None
    """Asked for each call: why a proven zone may not call now, such as a box that does not attest."""


@dataclass(frozen=True, slots=True)
class ProducerServerConfig:
    """How local producers are served; ``host`` must be a loopback address.

    ``find_producer`` returns whose token it is given, or nothing (:class:`~appliance.peer.tokens.TokenTable`).
    """

    host: str
    port: int
    zone: ZoneId
    find_producer: Callable[[str], Producer | None]
    audit: AuditHook = log_audit
    calls: CallLimits = PRODUCER_CALLS
    connections: ConnectionLimits = field(default=ConnectionLimits())


async def serve(service: BoundaryPort, config: ServerConfig, *, task_status: Status = trio.TASK_STATUS_IGNORED) -> None:
    """Serve the boundary contract to peers until cancelled; reports the port it listens on.

    :raises RefusedError: ``bad_input`` when the address cannot be listened on.
    """
    stopping = trio.Event()
    http = http_config()
    app = ConnectApp(
        peer_methods(service), partial(_peer, config.admits), limits=config.calls, audit=config.audit, stopping=stopping
    )

    async def handle(stream: AcceptedStream) -> None:
        try:
            own = config.tls()
            own.check(config.now())
        except BsfgError as error:
            config.handshakes.refuse(error)
            _log.warning("a peer was not served: %s", error)
            await trio.aclose_forcefully(stream)
            return
        tls = trio.SSLStream(stream, own.context, server_side=True, https_compatible=True)
        prover = Prover(config.registry, config.now, own.ends_at, config.handshakes, config.longest_session_s)
        await PeerConnection(app, http, config.connections, stopping, tls, prover).run()

    await listen(config.host, config.port, handle, config.connections, stopping, task_status)


async def serve_producers(
    service: ProducerPort, config: ProducerServerConfig, *, task_status: Status = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve AppendFact to local producers until cancelled, over HTTP/1.1 and HTTP/2 without TLS.

    A web page cannot call it: both content types and the authorization header make a browser ask first, and nothing
    here says yes.

    :raises RefusedError: ``bad_input`` when the address is not loopback, or cannot be listened on.
    """
    if not _is_loopback(config.host):
        raise RefusedError(Reason.BAD_INPUT, f"{config.host}: producers are served on a loopback address only")
    stopping = trio.Event()
    http, app = http_config(), producer_app(service, config, stopping)

    async def handle(stream: AcceptedStream) -> None:
        await Connection(app, http, config.connections, stopping, stream).run()

    await listen(config.host, config.port, handle, config.connections, stopping, task_status)


def producer_app(service: ProducerPort, config: ProducerServerConfig, stopping: trio.Event) -> ConnectApp[Producer]:
    """AppendFact for whoever has a producer's token."""

    def authenticate(_scope: Scope, headers: Mapping[bytes, bytes]) -> Caller[Producer]:
        producer = config.find_producer(bearer_token(headers))
        if producer is None:
            raise DeniedError(Reason.BAD_CREDENTIAL, "no producer has this token")
        return Caller(producer.id, producer)

    return ConnectApp(
        producer_methods(service, config.zone),
        authenticate,
        limits=config.calls,
        audit=config.audit,
        stopping=stopping,
    )


def _peer(
    admits: Callable[[ZoneId], BsfgError | None], scope: Scope, _headers: Mapping[bytes, bytes]
) -> Caller[ZoneId]:
    """The caller's zone, as its connection proved it, if it may call now."""
    peer: PeerIdentity | DeniedError = scope["state"]["peer"]
    if isinstance(peer, DeniedError):
        raise DeniedError(peer.reason, peer.detail)
    if refusal := admits(peer.zone):
        raise refusal
    return Caller(peer.zone, peer.zone)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def listen(
    host: str,
    port: int,
    handle: Callable[[AcceptedStream], Awaitable[None]],
    limits: ConnectionLimits,
    stopping: trio.Event,
    task_status: Status,
) -> None:
    """Accept connections until cancelled, then give those that live a grace time."""
    quiet_frames()
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"cannot listen on {host}:{port}: {error.strerror}") from None
    accept = _Accepting(handle, limits)
    async with trio.open_nursery() as outside:
        connections: trio.Nursery = await outside.start(_outlive, stopping)
        task_status.started(listeners[0].socket.getsockname()[1])
        try:
            await trio.serve_listeners(accept, listeners, handler_nursery=connections)
        finally:
            stopping.set()
            connections.cancel_scope.deadline = trio.current_time() + limits.grace_s


async def _outlive(stopping: trio.Event, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """A nursery for connections that is not cancelled with the server, but by its own deadline."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as connections:
            task_status.started(connections)
            await stopping.wait()


class _Accepting:
    """Handles each accepted connection, up to a number at once."""

    def __init__(self, handle: Callable[[AcceptedStream], Awaitable[None]], limits: ConnectionLimits) -> None:
        self._handle = handle
        self._limits = limits
        self._open = 0

    async def __call__(self, stream: AcceptedStream) -> Any:
        """Handle one connection; nothing it does may end the server."""
        if self._open >= self._limits.connections:
            _log.warning("more than %d connections; one was closed", self._limits.connections)
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        try:
            # Unacknowledged bytes for so long mean that the other side is gone.
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._limits.write_s * 1000))
            await self._handle(stream)
        except Exception:  # noqa: BLE001 - hypercorn lets it end the server
            _log.exception("a connection could not be served")
            await trio.aclose_forcefully(stream)
        finally:
            self._open -= 1
