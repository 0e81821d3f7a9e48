# SPDX-License-Identifier: Apache-2.0
"""The watchdog's end of the sensor's socket.

The kernel says whose process connects (SO_PEERCRED); nobody but the sensor's user is heard. A line that is no reading
ends the connection: the sensor makes another one, and what it sends meanwhile is old. A newer connection takes the
place of an older one, so that a sensor that hangs does not keep out the one that was started instead.

Usage::

    async with ReadingSocket(path, uid) as readings:
        async for reading in readings:
            ...
"""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio

from appliance.boundary.errors import BsfgError
from appliance.keys.unixsocket import callers, listening
from appliance.watchdog.probing import READING_BYTES, Reading

SOCKET: Final = Path("/run/bsfg/watchdog/readings.sock")
SENSOR_USER: Final = 959
QUEUE: Final = 64

_log = logging.getLogger(__name__)


class ReadingSocket:
    """Listens for the sensor; an asynchronous context, and then an iterator of what it says.

    :param path: of the socket; what lies there is replaced. :param user: whose process is heard.
    :ivar last_heard: when the last reading came, by the monotonic clock; ``None``: none came yet.
    :raises OSError, RefusedError: on entry: there can be no such socket.
    """

    def __init__(self, path: Path = SOCKET, user: int = SENSOR_USER) -> None:
        self.last_heard: float | None = None
        self._path = path
        self._user = user
        self._stack = AsyncExitStack()
        self._in, self._out = trio.open_memory_channel[Reading](QUEUE)
        self._current: trio.CancelScope | None = None

    async def __aenter__(self) -> Self:
        """Open it."""
        listener = self._stack.enter_context(listening(self._path))
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(self._accept, nursery, listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Close it."""
        return await self._stack.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        """What the sensor says."""
        return self

    async def __anext__(self) -> Reading:
        """The next reading, when it comes."""
        return await self._out.receive()

    async def _accept(self, nursery: trio.Nursery, listener: trio.socket.SocketType) -> None:
        async for accepted, user in callers(listener):
            if user != self._user:
                _log.warning("user %d is not the sensor", user)
                accepted.close()
                continue
            if self._current is not None:
                self._current.cancel()
            self._current = trio.CancelScope()
            nursery.start_soon(self._read, trio.SocketStream(accepted), self._current)

    async def _read(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        with scope:
            async with stream:
                try:
                    await self._lines(stream)
                except BsfgError as error:
                    _log.warning("the sensor's connection is dropped: %s", error)
                except trio.BrokenResourceError:
                    pass

    async def _lines(self, stream: trio.SocketStream) -> None:
        kept = bytearray()
        async for data in stream:
            kept += data
            *lines, rest = bytes(kept).split(b"\n")
            for line in lines:
                reading = Reading.parse(line + b"\n")
                self.last_heard = time.monotonic()
                await self._in.send(reading)
            if len(rest) > READING_BYTES:
                Reading.parse(rest)  # which refuses it
            kept = bytearray(rest)
