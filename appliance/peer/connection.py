# SPDX-License-Identifier: Apache-2.0
"""One accepted connection of a server: handshake, who is there, HTTP, and an end in time.

hypercorn's connection class is kept for its reading loop; what surrounds it is ours. Nothing that one connection does
ends another: hypercorn lets an exception of one connection end the whole server.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from appliance.boundary.errors import DeniedError
from appliance.peer.handshakes import NO_HTTP2, TIMED_OUT, HandshakeCounts
from appliance.peer.http2 import BoundedH2
from appliance.peer.identity import PeerIdentity
from appliance.peer.limits import ConnectionLimits
from appliance.peer.proof import Prover
from appliance.peer.tls import ALPN

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""

_log = logging.getLogger(__name__)


def http_config() -> Config:
    """How hypercorn is to behave; bounds that matter are ours."""
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("bsfg.peer.http")
    config.include_date_header = False
    config.include_server_header = False
    config.keep_alive_max_requests = 2**62  # it would end the connection in the middle of a transfer
    return config


class _Switching(ProtocolWrapper):
    """HTTP/1.1 that becomes our HTTP/2 when the caller asks for it; for listeners without TLS."""

    def __init__(self, limits: ConnectionLimits, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._http2 = partial(BoundedH2, limits, *arguments)

    async def handle(self, event: Event) -> None:
        """Handle bytes; switch at a preface or an upgrade."""
        try:
            await self.protocol.handle(event)
        except (H2ProtocolAssumedError, H2CProtocolRequiredError) as error:
            self.protocol = self._http2()
            if isinstance(error, H2CProtocolRequiredError):
                await self.protocol.initiate(error.headers, error.settings)
            else:
                await self.protocol.initiate()
            if error.data:
                await self.protocol.handle(RawData(data=error.data))


class Connection(TCPServer):
    """A connection without TLS; the caller proves itself call by call.

    :param stopping: set when the server ends: say goodbye, finish calls, close.
    """

    def __init__(
        self,
        app: App,
        config: Config,
        limits: ConnectionLimits,
        stopping: trio.Event,
        tcp: trio.SocketStream,
        tls: trio.SSLStream[trio.SocketStream] | None = None,
    ) -> None:
        stream: Any = tls or tcp
        super().__init__(ASGIWrapper(app), config, WorkerContext(None), {}, stream)
        self._limits = limits
        self._stopping = stopping
        self._tcp = tcp
        self._over = False

    async def run(self) -> None:
        """Serve the connection to its end; whatever goes wrong ends only this connection."""
        self.state["end_connection"] = self._end
        try:
            await self._serve()
        except OSError:
            pass
        except Exception:  # noqa: BLE001 - see the module's text
            _log.warning("connection ended", exc_info=True)
        finally:
            await trio.aclose_forcefully(self.stream)

    async def _serve(self) -> None:
        await self._serve_http(_Switching)

    async def _serve_http(self, protocol: type[_Switching | BoundedH2]) -> None:
        """Run HTTP over the connection until it ends and its calls are done."""
        socket = self._tcp.socket
        ends = [parse_socket_addr(socket.family, name) for name in (socket.getpeername(), socket.getsockname())]
        async with TaskGroup() as calls, trio.open_nursery() as helpers:
            self._task_group = calls
            self.protocol = protocol(  # type: ignore[assignment]
                self._limits,
                self.app,
                self.config,
                self.context,
                calls,
                ConnectionState(self.state),
                protocol is BoundedH2,
                *ends,
                self.protocol_send,
            )
            helpers.start_soon(self._leave_when_stopping)
            await self.protocol.initiate()
            await self.idle_task.restart(calls, self._idle_timeout)
            await self._read_data()
            self._over = True
            await self.idle_task.stop()
            helpers.cancel_scope.cancel()

    async def protocol_send(self, event: Any) -> None:
        """Send bytes, with bounded patience: hypercorn would wait for a dead peer for ever, and not be cancelled."""
        if isinstance(event, Updated) and self._over:
            return  # a call that ends after its connection must not start the idle time anew
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.write_s) as patience:
                try:
                    await self.stream.send_all(event.data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._end()
            if patience.cancelled_caught:
                self._end()

    def _end(self) -> None:
        """End the connection now; its reading loop notices and tells the calls."""
        self._tcp.socket.close()

    async def _say_goodbye(self) -> None:
        protocol = self.protocol.protocol if isinstance(self.protocol, _Switching) else self.protocol
        if isinstance(protocol, BoundedH2):
            await protocol.say_goodbye()

    async def _leave_when_stopping(self) -> None:
        await self._stopping.wait()
        await self._say_goodbye()

    async def _idle_timeout(self) -> None:
        """End a connection without calls after a time, or soon when the server stops; goodbye first."""
        with trio.move_on_after(self._limits.idle_s):
            await self._stopping.wait()
        await self._say_goodbye()
        await trio.sleep(self._limits.linger_s)
        self._end()


class TlsConnection(Connection):
    """A connection over TLS, HTTP/2 only, whose caller proves itself call by call, or not at all."""

    protocols: tuple[str | None, ...] = (ALPN,)
    """What may be chosen in the handshake; ``None``: nothing was offered."""

    def __init__(
        self,
        app: App,
        config: Config,
        limits: ConnectionLimits,
        stopping: trio.Event,
        tls: trio.SSLStream[trio.SocketStream],
        handshakes: HandshakeCounts | None = None,
    ) -> None:
        super().__init__(app, config, limits, stopping, tls.transport_stream, tls)
        self._tls = tls
        self._handshakes = handshakes or HandshakeCounts()

    async def _serve(self) -> None:
        if await self._handshake():
            await self._serve_http(BoundedH2)

    async def _handshake(self) -> bool:
        try:
            with trio.fail_after(self._limits.handshake_s):
                await self._tls.do_handshake()
        except trio.TooSlowError:
            self._handshakes.refuse(TIMED_OUT)
            return False
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLError):
                self._handshakes.refuse(error.__cause__)
                _log.info("TLS handshake refused: %s", error.__cause__.reason)
                await self._send_alert()
            return False
        if self._tls.selected_alpn_protocol() in self.protocols:
            return True
        self._handshakes.refuse(NO_HTTP2)
        return False

    def chosen_protocol(self) -> type[_Switching | BoundedH2]:
        """What the handshake agreed on."""
        return BoundedH2 if self._tls.selected_alpn_protocol() == ALPN else _Switching

    async def _send_alert(self) -> None:
        """Tell the caller why; trio leaves the alert unsent, and a plain close looks like a broken line.

        What the caller still sends is read away, because closing over unread bytes could destroy the alert.
        """
        with trio.move_on_after(self._limits.linger_s):
            try:
                await self._tcp.send_all(self._tls._outgoing.read())
                await self._tcp.send_eof()
                while await self._tcp.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass


class PeerConnection(TlsConnection):
    """A connection of a peer: TLS with a certificate that proves a zone, and that ends when the proof does.

    :param prover: who says whether it does.
    """

    def __init__(
        self,
        app: App,
        config: Config,
        limits: ConnectionLimits,
        stopping: trio.Event,
        tls: trio.SSLStream[trio.SocketStream],
        prover: Prover,
    ) -> None:
        super().__init__(app, config, limits, stopping, tls, prover.counts)
        self._prover = prover

    async def _serve(self) -> None:
        if not await self._handshake():
            return
        async with trio.open_nursery() as nursery:
            try:
                identity = self._prover.prove(self._tls.getpeercert(True) or b"")
            except DeniedError as denied:
                _log.warning("a peer was refused: %s", denied)
                self.state["peer"] = denied  # its calls are answered with the reason
                nursery.start_soon(self._end_soon)
            else:
                self.state["peer"] = identity
                nursery.start_soon(self._end_with_proof, identity)
            await self._serve_http(BoundedH2)
            nursery.cancel_scope.cancel()

    async def _end_soon(self) -> None:
        """A peer that proved nothing hears why, and may try again with another proof, or when it was let in."""
        await trio.sleep(self._limits.linger_s)
        await self._say_goodbye()
        await trio.sleep(self._limits.linger_s)
        self._end()

    async def _end_with_proof(self, identity: PeerIdentity) -> None:
        denied = await self._prover.ended(identity)
        _log.warning("the connection of %s was ended: %s", identity.zone, denied)
        self._end()
