# SPDX-License-Identifier: Apache-2.0
"""The body of a call on its way in: bounded in size, in time, and together with all other calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import trio

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.peer.limits import MIN_BYTES_PER_S, CallLimits

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class GoneError(Exception):
    """The caller went away; there is nobody to answer."""


class Holding:
    """What all calls of a server hold in memory, together."""

    def __init__(self, max_bytes: int, max_calls: int) -> None:
        self._max_bytes = max_bytes
        self._max_calls = max_calls
        self._bytes = 0
        self._calls = 0

    @property
    def full(self) -> bool:
        """Whether another call, or more of one, should be put off."""
        return self._bytes > self._max_bytes or self._calls > self._max_calls

    @contextmanager
    def call(self) -> Iterator[Hold]:
        """The share of one call, given back at its end."""
        hold = Hold(self)
        self._calls += 1
        try:
            yield hold
        finally:
            self._calls -= 1
            self._bytes -= hold.size

    def add(self, size: int) -> None:
        """Count bytes of some call."""
        self._bytes += size


class Hold:
    """What one call holds in memory."""

    __slots__ = ("_all", "size")

    def __init__(self, holding: Holding) -> None:
        self._all = holding
        self.size = 0

    def add(self, size: int) -> None:
        """Count bytes that are kept until the call ends."""
        self.size += size
        self._all.add(size)

    def check(self) -> None:
        """:raises UnavailableError: ``busy`` when all calls together hold too much."""
        if self._all.full:
            raise UnavailableError(Reason.BUSY)


class Body:
    """A request body as ASGI delivers it."""

    def __init__(self, receive: Receive, limits: CallLimits, hold: Hold) -> None:
        self._receive = receive
        self._limits = limits
        self._hold = hold
        self._started = trio.current_time()
        self._received = 0
        self._complete = False

    async def read(self) -> bytes:
        """The whole body.

        :raises RefusedError: ``too_large``.
        :raises UnavailableError: ``busy``; ``peer_timeout`` when it comes more slowly than the slowest useful rate.
        :raises GoneError: the caller went away.
        """
        chunks: list[bytes] = []
        with trio.CancelScope() as patience:
            while not self._complete:
                self._hold.check()
                chunk = await self._chunk(patience)
                if self._received > self._limits.body_bytes:
                    raise RefusedError(Reason.TOO_LARGE, f"a request may have {self._limits.body_bytes} bytes")
                self._hold.add(len(chunk))
                chunks.append(chunk)
        if patience.cancelled_caught:
            raise UnavailableError(Reason.PEER_TIMEOUT, f"only {self._received} bytes of the request came")
        return b"".join(chunks)

    async def discard(self) -> None:
        """Take the rest of a refused body, within the same bounds, so that its sender gets to read the refusal."""
        start = self._received
        with trio.CancelScope() as patience:
            try:
                while not self._complete and self._received - start <= self._limits.body_bytes:
                    await self._chunk(patience)
            except GoneError:
                return

    async def gone(self) -> None:
        """Wait until the caller goes away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _chunk(self, patience: trio.CancelScope) -> bytes:
        patience.deadline = self._started + self._limits.stall_s + self._received / MIN_BYTES_PER_S
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise GoneError
        chunk: bytes = event.get("body", b"")
        self._received += len(chunk)
        self._complete = not event.get("more_body", False)
        return chunk
