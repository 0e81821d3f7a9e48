# SPDX-License-Identifier: Apache-2.0
"""Real brokers for service tests: on loopback, on free ports, in a temporary folder, ended by the test.

nats-py lives in asyncio and the tests in trio, so what a test does as a NATS client is a coroutine run in a thread.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import nats
import trio
from nats.aio.client import Client

from appliance.brokers.binary import BrokerBinary, find_broker
from appliance.brokers.config import Limits, Local, Secrets, write_config
from appliance.brokers.process import BrokerProcess

T = TypeVar("T")

SECRETS = Secrets("owner-password-0001", "system-password-0001")
LIMITS = Limits(max_file_store=256 * 1024 * 1024)
AGENT_INBOX = "_BSFG"
"""As the agent's own connections have it; it may not use the stock prefix."""


@cache
def binary() -> BrokerBinary:
    """The nats-server of this environment; looked for once."""
    return find_broker()


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def local() -> Local:
    """A listener on a free port."""
    return Local("127.0.0.1", free_port())


def process(folder: Path, name: str, text: str, listen: Local) -> BrokerProcess:
    """A broker with its configuration written, not started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{name}.conf"
    write_config(config, text)
    return BrokerProcess(binary(), config, folder / f"{name}.log", listen)


@asynccontextmanager
async def running(folder: Path, name: str, text: str, listen: Local) -> AsyncIterator[BrokerProcess]:
    """A broker that serves, and is ended whatever happens."""
    broker = process(folder, name, text, listen)
    await broker.start()
    try:
        yield broker
    finally:
        with trio.CancelScope(shield=True):
            await broker.stop()


async def as_client(scenario: Callable[[], Awaitable[T]], timeout_s: float = 60) -> T:
    """Run what a test does as a NATS client, to its end."""

    async def bounded() -> T:
        async with asyncio.timeout(timeout_s):
            return await scenario()

    return await trio.to_thread.run_sync(lambda: asyncio.run(bounded()))


@asynccontextmanager
async def connected(listen: Local, user: str, password: str, **options: Any) -> AsyncIterator[tuple[Client, list[str]]]:
    """A stock nats-py connection and the errors the broker told it (its own words, in small letters)."""
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error).lower())

    client = await nats.connect(
        f"nats://{listen}",
        user=user,
        password=password,
        allow_reconnect=False,
        connect_timeout=5,
        error_cb=note,
        **options,
    )
    try:
        yield client, errors
    finally:
        await client.close()


def knock(listen: Local, user: str, password: str) -> str:
    """What the broker answers to a CONNECT: ``PONG``, or ``-ERR`` and its words. Blocking."""
    with socket.create_connection((listen.host, listen.port), timeout=5) as connection:
        reader = connection.makefile("rb")
        assert reader.readline().startswith(b"INFO ")
        credentials = json.dumps({"user": user, "pass": password, "verbose": False, "lang": "test", "version": "0"})
        connection.sendall(f"CONNECT {credentials}\r\nPING\r\n".encode())
        answer = reader.readline()
        reader.close()
    return answer.decode().strip()


async def told(errors: list[str], words: str, within_s: float = 5) -> None:
    """Wait until the broker has told an error with these words. :raises TimeoutError: it has not."""

    async def has() -> bool:
        return any(words.lower() in error for error in errors)

    await eventually(has, within_s)


async def eventually(holds: Callable[[], Awaitable[bool]], within_s: float = 15) -> None:
    """Wait until something holds. :raises TimeoutError: it does not."""
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)
