# SPDX-License-Identifier: Apache-2.0
"""nats-py for everything that is not a page: streams and their metadata, from an asyncio loop in a thread of its own.

trio and asyncio stay apart: the only thing that crosses is a call and its result (ADR 0003).
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TypeVar

import nats.errors
import trio
from nats.aio.client import Client
from nats.js.errors import APIError

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.factlog.natslogin import Login, client_options
from appliance.factlog.natswire import INBOX_PREFIX

T = TypeVar("T")

CALL_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
CONNECT_ATTEMPTS = 2
"""nats-py repeats also the first attempt, up to this often; a call must not use up its time with that."""


class NatsIsland:
    """A nats-py client in its own thread; :meth:`call` runs a coroutine function with it.

    :param tls: as for :class:`~appliance.factlog.natswire.NatsWire`.
    """

    def __init__(self, host: str, port: int, login: Login, *, name: str, tls: ssl.SSLContext | None = None) -> None:
        self._url = f"nats://{host}:{port}"
        self._login, self._tls = login, tls
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
        except (nats.errors.Error, OSError, TimeoutError, CancelledError) as error:
            # Cancelled without our doing: nats-py cancels what waits on a connection that it closes.
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{self._url}: {error!r}") from error

    def close(self) -> None:
        """End the connection and the thread; calls that are still out fail. A broker that hangs is not waited for."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(3 * CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():  # else it is left alone: it keeps nobody from ending
            self._loop.close()

    async def _end(self) -> None:
        with suppress(nats.errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._disconnect()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:  # calls that are still out, and what a broken connection may have left
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CLOSE_TIMEOUT_S)

    async def _run(self, function: Callable[[Client], Awaitable[T]], timeout_s: float) -> T:
        async with asyncio.timeout(timeout_s):
            return await function(await self._connected())

    async def _connected(self) -> Client:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._client is None or not self._client.is_connected:
                await self._disconnect()
                self._client = await self._connect()
            return self._client

    async def _connect(self) -> Client:
        client = Client()
        try:
            await client.connect(
                self._url,
                **client_options(self._login),
                tls=self._tls,
                name=self._name,
                inbox_prefix=INBOX_PREFIX,
                allow_reconnect=False,
                connect_timeout=2,
                max_reconnect_attempts=CONNECT_ATTEMPTS - 1,
                reconnect_time_wait=0.1,  # type: ignore[arg-type] # it sleeps for it
                error_cb=_ignore,
            )
        except BaseException:
            await client.close()
            raise
        return client

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            await client.close()


async def _ignore(error: Exception) -> None:
    """nats-py reports here what every call raises anyway."""
