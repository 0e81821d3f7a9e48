# SPDX-License-Identifier: Apache-2.0
"""The body of a call on its way in: bounded in size, in time, and together with all other calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.peer.limits import MIN_BYTES_PER_S, CallLimits

_CALLER_PART: Final = 4

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class GoneError(Exception):
    """The caller went away; there is nobody to answer."""


@dataclass(slots=True)
class _Share:
    """What somebody holds."""

    size: int = 0
    calls: int = 0


class Holding:
    """What all calls of a server hold in memory, together and caller by caller.

    One caller may have a quarter of it, so that no peer can keep the others out.
    """

    def __init__(self, max_bytes: int, max_calls: int) -> None:
        self._most = _Share(max_bytes, max_calls)
        self._all = _Share()
        self._callers: dict[str, _Share] = {}

    @contextmanager
    def call(self) -> Iterator[Hold]:
        """The share of one call, given back at its end."""
        hold = Hold(self)
        self._all.calls += 1
        try:
            yield hold
        finally:
            hold.add(-hold.size)
            self._all.calls -= 1
            self._leave(hold.caller)

    def enter(self, caller: str) -> None:
        """Count a call as this caller's."""
        self._callers.setdefault(caller, _Share()).calls += 1

    def add(self, caller: str, size: int) -> None:
        """Count bytes of a caller; an empty name is nobody's yet."""
        self._all.size += size
        if caller:
            self._callers[caller].size += size

    def check(self, caller: str) -> None:
        """:raises UnavailableError: ``busy`` when all callers, or this one, hold too much."""
        if self._all.size > self._most.size or self._all.calls > self._most.calls:
            raise UnavailableError(Reason.BUSY)
        share = self._callers.get(caller, _Share())
        if share.size > self._most.size // _CALLER_PART or share.calls > self._most.calls // _CALLER_PART:
            raise UnavailableError(Reason.BUSY, f"{share.calls} calls of {caller} are under way")

    def _leave(self, caller: str) -> None:
        if caller:
            self._callers[caller].calls -= 1
            if not self._callers[caller].calls:
                del self._callers[caller]


class Hold:
    """What one call holds in memory."""

    __slots__ = ("_holding", "caller", "size")

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self.caller = ""
        self.size = 0

    def belongs_to(self, caller: str) -> None:
        """Count the call as this caller's; before any bytes of it."""
        self.caller = caller
        self._holding.enter(caller)

    def add(self, size: int) -> None:
        """Count bytes that are kept until the call ends."""
        self.size += size
        self._holding.add(self.caller, size)

    def check(self) -> None:
        """:raises UnavailableError: ``busy`` when all callers together, or this one, hold too much."""
        self._holding.check(self.caller)


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
