# SPDX-License-Identifier: Apache-2.0
"""nats-py in a thread of its own, called from trio: results, errors, time-outs, cancellation, and its end."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
import trio
from nats.aio.client import Client
from nats.js.errors import APIError, NotFoundError

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers.config import AGENT_USER
from appliance.factlog import island as island_module
from appliance.factlog.island import NatsIsland
from appliance.factlog.natslogin import CredentialsFile
from tests.brokers import local
from tests.doors import door
from tests.wires import facts_broker, island_to, stopped, until


async def account(client: Client) -> int:
    """A question to JetStream: how many streams there are."""
    return (await client.jetstream().account_info()).streams


def island_threads() -> list[threading.Thread]:
    """The threads of islands that still live."""
    return [thread for thread in threading.enumerate() if thread.name == "nats-island"]


async def test_calls_cross_and_results_come_back(tmp_path: Path) -> None:
    """Many at once, over one connection; the event loop of the caller goes on meanwhile."""
    async with facts_broker(tmp_path) as (_, listen):
        with island_to(listen) as island:
            assert await island.call(account) == 0
            results: list[int] = []

            async def ask() -> None:
                results.append(await island.call(account))

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(ask)
            assert results == [0] * 50
            here = threading.get_ident()

            async def where(client: Client) -> tuple[int, Client]:
                return threading.get_ident(), client

            (thread, first), (_, second) = await island.call(where), await island.call(where)
            assert thread != here
            assert first is second


async def test_a_call_ends_when_its_time_is_over(tmp_path: Path) -> None:
    """With an unknown outcome; the next call works."""
    async with facts_broker(tmp_path) as (_, listen):
        with island_to(listen) as island:

            async def never(client: Client) -> None:
                await asyncio.sleep(60)

            with trio.fail_after(2), pytest.raises(UnavailableError) as failed:
                await island.call(never, timeout_s=0.2)
            assert failed.value.reason is Reason.BROKER_UNAVAILABLE
            assert await island.call(account) == 0


async def test_the_brokers_refusal_passes_through(tmp_path: Path) -> None:
    """The caller knows what it asked for, and so what a refusal means."""
    async with facts_broker(tmp_path) as (_, listen):
        with island_to(listen) as island:
            with pytest.raises(NotFoundError):
                await island.call(lambda client: client.jetstream().stream_info("NONE"))
            with pytest.raises(APIError) as refused:
                await island.call(lambda client: client.jetstream().add_stream(name="A", subjects=["$JS.API.>"]))
            assert refused.value.err_code


async def test_a_broker_that_is_away(tmp_path: Path) -> None:
    """Before it starts, killed in mid-call, and back again: only the last one works."""
    async with facts_broker(tmp_path) as (broker, listen):
        with island_to(listen) as island:
            await broker.kill()
            with trio.fail_after(5), pytest.raises(UnavailableError) as failed:
                await island.call(account)
            assert failed.value.reason is Reason.BROKER_UNAVAILABLE
            await broker.start()
            assert await island.call(account) == 0
            entered = threading.Event()

            async def waits(client: Client) -> None:
                entered.set()
                subscription = await client.subscribe("_BSFG.nothing")
                await subscription.next_msg(timeout=30)

            async def fails_at_once() -> None:
                with pytest.raises(UnavailableError):
                    await island.call(waits)

            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fails_at_once)
                    await until(entered.is_set)
                    await broker.kill()
            await broker.start()
            assert await island.call(account) == 0


async def test_refused_credentials_are_unavailable(tmp_path: Path) -> None:
    """Not a crash: the right ones may come, and are then taken."""
    file = tmp_path / "a.creds"
    file.write_bytes(door(tmp_path / "other").login(AGENT_USER).path.read_bytes())
    async with facts_broker(tmp_path) as (_, listen):
        with island_to(listen, CredentialsFile(file)) as island:
            with trio.fail_after(5), pytest.raises(UnavailableError) as failed:
                await island.call(account)
            assert failed.value.reason is Reason.BROKER_UNAVAILABLE
            file.unlink()
            with trio.fail_after(5), pytest.raises(UnavailableError, match="No such file"):
                await island.call(account)
            file.write_bytes(listen.login(AGENT_USER).path.read_bytes())
            assert await island.call(account) == 0


async def test_a_cancelled_call_is_cancelled_over_there(tmp_path: Path) -> None:
    """Nothing goes on that nobody waits for; the island works on."""
    async with facts_broker(tmp_path) as (_, listen):
        with island_to(listen) as island:
            entered, cancelled = threading.Event(), threading.Event()

            async def never(client: Client) -> None:
                entered.set()
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            async with trio.open_nursery() as nursery:
                nursery.start_soon(island.call, never)
                await until(entered.is_set)
                nursery.cancel_scope.cancel()
            await until(cancelled.is_set, 2)  # long before its own time-out
            assert await island.call(account) == 0


async def test_closing_leaves_no_thread_and_no_connection(tmp_path: Path) -> None:
    """Connected or not, and while a call is still out."""
    assert island_threads() == []
    async with facts_broker(tmp_path) as (_, listen):
        unused = NatsIsland(listen.host, listen.port, listen.login(AGENT_USER), name="unused")
        used = NatsIsland(listen.host, listen.port, listen.login(AGENT_USER), name="used")
        await used.call(account)

        async def never(client: Client) -> None:
            await asyncio.sleep(60)

        async def call() -> None:
            with pytest.raises(UnavailableError):
                await used.call(never)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await trio.sleep(0.1)
                unused.close()
                used.close()
        assert island_threads() == []
    away = NatsIsland("127.0.0.1", local().port, listen.login(AGENT_USER), name="away")
    with pytest.raises(UnavailableError):
        await away.call(account)
    away.close()
    assert island_threads() == []


async def test_closing_does_not_wait_for_a_broker_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node must be able to end, whatever its broker does."""
    monkeypatch.setattr(island_module, "CLOSE_TIMEOUT_S", 0.3)
    async with facts_broker(tmp_path) as (broker, listen):
        island = NatsIsland(listen.host, listen.port, listen.login(AGENT_USER), name="test")
        await island.call(account)
        with stopped(broker):
            with pytest.raises(UnavailableError):
                await island.call(account, timeout_s=0.2)
            begun = time.monotonic()
            island.close()
            assert time.monotonic() - begun < 3
        assert island_threads() == []
