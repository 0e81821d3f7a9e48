# SPDX-License-Identifier: Apache-2.0
"""nats-py for everything that is not a page: streams and their metadata, from an asyncio loop in a thread of its own.

trio and asyncio stay apart: the only thing that crosses is a call and its result (ADR 0003).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats
import nats.errors
import trio
from nats.aio.client import Client
from nats.js.errors import APIError

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.factlog.natswire import INBOX_PREFIX, Credentials

T = TypeVar("T")

CALL_TIMEOUT_S = 5.0


class NatsIsland:
    """A nats-py client in its own thread; :meth:`call` runs a coroutine function with it."""

    def __init__(self, host: str, port: int, credentials: Credentials, *, name: str) -> None:
        self._url = f"nats://{host}:{port}"
        self._credentials = credentials
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._client: Client | None = None
        self._connecting: asyncio.Lock | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats-island", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[Client], Awaitable[T]], *, timeout_s: float = CALL_TIMEOUT_S) -> T:
        """Run ``function(client)`` on the island and wait for it.

        :raises UnavailableError: ``broker_unavailable``, outcome unknown.
        :raises nats.js.errors.APIError: the broker's own refusal, for the caller to interpret.
        """
        token, finished = trio.lowlevel.current_trio_token(), trio.Event()
        future = asyncio.run_coroutine_threadsafe(self._run(function, timeout_s), self._loop)
        future.add_done_callback(lambda _: token.run_sync_soon(finished.set))
        try:
            await finished.wait()
        except trio.Cancelled:
            future.cancel()
            raise
        try:
            return future.result()
        except APIError:
            raise
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{self._url}: {error!r}") from error

    def close(self) -> None:
        """End the connection and the thread."""
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result(CALL_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    async def _run(self, function: Callable[[Client], Awaitable[T]], timeout_s: float) -> T:
        async with asyncio.timeout(timeout_s):
            return await function(await self._connected())

    async def _connected(self) -> Client:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._client is None or not self._client.is_connected:
                await self._disconnect()
                self._client = await nats.connect(
                    self._url,
                    user=self._credentials.user,
                    password=self._credentials.password,
                    name=self._name,
                    inbox_prefix=INBOX_PREFIX,
                    allow_reconnect=False,
                    connect_timeout=2,
                    error_cb=_ignore,
                )
            return self._client

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            await client.close()


async def _ignore(error: Exception) -> None:
    """nats-py reports here what every call raises anyway."""
