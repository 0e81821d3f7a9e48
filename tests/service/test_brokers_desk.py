# SPDX-License-Identifier: Apache-2.0
"""The readers' desk on a real nats-server: stock consumers work by subject alone, and none can write into a log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
import pytest
import trio
from nats.aio.client import Client

from appliance.boundary.names import ProducerId
from appliance.brokers.accounts import LocalRights
from appliance.brokers.config import AGENT_USER
from appliance.brokers.desk import ReaderDesk
from appliance.factlog.natswire import NatsWire
from tests.brokers import AGENT_INBOX, as_client, running
from tests.doors import Door, door, entered

HMI = LocalRights(ProducerId("hmi"), produces=False, reads=True)
AUDIT, OPERATIONAL = "FACTS_AUDIT", "FACTS_OPERATIONAL"
COUNT = 50


@asynccontextmanager
async def desk(listen: Door) -> AsyncIterator[None]:
    """The agent's part: its connection and the desk."""
    wire = NatsWire(listen.host, listen.port, listen.login(AGENT_USER), name="desk")
    clerks = ReaderDesk(wire)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)
        nursery.start_soon(clerks.run)
        await wire.wait_connected()
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def agent(listen: Door) -> AsyncIterator[Client]:
    """A plain client with the agent's rights."""
    async with entered(listen, AGENT_USER, inbox_prefix=AGENT_INBOX) as (client, _):
        yield client


async def fill(listen: Door) -> None:
    """Two logs as the agent makes them; facts in one of them."""
    async with agent(listen) as client:
        for name, listens in ((OPERATIONAL, "log.facts.operational.plant-a.>"), (AUDIT, "log.facts.audit.plant-a.>")):
            config = {
                "name": name,
                "subjects": [listens],
                "subject_transform": {"src": "log.facts.>", "dest": "facts.>"},
                "storage": "file",
                "retention": "limits",
                "num_replicas": 1,
            }
            answer = await client.request(f"$JS.API.STREAM.CREATE.{name}", json.dumps(config).encode())
            assert b"error" not in answer.data
        for i in range(COUNT):
            await client.jetstream().publish("log.facts.operational.plant-a.all.press-4.t", b"%d" % i)


async def stored(listen: Door, name: str) -> int:
    """How many facts a log has."""
    async with agent(listen) as client:
        return (await client.jetstream().stream_info(name)).state.messages


async def with_desk(folder: Path, scenario: Callable[[Door], Awaitable[None]]) -> None:
    """Run a scenario against nats-facts with its desk."""
    listen = door(folder, HMI)
    async with running(folder, "facts", listen.text(desk=True), listen.listen):
        await as_client(lambda: fill(listen))
        async with desk(listen):
            await as_client(lambda: scenario(listen))


async def test_stock_consumers_find_the_stream_by_its_subject(tmp_path: Path) -> None:
    """No stream name, no option: pull, push and ordered."""

    async def scenario(listen: Door) -> None:
        expected = [b"%d" % i for i in range(COUNT)]
        async with entered(listen, "hmi") as (reader, errors):
            js = reader.jetstream()
            pull = await js.pull_subscribe("facts.operational.>", durable="screen")
            assert [message.data for message in await pull.fetch(COUNT, timeout=5)] == expected
            push = await js.subscribe("facts.operational.plant-a.>")
            assert [(await push.next_msg(timeout=5)).data for _ in range(COUNT)] == expected
            ordered = await js.subscribe("facts.operational.plant-a.all.press-4.>", ordered_consumer=True)
            assert [(await ordered.next_msg(timeout=5)).data for _ in range(COUNT)] == expected
            with pytest.raises(nats.js.errors.NotFoundError):
                await js.subscribe("facts.nothing.>")
            assert errors == []

    await with_desk(tmp_path, scenario)


async def call(client: Client, name: str, deliver: str, **more: Any) -> dict[str, Any]:
    """Create or update a push consumer."""
    config = {"name": name, "durable_name": name, "deliver_subject": deliver, "ack_policy": "none", **more}
    body = json.dumps({"stream_name": OPERATIONAL, "config": config}).encode()
    answer = await client.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{OPERATIONAL}.{name}", body, timeout=5)
    document: dict[str, Any] = json.loads(answer.data)
    return document


FORGED = "log.facts.audit.plant-a.all.press-4.forged"


async def test_no_consumer_writes_into_a_log(tmp_path: Path) -> None:
    """Neither when it is made, nor when it is moved while active, nor by a restart of the broker."""
    listen = door(tmp_path, HMI)

    async def attack() -> None:
        async with entered(listen, "hmi") as (client, _):
            made = await call(client, "at-once", FORGED)
            assert "bad_request" in made["error"]["description"]
            for i in range(60):
                inbox = f"_INBOX.race{i}"
                subscription = await client.subscribe(inbox)
                # Slow, so that it is in the middle of delivering when it is moved.
                assert "error" not in await call(client, f"race{i}", inbox, rate_limit_bps=100)
                await subscription.unsubscribe()
                moved = await call(client, f"race{i}", FORGED, rate_limit_bps=100)
                assert moved["error"]["code"] == 400
            ephemeral = {"deliver_subject": FORGED, "inactive_threshold": 3600 * 10**9, "ack_policy": "none"}
            body = json.dumps({"stream_name": OPERATIONAL, "config": ephemeral}).encode()
            answer = await client.request(f"$JS.API.CONSUMER.CREATE.{OPERATIONAL}", body, timeout=5)
            assert "bad_request" in json.loads(answer.data)["error"]["description"]
            await asyncio.sleep(0.5)

    async with running(tmp_path, "facts", listen.text(desk=True), listen.listen) as broker:
        await as_client(lambda: fill(listen))
        async with desk(listen):
            await as_client(attack)
            assert await as_client(lambda: stored(listen, AUDIT)) == 0
            await broker.stop()
            await broker.start()
            await trio.sleep(1)
            assert await as_client(lambda: stored(listen, AUDIT)) == 0
            assert await as_client(lambda: stored(listen, OPERATIONAL)) == COUNT


async def test_reading_goes_on_while_the_desk_is_away(tmp_path: Path) -> None:
    """Only a new consumer has to wait, and hears so at once."""
    listen = door(tmp_path, HMI)

    async def make() -> None:
        async with entered(listen, "hmi") as (reader, _):
            await reader.jetstream().pull_subscribe("facts.operational.>", durable="screen")

    async def read() -> None:
        async with entered(listen, "hmi") as (reader, _):
            pull = await reader.jetstream().pull_subscribe_bind("screen", OPERATIONAL)
            assert len(await pull.fetch(COUNT, timeout=5)) == COUNT
            before = time.monotonic()
            with pytest.raises((nats.errors.NoRespondersError, nats.js.errors.ServiceUnavailableError)):
                await reader.jetstream().pull_subscribe("facts.operational.>", durable="other")
            assert time.monotonic() - before < 2

    async with running(tmp_path, "facts", listen.text(desk=True), listen.listen):
        await as_client(lambda: fill(listen))
        async with desk(listen):
            await as_client(make)
        await as_client(read)


async def test_many_readers_at_once_are_all_answered(tmp_path: Path) -> None:
    """Those beyond what the desk can hold are told to come again."""

    async def scenario(listen: Door) -> None:
        async with entered(listen, "hmi") as (reader, _):
            body = json.dumps({"stream_name": OPERATIONAL, "config": {"ack_policy": "none"}}).encode()
            asked = [reader.request(f"$JS.API.CONSUMER.CREATE.{OPERATIONAL}", body, timeout=20) for _ in range(1000)]
            answers = [json.loads(message.data) for message in await asyncio.gather(*asked)]
        refused = [answer["error"] for answer in answers if "error" in answer]
        assert {error["code"] for error in refused} <= {503}
        assert len(answers) - len(refused) >= 256
        assert len({answer["name"] for answer in answers if "error" not in answer}) == len(answers) - len(refused)

    await with_desk(tmp_path, scenario)
