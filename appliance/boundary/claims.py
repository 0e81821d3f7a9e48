# SPDX-License-Identifier: Apache-2.0
"""Waiting primitives shared by the operations: change signals, and claims on ids that are being decided."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import trio

from appliance.boundary.errors import IntegrityError
from appliance.boundary.names import MessageId, ProducerId, ZoneId

Key = tuple[ProducerId, MessageId]
"""What identifies a fact within its origin zone."""


class Signal:
    """Wakes everybody who waits for the next change."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def fire(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = trio.Event()

    def next(self) -> trio.Event:
        """An event that the next change sets; take it before looking, wait after."""
        return self._event


class SettlingLog(Protocol):
    """A log that may hold facts which the ledger does not know yet."""

    @property
    def is_settled(self) -> bool:
        """Whether the ledger knows all there is in it (or it is damaged, and cannot be known)."""
        ...

    async def settled(self) -> object:
        """Make the ledger level with it. :raises BsfgError: not possible now."""
        ...


class IdClaims:
    """Ids that somebody is deciding right now.

    Categories commit side by side, but an id belongs to the whole zone: between looking an id up in the ledger and
    entering it there, nobody else may decide the same id. Nor may anybody while one of the ``logs`` of the zone may
    hold it without the ledger's knowledge.
    """

    def __init__(self) -> None:
        self.logs: list[SettlingLog] = []
        self._held: set[tuple[ZoneId, Key]] = set()
        self._released = Signal()

    @asynccontextmanager
    async def hold(self, origin: ZoneId, keys: Iterable[Key]) -> AsyncGenerator[None, None]:
        """Hold ids of an origin zone, waiting while another holds one of them."""
        wanted = {(origin, key) for key in keys}
        while not self._held.isdisjoint(wanted):
            await self._released.next().wait()
        self._held |= wanted
        try:
            yield
        finally:
            self._held -= wanted
            self._released.fire()

    @property
    def are_settled(self) -> bool:
        """Whether what the ledger says about ids is all there is to say."""
        return all(log.is_settled for log in self.logs)

    async def settle(self) -> None:
        """Settle every log that is not. :raises UnavailableError: the broker or the ledger is away."""
        for log in self.logs:
            if not log.is_settled:
                with suppress(IntegrityError):  # that log alone stops
                    await log.settled()
