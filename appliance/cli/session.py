# SPDX-License-Identifier: Apache-2.0
"""A stock NATS client for commands: connects to a zone's facts broker as a local user, quietly and patiently."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

import nats.errors
from nats.aio.client import Client

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.factlog.natslogin import NatsOptions

CONNECT_TIMEOUT: Final = 2
CLOSE_TIMEOUT: Final = 5
_RETRY: Final = 0.2


class Patience:
    """How long to go on without any progress, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def progressed(self) -> None:
        """Something moved: start counting anew."""
        self._last = time.monotonic()

    def check(self, cause: object = "", reason: Reason = Reason.BROKER_UNAVAILABLE) -> None:
        """:raises UnavailableError: nothing moved for too long, for the reason given."""
        if time.monotonic() - self._last >= self._seconds:
            raise UnavailableError(reason, f"no progress for {self._seconds:g} s: {cause}")


async def connect(
    login: NatsOptions,
    patience: Patience,
    *,
    on_error: Callable[[Exception], Awaitable[None]] | None = None,
    on_reconnect: Callable[[], Awaitable[None]] | None = None,
) -> Client:
    """Connect, again and again while patience lasts; later the client reconnects by itself.

    :param login: address and proof, as ``Environment.facts_login`` gives them.
    :raises UnavailableError: ``broker_unavailable``.
    :raises DeniedError: ``bad_credential``.
    """
    connected = False

    async def heard(error: Exception) -> None:
        # Left alone, the client would try the first connection for ever.
        if not connected:
            raise error
        if on_error is not None:
            await on_error(error)

    while True:
        client = Client()
        try:
            await client.connect(
                **login,
                name="bsfg",
                error_cb=heard,
                reconnected_cb=on_reconnect,
                connect_timeout=CONNECT_TIMEOUT,
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RETRY,  # type: ignore[arg-type] # it is slept, and may be a fraction
            )
            connected = True
            return client
        except (OSError, TimeoutError, nats.errors.Error) as error:
            await close(client)
            if isinstance(error, nats.errors.AuthorizationError) or "authorization" in str(error).lower():
                raise DeniedError(Reason.BAD_CREDENTIAL, "the broker does not know this user") from error
            patience.check(error)
            await asyncio.sleep(_RETRY)


async def close(client: Client) -> None:
    """Hang up; that the broker hung up first is no error."""
    # The last two: while it reconnects, the client writes to a transport that asyncio has taken apart (Python 3.12+).
    with contextlib.suppress(OSError, nats.errors.Error, AttributeError, TypeError):
        async with asyncio.timeout(CLOSE_TIMEOUT):  # nats-py waits without end for a broker that takes nothing
            await client.close()
