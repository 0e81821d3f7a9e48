# SPDX-License-Identifier: Apache-2.0
"""The calling side of one HTTP/2 connection, against a scripted server in memory: every way a connection can end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import hyperframe.frame
import pytest
import trio
from h2.errors import ErrorCodes

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.peer.limits import MAX_BODY_BYTES
from appliance.peer.link import Link, LinkLimits, Reply, UnprocessedError

LIMITS = LinkLimits(ping_after_s=5, ping_timeout_s=5)
OK = [(":status", "200"), ("content-type", "application/proto")]


@dataclass
class Script:
    """A server that notes events and does what the test tells it to."""

    stream: trio.abc.Stream
    settings: dict[int, int] = field(default_factory=dict)
    acknowledge: bool = True
    """Whether flow-control windows are given back."""
    seen: list[h2.events.Event] = field(default_factory=list)
    happened: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Read until the other side closes."""
        self.h2.initiate_connection()
        if self.settings:
            self.h2.update_settings(self.settings)
        await self.flush()
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            while data := await self.stream.receive_some():
                for event in self.h2.receive_data(data):
                    if isinstance(event, h2.events.DataReceived) and self.acknowledge:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self.seen.append(event)
                await self.flush()
                self.happened.set()
                self.happened = trio.Event()

    async def flush(self) -> None:
        """Send what h2 has to say."""
        async with self._sending:
            if data := self.h2.data_to_send():
                await self.stream.send_all(data)

    async def until(self, kind: type[h2.events.Event], count: int = 1) -> list[Any]:
        """Wait for so many events of a kind."""
        with trio.fail_after(1000):
            while len(found := [event for event in self.seen if isinstance(event, kind)]) < count:
                await self.happened.wait()
        return found

    async def answer(self, stream_id: int, body: bytes = b"", *, end: bool = True) -> None:
        """Answer a call."""
        self.h2.send_headers(stream_id, OK, end_stream=end and not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=end)
        await self.flush()

    async def goodbye(self, last_stream_id: int) -> None:
        """Send a GOAWAY past h2, which would say nothing more after it."""
        async with self._sending:
            await self.stream.send_all(hyperframe.frame.GoAwayFrame(0, last_stream_id=last_stream_id).serialize())


@asynccontextmanager
async def connected(
    limits: LinkLimits = LIMITS, settings: dict[int, int] | None = None, *, acknowledge: bool = True
) -> AsyncIterator[tuple[Link, Script]]:
    """A link and the server at its other end."""
    near, far = trio.testing.memory_stream_pair()
    script = Script(far, settings or {}, acknowledge)
    link = Link(near, "enterprise-bsfg", limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script.run)
        nursery.start_soon(link.run)
        await link.hello(10)
        yield link, script
        nursery.cancel_scope.cancel()


class Calls:
    """Calls made in the background, and what came of each."""

    def __init__(self, link: Link, nursery: trio.Nursery) -> None:
        self._link = link
        self._nursery = nursery
        self.results: dict[str, Reply | BsfgError] = {}

    def start(self, name: str, body: bytes = b"", patience_s: float = 60) -> None:
        """Begin a call."""

        async def call() -> None:
            try:
                self.results[name] = await self._link.call(f"/{name}", [], body, patience_s)
            except BsfgError as error:
                self.results[name] = error

        self._nursery.start_soon(call)


def reason(result: Reply | BsfgError) -> Reason:
    """Why a call failed."""
    assert isinstance(result, BsfgError)
    return result.reason


async def test_calls_share_a_connection() -> None:
    """Answered in another order than they were made."""
    async with connected() as (link, script), trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        calls.start("one", b"first")
        await script.until(h2.events.StreamEnded)
        calls.start("two")
        await script.until(h2.events.StreamEnded, 2)
        await script.answer(3, b"second answer")
        await script.answer(1)
    assert calls.results == {
        "one": Reply(200, "application/proto", b""),
        "two": Reply(200, "application/proto", b"second answer"),
    }
    (data,) = [event.data for event in script.seen if isinstance(event, h2.events.DataReceived)]
    assert data == b"first"


async def test_a_large_body_waits_for_room() -> None:
    """And goes on when the server gives some; other calls do not wait for it."""
    async with connected(acknowledge=False) as (link, script), trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        calls.start("large", bytes(200_000))
        await trio.testing.wait_all_tasks_blocked()
        received = sum(len(event.data) for event in script.seen if isinstance(event, h2.events.DataReceived))
        assert received == 65_535
        calls.start("small")
        await script.until(h2.events.StreamEnded)
        script.h2.increment_flow_control_window(200_000)
        await script.flush()
        await trio.testing.wait_all_tasks_blocked()
        script.h2.increment_flow_control_window(200_000, 1)
        await script.flush()
        await script.until(h2.events.StreamEnded, 2)
        await script.answer(1)
        await script.answer(3)
    assert {type(result) for result in calls.results.values()} == {Reply}


async def test_an_answer_may_come_before_the_request_is_sent() -> None:
    """A refusal: the rest of the body is not sent."""
    async with connected(acknowledge=False) as (link, script), trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        calls.start("large", bytes(200_000))
        await script.until(h2.events.DataReceived)
        await script.answer(1, b"no")
        (reset,) = await script.until(h2.events.StreamReset)
    assert calls.results["large"] == Reply(200, "application/proto", b"no")
    assert reset.error_code == ErrorCodes.CANCEL


async def test_after_a_goodbye_begun_calls_are_finished() -> None:
    """Calls that the server names are answered; later ones were certainly not begun."""
    async with connected() as (link, script), trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        for count, name in enumerate(("one", "two", "three"), 1):
            calls.start(name)
            await script.until(h2.events.RequestReceived, count)
        await script.answer(1, b"half an ", end=False)
        await script.goodbye(3)
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(calls.results["three"], UnprocessedError)
        assert not link.usable
        with pytest.raises(UnprocessedError):
            await link.call("/four", [], b"", 1)
        assert not link.ended.is_set()
        script.h2.send_data(1, b"answer", end_stream=True)
        await script.answer(3)
        await link.ended.wait()
    assert calls.results["one"] == Reply(200, "application/proto", b"half an answer")
    assert isinstance(calls.results["two"], Reply)


async def test_a_goodbye_ends_an_idle_connection() -> None:
    """Nothing to wait for."""
    async with connected() as (link, script):
        await script.goodbye(0)
        with trio.fail_after(1):
            await link.ended.wait()


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        (ErrorCodes.REFUSED_STREAM, UnprocessedError, Reason.LINK_DOWN),
        (ErrorCodes.INTERNAL_ERROR, UnavailableError, Reason.PEER_FAULT),
        (ErrorCodes.NO_ERROR, UnavailableError, Reason.PEER_FAULT),
    ],
)
async def test_a_reset_call_says_whether_it_was_begun(
    code: ErrorCodes, kind: type[BsfgError], expected: Reason
) -> None:
    """Only a refused one may be made again without a doubt; the connection stays."""
    async with connected() as (link, script), trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        calls.start("one")
        await script.until(h2.events.RequestReceived)
        script.h2.reset_stream(1, code)
        await script.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert link.usable
    assert type(calls.results["one"]) is kind
    assert reason(calls.results["one"]) == expected


async def test_a_vanished_peer_is_noticed(autojump_clock: object) -> None:
    """Silence, a question, silence: ten seconds, however long the call may take."""
    assert autojump_clock
    near, far = trio.testing.memory_stream_pair()
    link = Link(near, "enterprise-bsfg", LIMITS)
    async with trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        nursery.start_soon(link.run)
        await far.send_all(hyperframe.frame.SettingsFrame(0).serialize())
        await link.hello(1)
        calls.start("one", patience_s=3600)
        before = trio.current_time()
        await link.ended.wait()
        assert trio.current_time() - before == pytest.approx(10, abs=0.1)
    assert reason(calls.results["one"]) == Reason.LINK_DOWN
    assert "silent for 10.0 s" in str(calls.results["one"])


async def test_a_peer_that_takes_nothing_is_noticed(autojump_clock: object) -> None:
    """The writer is stuck in mid-send; the calls still end."""
    assert autojump_clock
    near, far = trio.testing.memory_stream_pair()

    async def stuck() -> None:
        await trio.sleep_forever()

    link = Link(near, "enterprise-bsfg", LIMITS)
    async with trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        nursery.start_soon(link.run)
        await far.send_all(hyperframe.frame.SettingsFrame(0).serialize())
        await link.hello(1)
        await trio.testing.wait_all_tasks_blocked()
        near.send_stream.send_all_hook = stuck
        calls.start("one", bytes(1000), patience_s=3600)
        await link.ended.wait()
    assert reason(calls.results["one"]) == Reason.LINK_DOWN


async def test_pings_keep_a_long_poll_alive(autojump_clock: object) -> None:
    """The server answers each; the call ends with its own patience, and the server is told."""
    assert autojump_clock
    async with connected() as (link, script):
        before = trio.current_time()
        with pytest.raises(UnavailableError) as caught:
            await link.call("/one", [], b"", 100)
        assert caught.value.reason == Reason.PEER_TIMEOUT
        assert trio.current_time() - before == pytest.approx(100, abs=0.1)
        await script.until(h2.events.StreamReset)
        assert len(await script.until(h2.events.PingReceived)) >= 18
        assert link.usable


async def test_a_slow_answer_is_waited_for(autojump_clock: object) -> None:
    """A line of 10 KiB/s is slow, not dead; one of 100 bytes a second is given up."""
    assert autojump_clock
    for piece, expected in ((bytes(10_240), Reply), (bytes(100), UnavailableError)):
        async with connected() as (link, script), trio.open_nursery() as nursery:
            calls = Calls(link, nursery)
            calls.start("one", patience_s=10)
            await script.until(h2.events.RequestReceived)
            await script.answer(1, end=False)
            for _ in range(60):
                await trio.sleep(1)
                if "one" in calls.results:
                    break
                script.h2.send_data(1, piece)
                await script.flush()
            else:
                script.h2.end_stream(1)
                await script.flush()
        assert type(calls.results["one"]) is expected


async def test_a_closed_connection_fails_its_calls() -> None:
    """Their outcome is unknown."""
    async with connected() as (link, script), trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        calls.start("one")
        calls.start("two", bytes(100_000))
        await script.until(h2.events.RequestReceived, 2)
        await script.stream.aclose()
        await link.ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [reason(result) for result in calls.results.values()] == [Reason.LINK_DOWN] * 2
    assert not any(isinstance(result, UnprocessedError) for result in calls.results.values())
    with pytest.raises(UnprocessedError):
        await link.call("/three", [], b"", 1)


async def test_a_cancelled_call_is_taken_back() -> None:
    """The server learns of it, and the connection stays."""
    async with connected() as (link, script):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.call, "/one", [], b"", 60.0)
            await script.until(h2.events.RequestReceived)
            nursery.cancel_scope.cancel()
        (reset,) = await script.until(h2.events.StreamReset)
        assert reset.error_code == ErrorCodes.CANCEL
        assert link.usable


@pytest.mark.parametrize("by_server", [True, False])
async def test_calls_wait_for_their_turn(by_server: bool) -> None:
    """The server's number, or ours."""
    code = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
    limits = LIMITS if by_server else LinkLimits(calls=2)
    async with connected(limits, {code: 2} if by_server else {}) as (link, script), trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(5):
            calls.start(str(number))
        await trio.testing.wait_all_tasks_blocked()
        assert len(await script.until(h2.events.RequestReceived)) == 2
        for number in range(5):
            await script.until(h2.events.RequestReceived, number + 1)
            await script.answer(2 * number + 1)
    assert {type(result) for result in calls.results.values()} == {Reply}
    assert len(calls.results) == 5


async def test_windows_are_given_back() -> None:
    """A connection carries more than its window in its life."""
    async with connected(LinkLimits(window_bytes=100_000)) as (link, script):
        await trio.testing.wait_all_tasks_blocked()
        for number in range(10):
            async with trio.open_nursery() as nursery:
                calls = Calls(link, nursery)
                calls.start("one")
                await script.until(h2.events.RequestReceived, number + 1)
                await script.answer(2 * number + 1, end=False)
                for _ in range(4):
                    script.h2.send_data(2 * number + 1, bytes(16_000))
                script.h2.end_stream(2 * number + 1)
                await script.flush()
            assert calls.results["one"] == Reply(200, "application/proto", bytes(64_000))


async def test_an_endless_answer_is_cut() -> None:
    """The peer's fault; what came before is let go."""
    async with connected() as (link, script), trio.open_nursery() as nursery:
        calls = Calls(link, nursery)
        calls.start("one")
        await script.until(h2.events.RequestReceived)
        await script.answer(1, end=False)
        for _ in range(MAX_BODY_BYTES // 16_000 + 2):
            script.h2.send_data(1, bytes(16_000))
        await script.flush()
        await script.until(h2.events.StreamReset)
    assert reason(calls.results["one"]) == Reason.PEER_FAULT


@pytest.mark.parametrize(
    "noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100, b"\xff" * 100], ids=["http/1.1", "zeros", "ones"]
)
async def test_noise_ends_the_connection(noise: bytes) -> None:
    """Whatever is there, it does not speak HTTP/2."""
    near, far = trio.testing.memory_stream_pair()
    link = Link(near, "enterprise-bsfg", LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await far.send_all(noise)
        with pytest.raises(UnavailableError) as caught:
            await link.hello(5)
        assert caught.value.reason == Reason.PEER_FAULT


async def test_silence_instead_of_a_hello_is_noticed(autojump_clock: object) -> None:
    """Within the time to connect."""
    assert autojump_clock
    near, _far = trio.testing.memory_stream_pair()
    link = Link(near, "enterprise-bsfg", LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        with pytest.raises(UnavailableError, match="said nothing for 3 s"):
            await link.hello(3)
