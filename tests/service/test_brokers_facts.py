# SPDX-License-Identifier: Apache-2.0
"""nats-facts on a real nats-server: stock clients work unchanged, and nothing reaches a log past the agent.

The agent's part is played by a plain client here: it answers on ``facts.>`` and writes to ``log.facts.>``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig, SubjectTransform

from appliance.boundary.names import Category, ProducerId
from appliance.brokers.accounts import LocalRights
from appliance.brokers.config import AGENT_USER, SYSTEM_USER, Limits
from appliance.factlog.natskeys import KeyKind, NatsKey, UserCredentials
from tests.brokers import AGENT_INBOX, LIMITS, as_client, running, told
from tests.doors import Door, door, entered, knock

PRESS = LocalRights(ProducerId("press-4"))
MES = LocalRights(ProducerId("mes"), categories=frozenset({Category("audit")}))
HMI = LocalRights(ProducerId("hmi"), produces=False, reads=True)
BOTH = LocalRights(ProducerId("both"), reads=True)

OWN = "facts.operational.plant-a.all.press-4.temperature"
STREAM = "FACTS_OPERATIONAL"
OTHER_STREAM = "FACTS_AUDIT"


def opened(folder: Path, limits: Limits = LIMITS) -> Door:
    """A nats-facts with four local applications."""
    return door(folder, PRESS, MES, HMI, BOTH, limits=limits)


@dataclass
class StandIn:
    """A client that does what the agent does, and remembers what reached it on ``facts.>``."""

    client: Client
    asked: list[Msg] = field(default_factory=list)

    async def serve(self) -> None:
        """Make the streams; take what is asked."""
        js = self.client.jetstream()
        for name in (STREAM, OTHER_STREAM):
            category = name.removeprefix("FACTS_").lower()
            transform = SubjectTransform(src=f"log.facts.{category}.>", dest=f"facts.{category}.>")
            subjects = [f"log.facts.{category}.>"]
            await js.add_stream(
                StreamConfig(name=name, subjects=subjects, subject_transform=transform, allow_direct=True)
            )

        async def take(message: Msg) -> None:
            self.asked.append(message)
            if message.reply:
                ack = await js.publish(f"log.{message.subject}", message.data)
                await message.respond(json.dumps({"stream": ack.stream, "seq": ack.seq}).encode())

        await self.client.subscribe("facts.>", cb=take)
        await self.client.flush()

    async def stored(self) -> dict[str, int]:
        """How many messages each log has."""
        js = self.client.jetstream()
        return {name: (await js.stream_info(name)).state.messages for name in (STREAM, OTHER_STREAM)}


@asynccontextmanager
async def agent(listen: Door) -> AsyncIterator[StandIn]:
    """The stand-in, connected and serving."""
    async with entered(listen, AGENT_USER, inbox_prefix=AGENT_INBOX) as (client, _):
        stand_in = StandIn(client)
        await stand_in.serve()
        yield stand_in


async def with_facts(folder: Path, scenario: Callable[[Door, StandIn], Awaitable[None]]) -> None:
    """Run a scenario against a running nats-facts with its agent."""
    listen = opened(folder)

    async def play() -> None:
        async with agent(listen) as stand_in:
            await scenario(listen, stand_in)

    async with running(folder, "facts", listen.text(), listen.listen):
        await as_client(play)


async def test_a_stock_producer_and_every_kind_of_stock_consumer_work(tmp_path: Path) -> None:
    """Nothing is set in nats-py but address, user and password."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        async with entered(listen, "press-4") as (producer, _):
            js = producer.jetstream()
            acks = [await js.publish(OWN, b"%d" % i, headers={"Nats-Msg-Id": str(i)}) for i in range(20)]
        assert [(ack.stream, ack.seq) for ack in acks] == [(STREAM, i + 1) for i in range(20)]
        assert stand_in.asked[0].subject == OWN
        assert (stand_in.asked[0].headers or {})["Nats-Msg-Id"] == "0"
        expected = [b"%d" % i for i in range(20)]
        async with entered(listen, "hmi") as (reader, errors):
            js = reader.jetstream()
            pull = await js.pull_subscribe("facts.operational.>", durable="screen", stream=STREAM)
            fetched = await pull.fetch(20, timeout=5)
            assert [message.data for message in fetched] == expected
            assert {message.subject for message in fetched} == {OWN}
            for message in fetched:
                await message.ack_sync(timeout=5)
            info = await pull.consumer_info()
            assert info.ack_floor is not None
            assert info.ack_floor.stream_seq == 20
            push = await js.subscribe("facts.operational.>", stream=STREAM)
            assert [(await push.next_msg(timeout=5)).data for _ in range(20)] == expected
            ordered = await js.subscribe("facts.operational.>", stream=STREAM, ordered_consumer=True)
            assert [(await ordered.next_msg(timeout=5)).data for _ in range(20)] == expected
            assert (await js.get_msg(STREAM, 3, direct=True)).data == b"2"
            assert (await js.get_msg(STREAM, 3)).data == b"2"
            assert (await js.stream_info(STREAM)).state.messages == 20
            await js.delete_consumer(STREAM, "screen")
            assert errors == []

    await with_facts(tmp_path, scenario)


async def test_a_long_pull_gets_what_comes_late(tmp_path: Path) -> None:
    """Across the accounts too, where answers go through one-time subjects."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        async with (
            entered(listen, "hmi") as (reader, _),
            entered(listen, "press-4") as (one, _),
        ):
            pull = await reader.jetstream().pull_subscribe("facts.operational.>", durable="late", stream=STREAM)
            waiting = asyncio.create_task(pull.fetch(1, timeout=10))
            await asyncio.sleep(1)
            await one.jetstream().publish(OWN, b"late")
            assert [message.data for message in await waiting] == [b"late"]

    await with_facts(tmp_path, scenario)


async def test_a_producer_hears_at_once_that_no_agent_is_there(tmp_path: Path) -> None:
    """It is not left to a time-out."""
    listen = opened(tmp_path)

    async def scenario() -> None:
        async with entered(listen, "press-4") as (producer, _):
            with pytest.raises(nats.js.errors.NoStreamResponseError):
                await producer.jetstream().publish(OWN, b"x", timeout=30)

    async with running(tmp_path, "facts", listen.text(), listen.listen):
        await as_client(scenario, 10)


PUBLISH_DENIED = [
    ("press-4", "facts.operational.plant-a.all.mes.x", "another producer's name"),
    ("press-4", "facts.operational.enterprise.all.press-4.x", "another zone"),
    ("press-4", "facts.operational.plant-a.all", "no producer at all"),
    ("press-4", "log.facts.operational.plant-a.all.press-4", "the log itself"),
    ("press-4", "dead.x", "dead letters"),
    ("press-4", "_INBOX.x", "somebody's answer"),
    ("press-4", "$JS.API.STREAM.INFO.FACTS_OPERATIONAL", "a producer reads nothing"),
    ("press-4", "$JS.API.CONSUMER.CREATE.FACTS_OPERATIONAL", "nor consumes"),
    ("mes", "facts.operational.plant-a.all.mes.x", "a category it was not given"),
    ("hmi", "facts.operational.plant-a.all.hmi.x", "a reader produces nothing"),
    ("hmi", "log.facts.operational.plant-a.all.hmi", "the log itself"),
    ("hmi", "$JS.API.STREAM.DELETE.FACTS_OPERATIONAL", "delete"),
    ("hmi", "$JS.API.STREAM.PURGE.FACTS_OPERATIONAL", "purge"),
    ("hmi", "$JS.API.STREAM.UPDATE.FACTS_OPERATIONAL", "update"),
    ("hmi", "$JS.API.STREAM.CREATE.MINE", "create"),
    ("hmi", "$JS.API.STREAM.MSG.DELETE.FACTS_OPERATIONAL", "delete one"),
    ("hmi", "$JS.API.STREAM.SNAPSHOT.FACTS_OPERATIONAL", "snapshot"),
    ("hmi", "$JS.API.STREAM.RESTORE.MINE", "restore"),
    ("hmi", "$JS.API.CONSUMER.NAMES.FACTS_OPERATIONAL", "learn the agent's consumers"),
    ("hmi", "$JS.API.CONSUMER.LIST.FACTS_OPERATIONAL", "learn the agent's consumers"),
    ("hmi", "$JS.API.CONSUMER.RESET.FACTS_OPERATIONAL.x", "reset"),
    ("hmi", "$JS.API.CONSUMER.PAUSE.FACTS_OPERATIONAL.x", "pause"),
    ("hmi", "$SYS.REQ.SERVER.PING.JSZ", "the server itself"),
    ("both", "facts.operational.plant-a.all.press-4.x", "another producer's name"),
]
SUBSCRIBE_DENIED = [
    ("press-4", "facts.>"),
    ("hmi", "facts.>"),
    ("hmi", "facts.operational.plant-a.all.press-4.temperature"),
    ("hmi", "log.>"),
    ("hmi", "_R_.>"),
    ("hmi", f"{AGENT_INBOX}.>"),
    ("hmi", "$JS.>"),
    ("hmi", "$SYS.>"),
    ("hmi", ">"),
]


async def test_what_local_applications_may_not_do(tmp_path: Path) -> None:
    """The broker says so for each, and nothing of it arrives."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        for user, subject, why in PUBLISH_DENIED:
            async with entered(listen, user) as (client, errors):
                await client.publish(subject, b"{}", reply="_INBOX.none")
                await client.flush()
                assert why
                await told(errors, f'violation for publish to "{subject}"')
        for user, subject in SUBSCRIBE_DENIED:
            async with entered(listen, user) as (client, errors):
                await client.subscribe(subject)
                await told(errors, f'violation for subscription to "{subject}"')
        assert stand_in.asked == []
        assert await stand_in.stored() == {STREAM: 0, OTHER_STREAM: 0}

    await with_facts(tmp_path, scenario)


async def test_a_core_subscriber_cannot_read_requests(tmp_path: Path) -> None:
    """Requests on ``facts.>`` are not validated yet; only the agent sees them."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        async with entered(listen, "both") as (client, _):
            seen: list[Msg] = []

            async def note(message: Msg) -> None:
                seen.append(message)

            await client.subscribe("_INBOX.>", cb=note)
            await client.flush()
            async with entered(listen, "press-4") as (producer, _):
                await producer.jetstream().publish(OWN, b"secret until validated")
            await client.flush()
            assert len(stand_in.asked) == 1
            assert not any(message.data == b"secret until validated" for message in seen)

    await with_facts(tmp_path, scenario)


CONFUSED_DEPUTIES: list[tuple[str, dict[str, object]]] = [
    (f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.tool", {"batch": 1, "no_wait": True}),
    (f"$JS.API.DIRECT.GET.{STREAM}", {"seq": 1}),
    (f"$JS.API.DIRECT.GET.{STREAM}", {"seq": 1, "batch": 10}),
    (f"$JS.API.STREAM.MSG.GET.{STREAM}", {"seq": 1}),
    ("$JS.API.STREAM.NAMES", {}),
    ("$JS.API.INFO", {}),
    (f"$JS.API.CONSUMER.INFO.{STREAM}.tool", {}),
]
TARGETS = [
    "log.facts.operational.plant-a.all.mes.forged",
    "log.facts.audit.plant-a.all.mes.forged",
    "facts.operational.plant-a.all.mes.forged",
    "dead.forged",
    f"$JS.API.STREAM.DELETE.{OTHER_STREAM}",
]


async def test_no_answer_of_the_broker_can_be_steered_into_a_log(tmp_path: Path) -> None:
    """Neither by a reader's choice of reply subject, nor by a producer's. In one account it could be."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        async with entered(listen, "both") as (client, errors):
            js = client.jetstream()
            for i in range(9):
                await js.publish("facts.operational.plant-a.all.both.x", b"%d" % i)
            await js.pull_subscribe("facts.operational.>", durable="tool", stream=STREAM)
            before, asked = await stand_in.stored(), len(stand_in.asked)
            for subject, body in CONFUSED_DEPUTIES:
                for target in TARGETS:
                    await client.publish(subject, json.dumps(body).encode(), reply=target)
            await client.flush()
            await asyncio.sleep(0.5)
            assert await stand_in.stored() == before
            assert len(stand_in.asked) == asked
            for target in TARGETS:
                await client.publish("facts.operational.plant-a.all.both.x", b"{}", reply=target)
            await client.flush()
            await asyncio.sleep(0.5)
            assert await stand_in.stored() == {**before, STREAM: before[STREAM] + len(TARGETS)}
            assert [message.subject for message in stand_in.asked[asked:]] == [
                "facts.operational.plant-a.all.both.x"
            ] * len(TARGETS)
            assert errors == []

    await with_facts(tmp_path, scenario)


async def test_no_push_consumer_delivers_into_a_log_or_to_the_agent(tmp_path: Path) -> None:
    """Its deliver subject is free to choose, but the broker delivers only to a literal subscription of that name."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        async with entered(listen, "both") as (client, _):
            js = client.jetstream()
            for i in range(9):
                await js.publish("facts.operational.plant-a.all.both.x", b"%d" % i)
            before, asked = await stand_in.stored(), len(stand_in.asked)
            for number, target in enumerate(TARGETS):
                config = ConsumerConfig(deliver_subject=target, ack_policy=AckPolicy.NONE, durable_name=f"push{number}")
                try:
                    await js.add_consumer(STREAM, config)
                except nats.js.errors.BadRequestError as error:
                    assert error.err_code == 10081  # noqa: PT017 - the deliver subject forms a cycle: refused is fine too
            await asyncio.sleep(1)
            assert await stand_in.stored() == before
            assert len(stand_in.asked) == asked

    await with_facts(tmp_path, scenario)


async def test_local_applications_do_not_see_or_forge_each_others_answers(tmp_path: Path) -> None:
    """An acknowledgement reaches who asked, even when somebody else names the asker's inbox as reply subject."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        async with (
            entered(listen, "press-4") as (victim, _),
            entered(listen, "both") as (spy, _),
        ):
            seen: dict[str, list[Msg]] = {"victim": [], "spy": []}
            for name, client in (("victim", victim), ("spy", spy)):

                async def note(message: Msg, name: str = name) -> None:
                    seen[name].append(message)

                await client.subscribe("_INBOX.>", cb=note)
                await client.flush()
            await victim.publish(OWN, b"mine", reply="_INBOX.victim")
            async with asyncio.timeout(5):
                while not seen["victim"]:  # it is answered first  # noqa: ASYNC110 - nothing announces it
                    await asyncio.sleep(0.01)
            await spy.publish("facts.operational.plant-a.all.both.x", b"spy", reply="_INBOX.victim")
            await spy.publish(f"$JS.API.STREAM.INFO.{STREAM}", b"", reply="_INBOX.victim")
            await asyncio.sleep(0.5)
            assert [json.loads(message.data)["seq"] for message in seen["victim"]] == [1]
            assert len(seen["spy"]) == 2  # its own two

    await with_facts(tmp_path, scenario)


async def test_a_trace_goes_nowhere_its_sender_could_not_publish(tmp_path: Path) -> None:
    """``Nats-Trace-Dest`` would let the broker write for somebody; the message is dropped instead."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        for target in (*TARGETS, "_INBOX.x"):
            async with entered(listen, "press-4") as (client, errors):
                await client.publish(OWN, b"{}", headers={"Nats-Trace-Dest": target})
                await told(errors, f'violation for publish to "{target}"')
        assert stand_in.asked == []
        assert await stand_in.stored() == {STREAM: 0, OTHER_STREAM: 0}

    await with_facts(tmp_path, scenario)


async def test_the_agent_cannot_wait_where_others_listen(tmp_path: Path) -> None:
    """With the stock inbox prefix it would show its answers to local applications; the broker refuses it."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        async with entered(listen, AGENT_USER) as (careless, errors):
            with pytest.raises(nats.errors.TimeoutError):
                await careless.request("$JS.API.INFO", b"", timeout=0.5)
            await told(errors, "violation for subscription")

    await with_facts(tmp_path, scenario)


async def test_nobody_comes_in_without_a_credential(tmp_path: Path) -> None:
    """There is no user that stands for everybody; a JWT without its key is no credential, nor is a password."""
    listen = opened(tmp_path)
    press, mes, system = (UserCredentials.load(listen.login(user).path) for user in ("press-4", "mes", SYSTEM_USER))
    stranger = UserCredentials(press.jwt, NatsKey.generate(KeyKind.USER))
    async with running(tmp_path, "facts", listen.text(), listen.listen):
        assert knock(listen, press.jwt, press) == "PONG"
        assert knock(listen, system.jwt, system) == "PONG"
        for jwt, key in ((press.jwt, None), (press.jwt, mes), (system.jwt, press), (press.jwt, stranger), ("", press)):
            assert "Authorization Violation" in knock(listen, jwt, key)
        assert "Authorization Violation" in knock(listen, "", None)
        assert "Authorization Violation" in knock(listen, "", None, user="press-4", **{"pass": "a-password-of-old"})
        public = {"nkey": press.key.public}
        assert "Authorization Violation" in knock(listen, "", press, **public)


async def test_local_applications_cannot_take_the_agents_connections(tmp_path: Path) -> None:
    """Nor each other's: each has its own bound, and all together stay below the broker's."""
    listen = opened(tmp_path, Limits(LIMITS.max_file_store, max_connections=16 + 4 * 2))

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(entered(listen, "press-4"))
            press, mes = (UserCredentials.load(listen.login(user).path) for user in ("press-4", "mes"))
            assert "maximum account active connections exceeded" in knock(listen, press.jwt, press)
            assert knock(listen, mes.jwt, mes) == "PONG"
            async with agent(listen) as stand_in:
                assert await stand_in.stored() == {STREAM: 0, OTHER_STREAM: 0}

    async with running(tmp_path, "facts", listen.text(), listen.listen):
        await as_client(scenario)


async def test_a_message_of_a_mebibyte_passes_and_two_do_not(tmp_path: Path) -> None:
    """So a fact that is too large reaches the agent, which can say so."""

    async def scenario(listen: Door, stand_in: StandIn) -> None:
        async with entered(listen, "press-4") as (client, _):
            await client.jetstream().publish(OWN, b"x" * 1024 * 1024, headers={"Nats-Msg-Id": "x" * 100})
            with pytest.raises(nats.errors.MaxPayloadError):
                await client.publish(OWN, b"x" * 2 * 1024 * 1024)
        assert [len(message.data) for message in stand_in.asked] == [1024 * 1024]

    await with_facts(tmp_path, scenario)
