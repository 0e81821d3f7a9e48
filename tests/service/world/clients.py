# SPDX-License-Identifier: Apache-2.0
"""Stock nats-py connections that leave nothing behind.

When nats-py reconnects by itself, it leaves every attempt that fails half-way to the garbage collector (2.16), which is
a warning and so an error here. So a connection that breaks is closed, and whoever needs it opens another.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from nats.aio.client import Client

from appliance.factlog.natslogin import NatsOptions

CONNECT_S: Final = 2
"""How long a broker may take to greet."""
STUCK_S: Final = 10
"""How long anything may take that nats-py itself puts no limit to."""


async def open_client(login: NatsOptions, **options: Any) -> Client:
    """A connection that does not come back when it breaks. Raises what nats-py raises."""
    client, connected = Client(), False

    async def heard(error: Exception) -> None:
        # nats-py reports here what every call raises anyway; but left alone, it tries the first connection for minutes.
        if not connected:
            raise error

    try:
        async with asyncio.timeout(STUCK_S):
            await client.connect(**login, **options, allow_reconnect=False, connect_timeout=CONNECT_S, error_cb=heard)
    except BaseException:
        await close(client)
        raise
    connected = True
    return client


async def close(client: Client) -> None:
    """End a connection, also one whose broker takes nothing any more. :raises TimeoutError: it does not end."""
    async with asyncio.timeout(STUCK_S):
        await client.close()
