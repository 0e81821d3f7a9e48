# SPDX-License-Identifier: Apache-2.0
"""The wire client against a real nats-server that is killed, hangs, refuses, or is something else altogether."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers.config import AGENT_USER, Local
from appliance.factlog import natswire
from appliance.factlog.natskeys import UserCredentials
from appliance.factlog.natslogin import Credentials, CredentialsFile
from appliance.factlog.natsproto import Delivery, publish
from appliance.factlog.natswire import NatsWire
from tests.doors import door
from tests.wires import echo, facts_broker, running_wire, stopped, until, wire_to


async def fails(call: Callable[[], Awaitable[object]]) -> str:
    """What a call that must fail with ``broker_unavailable`` says."""
    with pytest.raises(UnavailableError) as refused:
        await call()
    assert refused.value.reason is Reason.BROKER_UNAVAILABLE
    return refused.value.detail


async def test_requests_are_answered(tmp_path: Path) -> None:
    """One answer to one question, and JSON of the JetStream API."""
    async with facts_broker(tmp_path) as (_, listen), wire_to(listen) as wire:
        echo(wire, "echo")
        assert (await wire.request("echo", b"hello\r\nPING\r\n")).payload == b"hello\r\nPING\r\n"
        account = await wire.request_json("$JS.API.INFO")
        assert account["streams"] == 0
        missing = await wire.request_json("$JS.API.STREAM.INFO.NONE")
        assert missing["error"]["err_code"] == 10059
        echo(wire, "not-json")
        assert "not JSON" in await fails(lambda: wire.request_json("not-json"))
        assert wire.info is not None
        assert wire.info.headers


async def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    """The broker's own word; no time-out has to pass."""
    async with facts_broker(tmp_path) as (_, listen), wire_to(listen) as wire:
        with trio.fail_after(2):
            assert "nobody answers" in await fails(lambda: wire.request("nobody.here", timeout_s=30))
            answers = await wire.exchange(lambda r: publish("nobody", b"", reply=r), lambda got: False, timeout_s=30)
            assert [answer.status for answer in answers] == [503]


async def test_a_call_ends_when_its_time_is_over(tmp_path: Path) -> None:
    """And an answer that comes too late is nobody's."""
    async with facts_broker(tmp_path) as (_, listen), wire_to(listen) as wire:
        asked: list[Delivery] = []
        wire.subscribe("hole", asked.extend)
        with trio.fail_after(2):
            assert "no answer within 0.2 s" in await fails(lambda: wire.request("hole", timeout_s=0.2))
        wire.send(publish(asked[0].reply, b"late"))
        echo(wire, "echo")
        assert (await wire.request("echo", b"in time")).payload == b"in time"


async def test_many_calls_at_once_get_their_own_answers(tmp_path: Path) -> None:
    """Answers are told apart by their inbox."""
    async with facts_broker(tmp_path) as (_, listen), wire_to(listen) as wire:
        echo(wire, "echo.*")
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            answers[number] = (await wire.request(f"echo.{number}", b"%d" % number)).payload

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(ask, number)
        assert answers == {number: b"%d" % number for number in range(1000)}
        assert not wire._waiters


async def test_a_page_of_a_thousand_answers(tmp_path: Path) -> None:
    """All of them, in order, for one question; with :meth:`collect` too, whose subscription is gone afterwards."""
    async with facts_broker(tmp_path) as (_, listen), wire_to(listen) as wire:

        def answer(deliveries: list[Delivery]) -> None:
            for delivery in deliveries:
                wire.send(b"".join(publish(delivery.reply, b"%d" % n + b"x" * 500) for n in range(1000)))

        wire.subscribe("page", answer)
        for call in (wire.exchange, wire.collect):
            found = await call(lambda reply: publish("page", b"", reply=reply), lambda got: len(got) >= 1000)
            assert [int(delivery.payload.rstrip(b"x")) for delivery in found] == list(range(1000))
        assert not wire._pages


async def test_a_killed_broker_fails_calls_at_once_and_subscriptions_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is in flight has an unknown outcome; nothing waits for its time-out."""
    async with facts_broker(tmp_path) as (broker, listen), wire_to(listen) as wire:
        asked: list[Delivery] = []
        wire.subscribe("hole", asked.extend)
        echo(wire, "echo")
        failed: list[str] = []

        async def in_flight(call: Callable[..., Awaitable[object]]) -> None:
            frames = lambda reply: publish("hole", b"", reply=reply)  # noqa: E731 - one line, twice
            failed.append(await fails(lambda: call(frames, lambda got: True, timeout_s=30)))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_flight, wire.exchange)
                nursery.start_soon(in_flight, wire.collect)
                await until(lambda: len(asked) == 2)
                await broker.kill()
        assert failed == ["the connection broke before the answer"] * 2
        assert "broker closed the connection" in caplog.text
        assert not wire.connected
        assert "not connected" in await fails(lambda: wire.request("echo"))
        await broker.start()
        with trio.fail_after(5):
            await wire.wait_connected()
        assert wire.connects == 2
        assert (await wire.request("echo", b"again")).payload == b"again"


async def test_wrong_credentials_are_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what is wrong, once and not every time; when the right ones are put in place, they are taken."""
    caplog.set_level(logging.WARNING)
    file = tmp_path / "a.creds"
    file.write_bytes(door(tmp_path / "other").login(AGENT_USER).path.read_bytes())
    wrong = UserCredentials.load(file)
    async with facts_broker(tmp_path) as (_, listen), running_wire(listen, CredentialsFile(file)) as wire:
        await until(lambda: "Authorization Violation" in caplog.text)
        with trio.move_on_after(1):
            await wire.wait_connected()
        assert not wire.connected
        assert caplog.text.count("Authorization Violation") == 1
        for secret in (wrong.key.seed, wrong.jwt):
            assert secret not in caplog.text
            assert secret not in repr(wrong)
        file.write_bytes(listen.login(AGENT_USER).path.read_bytes())
        with trio.fail_after(5):
            await wire.wait_connected()


async def test_a_broker_that_hangs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps such a connection up for ever: only the silence tells. Afterwards it works again."""
    monkeypatch.setattr(natswire, "PING_EVERY_S", 0.2)
    monkeypatch.setattr(natswire, "CONNECT_TIMEOUT_S", 0.3)
    async with facts_broker(tmp_path) as (broker, listen), wire_to(listen) as wire:
        echo(wire, "echo")
        await trio.sleep(0.7)
        assert wire.connects == 1  # the keepalive of a healthy connection does no harm
        with stopped(broker):
            with trio.fail_after(2):
                detail = await fails(lambda: wire.request("echo", timeout_s=30))
            assert detail == "the connection broke before the answer"
            await trio.sleep(0.7)  # the kernel accepts new connections for it, nobody speaks
            assert not wire.connected
        with trio.fail_after(5):
            await wire.wait_connected()
        assert (await wire.request("echo", b"back")).payload == b"back"


async def test_what_is_not_sent_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that takes nothing must not fill our memory."""
    bound = 2 * 1024 * 1024
    monkeypatch.setattr(natswire, "MAX_UNSENT_BYTES", bound)
    frame = publish("void", b"x" * 512 * 1024)
    async with facts_broker(tmp_path) as (broker, listen), wire_to(listen) as wire:
        with stopped(broker):

            async def send_much() -> None:
                for _ in range(200):
                    wire.send(frame)
                    await trio.sleep(0.001)

            assert "does not take" in await fails(send_much)
            assert len(wire._out) <= bound + len(frame)
        await until(lambda: not wire._out)
        echo(wire, "echo")
        assert (await wire.request("echo", b"x")).payload == b"x"


async def test_a_cancelled_call_leaves_the_connection_as_it_was(tmp_path: Path) -> None:
    """In mid-question and in mid-page, over and over."""
    async with facts_broker(tmp_path) as (_, listen), wire_to(listen) as wire:
        asked: list[Delivery] = []
        wire.subscribe("hole", asked.extend)
        echo(wire, "echo")
        for number in range(20):
            with trio.move_on_after(0.01):
                await wire.request("hole")
            with trio.move_on_after(0.01):
                await wire.collect(lambda reply: publish("hole", b"", reply=reply), lambda got: True)
            assert (await wire.request("echo", b"%d" % number)).payload == b"%d" % number
        assert not wire._waiters
        assert not wire._pages
        pages = [delivery.reply for delivery in asked if ".page." in delivery.reply]
        assert len(pages) == 20
        assert "nobody" in await fails(lambda: wire.request(pages[0]))  # the page's subscription has ended too
        assert wire.connects == 1


async def test_messages_come_in_order(tmp_path: Path) -> None:
    """Also those of a subscription made while connected, and between two connections."""
    async with facts_broker(tmp_path) as (_, listen), wire_to(listen) as sender, wire_to(listen) as receiver:
        found: list[bytes] = []
        receiver.subscribe("in.order", lambda deliveries: found.extend(d.payload for d in deliveries))
        echo(receiver, "ready")
        await receiver.request("ready")  # the broker has taken the subscription in front of it too
        for start in range(0, 5000, 100):
            sender.send(b"".join(publish("in.order", b"%d" % n) for n in range(start, start + 100)))
        await until(lambda: len(found) == 5000)
        assert found == [b"%d" % n for n in range(5000)]


@pytest.mark.parametrize(
    "speech",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"INFO {}\r\n",
        b"",
        b'INFO {"version":"2.15.1","max_payload":1}\r\nMSG a 1 -15\r\n',
        b'INFO {"version":"2.15.1","max_payload":1}\r\n-ERR \'Unknown Protocol Operation\'\r\n',
        b"x" * 200_000,
    ],
)
async def test_somebody_else_on_the_port(speech: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program took the port: never connected, never crashed, tried again with pauses."""
    monkeypatch.setattr(natswire, "CONNECT_TIMEOUT_S", 0.2)
    visits = 0

    async def speak(stream: trio.SocketStream) -> None:
        nonlocal visits
        visits += 1
        with suppress(trio.BrokenResourceError):  # we have been seen through
            await stream.send_all(speech)
        if not speech:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, speak, 0)
        port = listeners[0].socket.getsockname()[1]
        async with running_wire(Local("127.0.0.1", port)) as wire:
            await until(lambda: visits >= 3)
            assert not wire.connected
            assert visits < 20
            assert "not connected" in await fails(lambda: wire.request("x"))
        nursery.cancel_scope.cancel()


async def test_nothing_works_before_it_runs() -> None:
    """A call does not wait for a connection; whoever wants to, waits for it."""
    wire = NatsWire("127.0.0.1", 1, Credentials("agent", "x"), name="test")
    assert "not connected" in await fails(lambda: wire.request("x"))
    with trio.move_on_after(0.05) as waiting:
        await wire.wait_connected()
    assert waiting.cancelled_caught
