# SPDX-License-Identifier: Apache-2.0
"""Two zones with certificates, servers and clients on loopback, and a wire between them that can fail."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from appliance.boundary.names import ZoneId
from appliance.boundary.ports import BoundaryPort
from appliance.peer.audit import AuditRecord
from appliance.peer.client import ClientConfig
from appliance.peer.handshakes import HandshakeCounts
from appliance.peer.server import ServerConfig, serve
from appliance.peer.tls import OwnCredential
from tests.contracts.peer import HUB, PLANT
from tests.pki import Authority, Credential, Pki, Registered

LOOPBACK = "127.0.0.1"


@dataclass
class World:
    """PLANT and HUB, enrolled with each other; what is changed here changes what servers and clients see."""

    pki: Pki
    plant_ca: Authority
    plant: Credential
    hub_ca: Authority
    hub: Credential
    audit: list[AuditRecord] = field(default_factory=list)
    handshakes: HandshakeCounts = field(default_factory=HandshakeCounts)

    @classmethod
    def make(cls, folder: Path) -> World:
        """Certificates for both."""
        pki = Pki(folder)
        return cls(pki, *pki.zone(PLANT), *pki.zone(HUB))

    async def serve(self, nursery: trio.Nursery, service: BoundaryPort, **changes: Any) -> int:
        """Start a server of HUB; returns its port."""
        registry = self.registered(PLANT, self.plant_ca)
        settings: dict[str, Any] = {
            "port": 0,
            "tls": self._server_tls,
            "registry": registry,
            "audit": self.audit.append,
        }
        settings |= {"handshakes": self.handshakes, **changes}
        port: int = await nursery.start(serve, service, ServerConfig(LOOPBACK, **settings))
        return port

    def client(self, port: int, **changes: Any) -> ClientConfig:
        """How PLANT calls HUB."""
        settings = {"tls": self._client_tls, "registry": self.registered(HUB, self.hub_ca), **changes}
        zone: ZoneId = settings.pop("zone", PLANT)
        host: str = settings.pop("host", LOOPBACK)
        return ClientConfig(zone, HUB, host, port, **settings)

    def registered(self, zone: ZoneId, *authorities: Authority) -> Registered:
        """A registry that knows one zone."""
        return Registered.of(self.pki.hub, {zone: authorities})

    def _server_tls(self) -> OwnCredential:
        return self.hub.for_server()

    def _client_tls(self) -> OwnCredential:
        return self.plant.for_client()


class Wire:
    """A TCP proxy that can be cut, or swallow everything without a word, as a dead line does."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open: list[trio.SocketStream] = []
        self._flows = trio.Event()
        self._flows.set()
        self.port = 0

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward connections until cancelled; reports its own port."""
        listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started(self.port)
        await trio.serve_listeners(self._forward, listeners)

    def swallow(self) -> None:
        """From now on nothing arrives, in neither direction, and nobody is told."""
        self._flows = trio.Event()

    def heal(self) -> None:
        """What was swallowed was only late."""
        self._flows.set()

    async def cut(self) -> None:
        """End all connections, with a reset."""
        for stream in self._open:
            with suppress(OSError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await trio.aclose_forcefully(stream)
        self._open.clear()

    async def _forward(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream(LOOPBACK, self._target)
        except OSError:
            await trio.aclose_forcefully(near)
            return
        self._open += [near, far]
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, near, far)
            nursery.start_soon(self._copy, far, near)

    async def _copy(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some():
                await self._flows.wait()
                await target.send_all(data)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await target.send_eof()
