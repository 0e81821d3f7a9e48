# SPDX-License-Identifier: Apache-2.0
"""The *simulated* boundary link: a TCP proxy on loopback that can be cut and healed.

The plant dials the link instead of the hub. Each direction holds one chunk at a time and waits until the other end took
it, so memory is bounded and a slow receiver slows its sender down, as on a real link.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason

CHUNK_BYTES: Final = 64 * 1024
_CONNECT_TIMEOUT: Final = 5.0
_RELISTEN_TIMEOUT: Final = 5.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing resets the connection."""


class Cut(StrEnum):
    """How a link fails."""

    RESET = "reset"
    """Connections are reset and new ones refused: the router says so."""
    BLACKHOLE = "blackhole"
    """Nothing comes through and nobody says so: connections stay open and silent; healed, they go on."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One port of the link: what the plant dials on loopback, and where that leads."""

    name: str
    port: int
    target_port: int


class SimulatedLink:
    """All tunnels of the link. ``run`` serves them until it is cancelled; ``cut`` and ``heal`` work meanwhile."""

    def __init__(self, tunnels: Sequence[Tunnel], host: str = "127.0.0.1") -> None:
        self._tunnels = tunnels
        self._host = host
        self._cut: Cut | None = None
        self._carrying = trio.Event()
        self._carrying.set()
        self._connections: set[trio.CancelScope] = set()
        self._listeners: set[trio.CancelScope] = set()
        self._nursery: trio.Nursery | None = None
        self._change = trio.Lock()
        self.bytes_carried = 0

    @property
    def cut_how(self) -> Cut | None:
        """How the link is cut now; ``None`` when it carries."""
        return self._cut

    @property
    def connections(self) -> int:
        """How many connections go through it now."""
        return len(self._connections)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. :raises UnavailableError: ``port_taken``."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._listen()
            task_status.started()
            await trio.sleep_forever()

    async def cut(self, how: Cut = Cut.RESET) -> None:
        """Stop carrying. Cutting a cut link changes how it is cut."""
        async with self._change:
            self._cut = how
            if self._carrying.is_set():
                self._carrying = trio.Event()
            if how is Cut.RESET:
                await self._end_all(self._listeners)
                await self._end_all(self._connections)

    async def heal(self) -> None:
        """Carry again. :raises UnavailableError: ``port_taken``: somebody took a port of the link meanwhile."""
        async with self._change:
            if not self._listeners:
                await self._listen()
            self._cut = None
            self._carrying.set()

    @staticmethod
    async def _end_all(scopes: set[trio.CancelScope]) -> None:
        """Cancel what runs in these scopes and wait until all of it has left them."""
        while scopes:
            for scope in scopes:
                scope.cancel()
            await trio.lowlevel.checkpoint()

    async def _listen(self) -> None:
        nursery = self._nursery
        if nursery is None:
            raise RuntimeError("the link does not run")
        opened: list[tuple[Tunnel, trio.SocketListener]] = []
        try:
            for tunnel in self._tunnels:
                opened.append((tunnel, await self._open(tunnel)))  # noqa: PERF401 - what was opened must be closed
        except BaseException:
            for _, listener in opened:
                listener.socket.close()
            raise
        for tunnel, listener in opened:
            scope = trio.CancelScope()
            self._listeners.add(scope)
            nursery.start_soon(self._accept, listener, tunnel, scope, nursery)

    async def _open(self, tunnel: Tunnel) -> trio.SocketListener:
        with trio.move_on_after(_RELISTEN_TIMEOUT):
            while True:
                try:
                    return (await trio.open_tcp_listeners(tunnel.port, host=self._host))[0]
                except OSError:
                    await trio.sleep(0.1)
        raise UnavailableError(Reason.PORT_TAKEN, f"{self._host}:{tunnel.port}, the link's {tunnel.name}")

    async def _accept(
        self, listener: trio.SocketListener, tunnel: Tunnel, scope: trio.CancelScope, nursery: trio.Nursery
    ) -> None:
        async def carry(dialled: trio.SocketStream) -> None:
            await self._carry(dialled, tunnel)

        with scope, _member(scope, self._listeners):
            await trio.serve_listeners(carry, [listener], handler_nursery=nursery)

    async def _carry(self, dialled: trio.SocketStream, tunnel: Tunnel) -> None:
        """One connection, until it ends at either side or the link is cut by reset."""
        with trio.CancelScope() as scope, _member(scope, self._connections), _resetting(dialled):
            if self._cut is Cut.RESET:  # it was accepted just before
                return
            await self._carrying.wait()  # a black hole takes connections and leads nowhere
            try:
                with trio.fail_after(_CONNECT_TIMEOUT):
                    target = await trio.open_tcp_stream(self._host, tunnel.target_port)
            except (OSError, trio.TooSlowError):
                return
            with _resetting(target):
                async with trio.open_nursery() as both:
                    both.start_soon(self._pump, dialled, target, both.cancel_scope)
                    both.start_soon(self._pump, target, dialled, both.cancel_scope)
                if not both.cancel_scope.cancel_called:  # both said goodbye: what was sent still arrives
                    dialled.socket.close()
                    target.socket.close()

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, connection: trio.CancelScope) -> None:
        """Carry one direction until its sender ends it; a reset ends the whole connection."""
        try:
            while chunk := await source.receive_some(CHUNK_BYTES):
                await self._carrying.wait()
                await sink.send_all(chunk)
                self.bytes_carried += len(chunk)
            await self._carrying.wait()
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.cancel()


@contextmanager
def _resetting(stream: trio.SocketStream) -> Iterator[None]:
    """Reset a connection that is still open at the end, so that its peer hears of it at once."""
    try:
        yield
    finally:
        if stream.socket.fileno() >= 0:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            stream.socket.close()


@contextmanager
def _member(scope: trio.CancelScope, scopes: set[trio.CancelScope]) -> Iterator[None]:
    """Be in a set of scopes from entry to exit."""
    scopes.add(scope)
    try:
        yield
    finally:
        scopes.discard(scope)
