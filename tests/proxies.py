# SPDX-License-Identifier: Apache-2.0
"""An HTTP proxy that knows CONNECT and nothing else, for tests: it connects, refuses, or answers what it is told."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

LOOPBACK: Final = "127.0.0.1"
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ConnectProxy:
    """A proxy. :ivar asked: what it was asked to connect to, in order.

    :ivar answer: said to each request; connects only where that is :data:`ESTABLISHED`. :ivar delay_s: before it.
    :ivar leads: what a target is for this proxy; else the target itself on loopback.
    """

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.requests: list[bytes] = []
        self.answer: bytes = ESTABLISHED
        self.delay_s = 0.0
        self.leads: dict[str, int] = {}

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; reports its port."""
        listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started(self.port)
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, near: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            async with near:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await near.receive_some() or b"\r\n\r\n"
                target = head.split(b" ")[1].decode()
                self.asked.append(target)
                self.requests.append(head)
                await trio.sleep(self.delay_s)
                if self.answer:
                    await near.send_all(self.answer)
                if self.answer == ESTABLISHED:
                    await self._connect(near, target)

    async def _connect(self, near: trio.SocketStream, target: str) -> None:
        port = self.leads.get(target) or int(target.rpartition(":")[2])
        async with await trio.open_tcp_stream(LOOPBACK, port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, near, far)
            nursery.start_soon(self._copy, far, near)

    @staticmethod
    async def _copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some():
                await target.send_all(data)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await target.send_eof()
