# SPDX-License-Identifier: Apache-2.0
"""A zone's runtime on a real broker, used by stock nats-py producers through restarts of everything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
import trio
from nats.aio.client import Client
from nats.js.api import PubAck
from nats.js.errors import APIError, NoStreamResponseError

from appliance.boundary.errors import BsfgError, UnavailableError, first_error
from appliance.boundary.reasons import Reason
from appliance.brokers.durability import REQUEST
from appliance.dev.environment import FACTS_PORT, Environment
from appliance.dev.layout import PLANT
from appliance.factlog.nats_intake import ERROR_CODE
from appliance.factlog.natsproto import publish as publish_frame
from appliance.node import zone as zone_module
from appliance.node.config import NodeConfig
from appliance.node.status import StatusDocument
from appliance.node.zone import ZoneRuntime
from tests.brokers import as_client, eventually
from tests.produced import document, payload, subject
from tests.wires import until
from tests.zones import AUDIT, nothing, running_broker, running_zone, two_zones

SENSORS = subject(producer="sensors")


@asynccontextmanager
async def client(environment: Environment, user: str = "sensors") -> AsyncIterator[Client]:
    """A stock connection of a local user."""
    connection = await nats.connect(**environment.facts_login(PLANT, user), allow_reconnect=False)
    try:
        yield connection
    finally:
        await connection.close()


async def as_producer(environment: Environment, scenario: Callable[[Client], Awaitable[Any]]) -> Any:
    """Do something as a stock producer."""

    async def connected() -> Any:
        async with client(environment) as connection:
            return await scenario(connection)

    return await as_client(connected)


async def publish(environment: Environment, message_id: str, **values: Any) -> PubAck:
    """Publish one fact as ``sensors``."""

    async def scenario(connection: Client) -> PubAck:
        return await connection.jetstream().publish(SENSORS, payload(message_id, **values), timeout=10)

    ack = await as_producer(environment, scenario)
    assert isinstance(ack, PubAck)
    return ack


async def refused(environment: Environment, where: str, content: bytes, **options: Any) -> APIError:
    """The error a stock producer gets for one message."""

    async def scenario(connection: Client) -> APIError:
        with pytest.raises(APIError) as failed:
            await connection.jetstream().publish(where, content, timeout=10, **options)
        return failed.value

    error = await as_producer(environment, scenario)
    assert isinstance(error, APIError)
    return error


async def test_a_stock_producer_is_answered_as_by_jetstream(tmp_path: Path) -> None:
    """Stored, a duplicate with the first offset, and refusals whose text begins with the reason."""
    environment = two_zones(tmp_path)
    async with running_broker(environment), running_zone(environment) as zone:
        first = await publish(environment, "a", n=1)
        assert (first.stream, first.seq, first.duplicate) == ("FACTS_AUDIT", 1, None)
        again = await publish(environment, "a", n=1)
        assert (again.seq, again.duplicate) == (1, True)
        conflict = await refused(environment, SENSORS, payload("a", n=2))
        assert (conflict.code, conflict.err_code) == (409, ERROR_CODE)
        assert str(conflict.description).startswith("conflicting_duplicate: stored sha256 ")
        for content, options, reason in (
            (b"not json", {}, "malformed_json"),
            (payload("b", origin="enterprise"), {}, "zone_mismatch"),
            (payload("b", n=2**60), {}, "number_range"),
            (payload("b", text="x" * 300_000), {}, "too_large"),
            (payload("b"), {"headers": {"Nats-Msg-Id": "c"}}, "id_mismatch"),
            (json.dumps({**document("b"), "more": 1}).encode(), {}, "unknown_field"),
        ):
            error = await refused(environment, SENSORS, content, **options)
            assert error.code == 400
            assert str(error.description).startswith(f"{reason}: ")
        second = await publish(environment, "b")
        assert second.seq == 2
        log = await zone.stores[AUDIT].settled()
        assert [record.headers["Bsfg-Id"] for record in await log.read(0, 10, 10**6)] == ["a", "b"]
        (store,) = [s for s in zone.status().stores if s.category == "audit"]
        assert (store.last_offset, store.stored, store.duplicate, store.conflict, store.invalid) == (2, 2, 1, 1, 6)


async def test_many_producers_share_the_fsyncs(tmp_path: Path) -> None:
    """Side by side over several connections: each its own offset, and far fewer appends than facts."""
    environment = two_zones(tmp_path)
    async with running_broker(environment), running_zone(environment) as zone:
        intake = zone.intakes[AUDIT]
        groups = 0
        commit = intake._store.commit

        async def counted(units: Any) -> Any:
            nonlocal groups
            groups += 1
            return await commit(units)

        intake._store.commit = counted  # type: ignore[method-assign]

        async def produce(connection: Client) -> list[int]:
            js = connection.jetstream()
            acks = await asyncio.gather(*(js.publish(SENSORS, payload(f"m-{n}"), timeout=20) for n in range(400)))
            return [ack.seq for ack in acks]

        seqs = await as_producer(environment, produce)
        assert sorted(seqs) == list(range(1, 401))
        assert groups < 100


async def test_without_the_node_a_producer_hears_so_at_once(tmp_path: Path) -> None:
    """Nothing is stored past it."""
    environment = two_zones(tmp_path)
    async with running_broker(environment):

        async def scenario(connection: Client) -> None:
            with pytest.raises((NoStreamResponseError, nats.errors.NoRespondersError)):
                await connection.jetstream().publish(SENSORS, payload("a"), timeout=5)

        await as_producer(environment, scenario)


async def test_restarts_of_broker_and_node_lose_and_double_nothing(tmp_path: Path) -> None:
    """Killed brokers, another node on the same files, and a ledger that was deleted: ids and offsets go on."""
    environment = two_zones(tmp_path)
    async with running_broker(environment) as broker:
        async with running_zone(environment) as zone:
            assert (await publish(environment, "a")).seq == 1
            await broker.kill()
            assert not (await _status_when(environment, connected=False)).broker.connected
            await broker.start()
            status = await _status_when(environment, connected=True)
            assert status.broker.connects == 2
            assert not status.problems
            assert (await publish(environment, "b")).seq == 2
            assert (await publish(environment, "a")).duplicate
            end = zone.stores[AUDIT].end
        async with running_zone(environment) as zone:
            assert zone.stores[AUDIT].end == end
            assert (await publish(environment, "b")).duplicate
            assert (await publish(environment, "c")).seq == 3
            end = zone.stores[AUDIT].end
        for path in environment.layout.zone(PLANT).state.iterdir():
            path.unlink()
        async with running_zone(environment) as zone:
            assert zone.stores[AUDIT].end == end
            assert (await publish(environment, "a")).duplicate
            assert (await publish(environment, "d")).seq == 4


async def _status_when(environment: Environment, *, connected: bool) -> StatusDocument:
    path = environment.layout.zone(PLANT).status / "zone.json"
    with trio.fail_after(10):
        while True:
            status = StatusDocument.read(path)
            if status.broker.connected is connected and (not connected or not status.problems):
                return status
            await trio.sleep(0.05)


async def test_a_foreign_record_stops_its_category_alone(tmp_path: Path) -> None:
    """What this zone did not write must not be handed on as its own; the producers of that log hear the reason."""
    environment = two_zones(tmp_path)
    async with running_broker(environment), running_zone(environment) as zone:
        assert (await publish(environment, "a")).seq == 1
        zone.wire.send(publish_frame("log." + SENSORS, b"forged"))
        error = await refused(environment, SENSORS, payload("b"))
        assert error.code == 503
        error = await refused(environment, SENSORS, payload("b"))
        assert str(error.description).startswith("log_damaged: ")
        assert "log_damaged" in {problem.reason for problem in zone.status().problems}

        async def telemetry(connection: Client) -> int:
            where = subject("telemetry", producer="sensors")
            return (await connection.jetstream().publish(where, payload("c"), timeout=10)).seq

        assert await as_producer(environment, telemetry) == 1


async def test_producers_go_on_through_a_killed_broker(tmp_path: Path) -> None:
    """Each repeats what was not answered; in the end every fact is there once."""
    environment = two_zones(tmp_path)
    async with running_broker(environment) as broker, running_zone(environment) as zone:

        async def produce() -> None:
            login = environment.facts_login(PLANT, "sensors")
            connection = await nats.connect(
                **login, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=_ignore
            )
            try:
                await asyncio.gather(*(_produce_slowly(connection, range(n, 600, 30)) for n in range(30)))
            finally:
                await connection.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(as_client, produce)
            for _ in range(2):
                await until(lambda: zone.wire.connected and zone.stores[AUDIT].end.offset > 0)
                await trio.sleep(0.05)
                await broker.kill()
                await broker.start()
        with trio.fail_after(10):
            await zone.wire.wait_connected()
        assert zone.wire.connects == 3
        log = await zone.stores[AUDIT].settled()
        records = await log.read(0, 1000, 10**7)
        assert sorted(r.headers["Bsfg-Id"] for r in records) == sorted(f"m-{n}" for n in range(600))
        assert [record.seq for record in records] == list(range(1, 601))


async def _produce_slowly(connection: Client, numbers: range) -> None:
    for number in numbers:
        await _until_told(connection, f"m-{number}")
        await asyncio.sleep(0.02)


async def _until_told(connection: Client, message_id: str) -> None:
    async def told() -> bool:
        try:
            await connection.jetstream().publish(SENSORS, payload(message_id), timeout=1)
        except (nats.errors.Error, OSError):
            return False
        return True

    await eventually(told, 40)


async def _ignore(error: Exception) -> None:
    """Disconnects are what this is about."""


async def run_out(environment: Environment) -> BsfgError:
    """Run a zone until it gives up; why."""
    runtime = ZoneRuntime("zone", NodeConfig.load(environment.layout.zone(PLANT).node_config))
    failed: list[BsfgError] = []
    with trio.fail_after(20):
        try:
            await runtime.run(nothing)
        except* BsfgError as errors:
            failed.append(first_error(errors))
    return failed[0]


def make_lax(environment: Environment) -> None:
    """Let the broker acknowledge before it has written."""
    path = environment.layout.zone(PLANT).facts_config
    text = path.read_text()
    assert '"always"' in text
    path.write_text(text.replace('"always"', '"2m"'))


async def test_a_broker_that_is_not_durable_is_not_used(tmp_path: Path) -> None:
    """Not at the start, and not after it came back with another configuration; the status says why."""
    environment = two_zones(tmp_path)
    path = environment.layout.zone(PLANT).status / "zone.json"
    async with running_broker(environment) as broker:
        failed: list[BsfgError] = []

        async def run() -> None:
            failed.append(await run_out(environment))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: path.exists() and StatusDocument.read(path).ready)
            await broker.stop()
            make_lax(environment)
            await broker.start()
        assert failed[0].reason is Reason.BROKER_NOT_DURABLE
        assert "broker_not_durable" in {problem.reason for problem in StatusDocument.read(path).problems}
        path.unlink()
        assert (await run_out(environment)).reason is Reason.BROKER_NOT_DURABLE
        (problem,) = StatusDocument.read(path).problems
        assert (problem.reason, problem.where) == ("broker_not_durable", "broker")
        assert "sync_interval" in problem.hint


async def test_a_broker_that_is_too_old_is_not_used(tmp_path: Path) -> None:
    """Simulated: something that speaks the protocol and says it is nats-server 2.12."""
    environment = two_zones(tmp_path)
    port = environment.ports[FACTS_PORT[PLANT]]
    config = {"max_storage": 1, "max_memory": 1, "store_dir": "x", "sync_always": True}
    report = json.dumps({"server": {"id": "N", "name": "old", "ver": "2.12.1"}, "data": {"config": config}}).encode()

    async def speak(stream: trio.SocketStream) -> None:
        await stream.send_all(b'INFO {"version":"2.12.1","max_payload":1048576,"headers":true,"nonce":"n"}\r\n')
        received = b""
        while data := await stream.receive_some():
            received += data
            while b"\r\n" in received:
                line, _, received = received.partition(b"\r\n")
                words = line.split()
                if words[:1] == [b"PING"]:
                    await stream.send_all(b"PONG\r\n")
                elif words[:2] == [b"PUB", REQUEST.encode()]:
                    await stream.send_all(b"MSG %s 1 %d\r\n%s\r\n" % (words[2], len(report), report))

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_tcp, speak, port)
        error = await run_out(environment)
        nursery.cancel_scope.cancel()
    assert error.reason is Reason.BROKER_TOO_OLD
    assert "2.12.1" in error.detail
    (problem,) = StatusDocument.read(environment.layout.zone(PLANT).status / "zone.json").problems
    assert problem.reason == "broker_too_old"
    assert not StatusDocument.read(environment.layout.zone(PLANT).status / "zone.json").broker.durable


async def test_a_category_that_cannot_be_opened_stops_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others store; the status names the one and the reason, until it works."""
    monkeypatch.setattr(zone_module, "SETTLE_AGAIN_S", 0.05)
    environment = two_zones(tmp_path)
    async with running_broker(environment):
        config = NodeConfig.load(environment.layout.zone(PLANT).node_config)
        async with trio.open_nursery() as nursery:
            runtime = ZoneRuntime("zone", config)
            ensure = runtime.stores[AUDIT]._logs.open_store

            async def sometimes(category: Any) -> Any:
                if category == AUDIT and broken:
                    raise UnavailableError(Reason.BROKER_REFUSED, "no room")
                return await ensure(category)

            broken = True
            for store in runtime.stores.values():
                monkeypatch.setattr(store._logs, "open_store", sometimes)
            nursery.start_soon(runtime.run, nothing)
            await until(lambda: "store audit" in {problem.where for problem in runtime.status().problems})
            assert not runtime.status().ready
            broken = False
            await until(lambda: runtime.status().ready)
            assert not runtime.status().problems
            nursery.cancel_scope.cancel()
