# SPDX-License-Identifier: Apache-2.0
"""Real connections, cut, swallowed, expired, flooded and stopped: what is begun ends, and nobody else notices."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import h2.config
import h2.events
import hyperframe.frame
import pytest
import trio
from h2.errors import ErrorCodes

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Countersigned, FetchRequest, Page, PageAnswer
from appliance.boundary.reasons import Reason
from appliance.peer import codec
from appliance.peer.client import PeerClient, open_peer
from appliance.peer.limits import MAX_BODY_BYTES, CallLimits, ConnectionLimits
from appliance.peer.link import LinkLimits, PatientConnection
from appliance.peer.server import ServerConfig, serve
from tests.contracts.peer import AUDIT, PLANT, RecordingService, make_page, make_receipt
from tests.peer_world import LOOPBACK, Wire, World
from tests.pki import Registered

POLL = FetchRequest(AUDIT, wait_ms=20_000)
PATH = "/bsfg.v1.BoundaryService/"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """PLANT and HUB."""
    return World.make(tmp_path)


@dataclass
class WaitingService(RecordingService):
    """A service whose pages come, and are taken, when the test says so."""

    waiting: int = 0
    go: trio.Event = field(default_factory=trio.Event)
    appending: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    def __post_init__(self) -> None:
        self.page = self._wait

    async def append_page(self, sender: ZoneId, page: Page, countersigned: Countersigned | None = None) -> PageAnswer:
        """Answer when it is time."""
        await self.appending()
        return await super().append_page(sender, page, countersigned)

    async def _wait(self, _request: FetchRequest) -> Page:
        self.waiting += 1
        await self.go.wait()
        return make_page(1)


@pytest.fixture
def service() -> WaitingService:
    """Behind the server."""
    return WaitingService()


class Results:
    """What came of calls made in the background."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.all: list[Any] = []

    def start(self, call: Any, *arguments: Any) -> None:
        """Make a call."""

        async def run() -> None:
            try:
                self.all.append(await call(*arguments))
            except BsfgError as error:
                self.all.append(error)

        self._nursery.start_soon(run)

    async def until(self, count: int, within_s: float = 10) -> list[Any]:
        """Wait for so many results."""
        with trio.fail_after(within_s):
            await polled(lambda: len(self.all) >= count)
        return self.all


async def polled(condition: Any) -> None:
    """Wait until something is so."""
    while not condition():  # noqa: ASYNC110 - it happens in another process's or library's hands
        await trio.sleep(0.01)


async def poll_through(
    world: World, service: WaitingService, nursery: trio.Nursery, port: int, **changes: Any
) -> AsyncIterator[tuple[PeerClient, Results]]:
    """A client whose long poll is under way."""
    async with open_peer(world.client(port, **changes)) as peer:
        results = Results(nursery)
        before = service.waiting
        results.start(peer.fetch_page, PLANT, POLL)
        with trio.fail_after(10):
            await polled(lambda: service.waiting > before)
        yield peer, results


# -- the line ----------------------------------------------------------------------------------------------------------


async def test_nobody_listening_is_a_link_down(world: World) -> None:
    """At once."""
    listener = (await trio.open_tcp_listeners(0, host=LOOPBACK))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    async with open_peer(world.client(port)) as peer:
        with trio.fail_after(5), pytest.raises(UnavailableError) as caught:
            await peer.append_page(PLANT, make_page())
        assert caught.value.reason == Reason.LINK_DOWN
        assert not peer.connected


async def test_a_listener_that_says_nothing_is_a_link_down(world: World) -> None:
    """After the time to connect; all who wait for the connection hear it from one attempt."""
    listener = (await trio.open_tcp_listeners(0, host=LOOPBACK))[0]
    port = listener.socket.getsockname()[1]
    async with (
        listener,
        open_peer(world.client(port, connect_s=0.3)) as peer,
        trio.open_nursery() as nursery,
    ):
        results = Results(nursery)
        for _ in range(50):
            results.start(peer.append_page, PLANT, make_page())
        answers = await results.until(50, within_s=5)
    assert {answer.reason for answer in answers} == {Reason.LINK_DOWN}


async def test_a_cut_line_is_used_again_when_it_heals(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """The poll under way fails at once, the next call connects anew."""
    wire = Wire(await world.serve(nursery, service))
    port = await nursery.start(wire.run)
    async for peer, results in poll_through(world, service, nursery, port):
        await wire.cut()
        (error,) = await results.until(1)
        assert (type(error), error.reason) == (UnavailableError, Reason.LINK_DOWN)
        await peer.append_page(PLANT, make_page())
        assert peer.connected


async def test_a_dead_line_is_noticed(world: World, service: WaitingService, nursery: trio.Nursery) -> None:
    """Everything is swallowed, nobody is told: found by question and silence, not by the poll's 20 seconds."""
    wire = Wire(await world.serve(nursery, service))
    port = await nursery.start(wire.run)
    limits = LinkLimits(ping_after_s=0.3, ping_timeout_s=0.3)
    async for peer, results in poll_through(world, service, nursery, port, limits=limits, connect_s=1.0):
        await trio.sleep(1)
        assert results.all == []
        wire.swallow()
        results.start(peer.append_page, PLANT, make_page(1000, size=4000))
        before = trio.current_time()
        errors = await results.until(2)
        assert trio.current_time() - before < 10
        assert {error.reason for error in errors} == {Reason.LINK_DOWN}
        wire.heal()
        await peer.append_page(PLANT, make_page())


async def test_a_server_that_answers_too_late_is_a_timeout(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """The connection stays, and the late answer confuses nobody."""

    async def slow() -> None:
        await trio.sleep(0.6)

    service.appending = slow
    port = await world.serve(nursery, service)
    async with open_peer(world.client(port, call_s=0.3)) as peer:
        with pytest.raises(UnavailableError) as caught:
            await peer.append_page(PLANT, make_page())
        assert caught.value.reason == Reason.PEER_TIMEOUT
        await trio.sleep(0.6)
        assert peer.connected
        await peer.confirm_receipt(PLANT, make_receipt())


# -- certificates that end ---------------------------------------------------------------------------------------------


async def test_the_connection_ends_with_the_callers_certificate(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """In the middle of a long poll; with a renewed one the caller is welcome again."""
    ends = datetime.now(UTC) + timedelta(seconds=2)
    renewed = world.plant
    world.plant = world.pki.credential(world.plant_ca, "plant-a-bsfg", not_after=ends)
    port = await world.serve(nursery, service)
    async for peer, results in poll_through(world, service, nursery, port):
        (error,) = await results.until(1)
        assert error.reason == Reason.LINK_DOWN
        assert datetime.now(UTC) > ends - timedelta(seconds=1)
        with trio.fail_after(5):
            await polled(lambda: service.cancelled == 1)
        world.plant = renewed
        await peer.append_page(PLANT, make_page())


async def test_the_connection_ends_with_the_hubs_certificate(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """The calling side looks at the clock too; here its own."""
    port = await world.serve(nursery, service)
    leap_s = 0.0

    def now() -> float:
        return datetime.now(UTC).timestamp() + leap_s

    ends = world.hub.certificate.not_valid_after_utc.timestamp()
    leap_s = ends - now() - 0.5
    async for _peer, results in poll_through(world, service, nursery, port, now=now):
        (error,) = await results.until(1)
        assert "it ended at" in error.detail


# -- a server that stops -----------------------------------------------------------------------------------------------


async def test_a_stopping_server_finishes_what_it_began(world: World, service: WaitingService) -> None:
    """Writes are answered, polls are told, the port is free, and the client finds the next server by itself."""
    writing, written = trio.Event(), trio.Event()

    async def slow() -> None:
        writing.set()
        await written.wait()

    service.appending = slow
    async with trio.open_nursery() as nursery:
        first = await nursery.start(_serving, world, service, 0)
        port: int = first.port
        async for peer, results in poll_through(world, service, nursery, port):
            results.start(peer.append_page, PLANT, make_page())
            await writing.wait()
            first.stop()
            (told,) = await results.until(1)
            assert told.reason == Reason.NOT_READY
            assert not peer.connected
            written.set()
            assert (await results.until(2))[1] == service.answer
            with trio.fail_after(3):
                await first.ended.wait()
            with pytest.raises(UnavailableError):
                await peer.append_page(PLANT, make_page())
            await nursery.start(_serving, world, service, port)
            assert await peer.append_page(PLANT, make_page()) == service.answer
        nursery.cancel_scope.cancel()


async def test_a_stopping_server_does_not_wait_for_ever(world: World, service: WaitingService) -> None:
    """A write that hangs ends with the grace time."""

    async def hang() -> None:
        await trio.sleep_forever()

    service.appending = hang
    limits = ConnectionLimits(grace_s=0.5, linger_s=0.1)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serving, world, service, 0, limits)
        async with open_peer(world.client(server.port)) as peer:
            results = Results(nursery)
            results.start(peer.append_page, PLANT, make_page())
            await trio.sleep(0.2)
            server.stop()
            (error,) = await results.until(1)
            assert error.reason == Reason.LINK_DOWN
            with trio.fail_after(5):
                await server.ended.wait()
    assert [record.outcome for record in world.audit] == ["cancelled"]


@dataclass
class _Serving:
    port: int
    scope: trio.CancelScope
    ended: trio.Event = field(default_factory=trio.Event)

    def stop(self) -> None:
        self.scope.cancel()


async def _serving(
    world: World,
    service: RecordingService,
    port: int,
    limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - frozen
    *,
    task_status: trio.TaskStatus[_Serving],
) -> None:
    """A server that can be stopped by itself."""
    config = ServerConfig(
        LOOPBACK,
        port,
        world.hub.for_server,
        world.registered(PLANT, world.plant_ca),
        audit=world.audit.append,
        connections=limits,
    )
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            bound: int = await nursery.start(partial(serve, service, config))
            serving = _Serving(bound, scope)
            task_status.started(serving)
    serving.ended.set()


async def test_an_idle_connection_is_closed_and_nobody_minds(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """Goodbye comes first, so that no call is lost in between."""
    limits = ConnectionLimits(idle_s=0.2, linger_s=0.1)
    port = await world.serve(nursery, service, connections=limits)
    async with open_peer(world.client(port)) as peer:
        for pause_s in (0, 0.1, 0.19, 0.2, 0.21, 0.25, 0.5):
            await trio.sleep(pause_s)
            await peer.append_page(PLANT, make_page())
        with trio.fail_after(3):
            await polled(lambda: not peer.connected)


async def test_an_address_in_use_is_an_error_with_a_name(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """Not a traceback."""
    port = await world.serve(nursery, service)
    with pytest.raises(RefusedError, match=str(port)):
        await serve(service, ServerConfig(LOOPBACK, port, world.hub.for_server, Registered(None)))


# -- many, and hostile -------------------------------------------------------------------------------------------------


async def test_200_calls_at_once(world: World, service: WaitingService, nursery: trio.Nursery) -> None:
    """More than one connection carries at once: the rest wait their turn."""
    port = await world.serve(nursery, service)
    async with open_peer(world.client(port)) as peer:
        results = Results(nursery)
        for _ in range(200):
            results.start(peer.append_page, PLANT, make_page())
        assert (await results.until(200)) == [service.answer] * 200
        for _ in range(100):
            results.start(peer.fetch_page, PLANT, POLL)
        with trio.fail_after(10):
            await polled(lambda: service.waiting == 100)
        service.go.set()
        assert (await results.until(300))[200:] == [make_page(1)] * 100


class Raw:
    """A peer with a good certificate and bad manners."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.h2 = PatientConnection(h2.config.H2Configuration(client_side=True))
        self.events: list[h2.events.Event] = []
        self.ended = False

    @classmethod
    @asynccontextmanager
    async def connect(cls, world: World, port: int) -> AsyncIterator[Raw]:
        """Shake hands and say hello."""
        async with await trio.open_tcp_stream(LOOPBACK, port) as tcp:
            context = world.plant.for_client().context
            raw = cls(trio.SSLStream(tcp, context, server_hostname="enterprise-bsfg", https_compatible=True))
            raw.h2.initiate_connection()
            await raw.flush()
            yield raw

    async def flush(self) -> None:
        """Send what h2 has to say."""
        await self.stream.send_all(self.h2.data_to_send())

    def begin(self, length: int | None = None, method: str = "AppendFact") -> int:
        """Begin a call."""
        stream_id = self.h2.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", PATH + method)]
        headers.append(("content-type", "application/proto"))
        if length is not None:
            headers.append(("content-length", str(length)))
        self.h2.send_headers(stream_id, headers)
        return stream_id

    async def read(self, patience_s: float = 2) -> list[h2.events.Event]:
        """Read until the server closes, or for a time."""
        with trio.move_on_after(patience_s) as patience:
            with suppress(trio.BrokenResourceError, h2.exceptions.ProtocolError):
                while data := await self.stream.receive_some():
                    self.events += self.h2.receive_data(data)
                    await self.flush()
        self.ended = not patience.cancelled_caught
        return self.events

    async def until(self, kind: type[h2.events.Event]) -> Any:
        """Read until there is an event of a kind."""
        with trio.fail_after(3):
            while not (found := [event for event in self.events if isinstance(event, kind)]):
                self.events += self.h2.receive_data(await self.stream.receive_some())
        return found[0]


async def good_calls_go_on(peer: PeerClient, service: RecordingService) -> None:
    """Another peer is not disturbed."""
    with trio.fail_after(5):
        assert await peer.append_page(PLANT, make_page()) == service.answer


async def test_a_flood_of_calls_taken_back_ends_itself_only(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """Rapid reset: the connection is ended with a reason, the others go on."""
    port = await world.serve(nursery, service)
    async with open_peer(world.client(port)) as peer, Raw.connect(world, port) as raw:
        await peer.connect()
        sent = 0
        ended: list[Any] = []
        while sent < 5000 and not ended:
            for _ in range(50):
                raw.h2.reset_stream(raw.begin(), ErrorCodes.CANCEL)
                sent += 1
            await raw.flush()
            await good_calls_go_on(peer, service)
            events = await raw.read(0.01)
            ended = [event for event in events if isinstance(event, h2.events.ConnectionTerminated)]
        assert ended[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM
        assert sent < 1000
        await good_calls_go_on(peer, service)


async def test_an_oversized_body_is_refused_and_read_no_further(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """The refusal arrives, data that still comes is dropped, the connection is as good as before."""
    port = await world.serve(nursery, service)
    async with Raw.connect(world, port) as raw:
        stream_id = raw.begin()
        sent = 0
        while not any(isinstance(event, h2.events.StreamEnded) for event in raw.events):
            assert sent < 3 * MAX_BODY_BYTES
            for _ in range(20):
                room = min(raw.h2.local_flow_control_window(stream_id), 16_000)
                raw.h2.send_data(stream_id, bytes(room))
                sent += room
            await raw.flush()
            await raw.read(0.005)
        raw.h2.send_data(stream_id, bytes(1000), end_stream=True)
        second = raw.begin(0)
        raw.h2.send_data(second, b"", end_stream=True)
        await raw.flush()
        events = await raw.read(0.3)
    answers = [dict(event.headers) for event in events if isinstance(event, h2.events.ResponseReceived)]
    assert [headers[b":status"] for headers in answers] == [b"400", b"400"]
    assert [record.outcome for record in world.audit] == ["too_large", "bad_request"]


async def test_a_trickling_body_is_given_up(world: World, service: WaitingService, nursery: trio.Nursery) -> None:
    """Slow loris: a byte now and then keeps nothing open."""
    port = await world.serve(nursery, service, calls=CallLimits(stall_s=0.5))
    async with Raw.connect(world, port) as raw, trio.open_nursery() as trickling:
        stream_id = raw.begin(1000)

        async def trickle() -> None:
            while True:
                raw.h2.send_data(stream_id, b"x")
                await raw.flush()
                await trio.sleep(0.1)

        before = trio.current_time()
        trickling.start_soon(trickle)
        with trio.fail_after(5):
            await polled(lambda: world.audit)
        assert trio.current_time() - before < 5
        trickling.cancel_scope.cancel()
    assert [record.outcome for record in world.audit] == ["peer_timeout"]
    async with open_peer(world.client(port)) as peer:
        await good_calls_go_on(peer, service)


async def test_silent_connections_are_closed(world: World, service: WaitingService, nursery: trio.Nursery) -> None:
    """Without a handshake, and without a call after it."""
    limits = ConnectionLimits(handshake_s=0.3, idle_s=0.3, linger_s=0.1)
    port = await world.serve(nursery, service, connections=limits)
    async with await trio.open_tcp_stream(LOOPBACK, port) as silent:
        with trio.fail_after(5):
            assert await silent.receive_some() == b""
    async with Raw.connect(world, port) as raw:
        before = trio.current_time()
        assert isinstance((await raw.read(5))[-1], h2.events.ConnectionTerminated)
        assert trio.current_time() - before < 4


@pytest.mark.parametrize("call", ["polling", "writing", "reading"])
async def test_a_connection_that_breaks_in_mid_call_leaves_nothing(
    world: World, service: WaitingService, nursery: trio.Nursery, call: str
) -> None:
    """Whatever its call was doing, its place is free soon: in a poll, in a write, in an answer nobody takes."""
    if call == "reading":
        service.page = make_page(1000, size=4000)
    service.appending = partial(trio.sleep, 0.3)
    port = await world.serve(nursery, service, connections=ConnectionLimits(connections=1))
    for _ in range(3):
        async with Raw.connect(world, port) as raw:
            if call == "writing":
                body = codec.append_to_proto(make_page(), None).SerializeToString()
                stream_id = raw.begin(len(body))
            else:
                body = codec.fetch_to_proto(PLANT, POLL).SerializeToString()
                stream_id = raw.begin(len(body), "FetchFacts")
            raw.h2.send_data(stream_id, body, end_stream=True)
            await raw.flush()
            await raw.read(0.1)
        async with open_peer(world.client(port)) as peer:
            with trio.fail_after(3):
                await polled_connect(peer)
        await trio.sleep(0.05)


async def test_a_page_needs_no_round_trips(world: World, service: WaitingService, nursery: trio.Nursery) -> None:
    """The windows of call and connection hold the largest request."""
    port = await world.serve(nursery, service)
    async with Raw.connect(world, port) as raw:
        await raw.until(h2.events.RemoteSettingsChanged)
        await raw.until(h2.events.WindowUpdated)
        assert raw.h2.local_flow_control_window(raw.begin()) >= MAX_BODY_BYTES


async def test_calls_after_the_goodbye_are_refused(
    world: World, service: WaitingService, nursery: trio.Nursery
) -> None:
    """So that the caller knows that they were not begun."""
    limits = ConnectionLimits(idle_s=0.1, linger_s=3)
    port = await world.serve(nursery, service, connections=limits)
    async with Raw.connect(world, port) as raw:
        await raw.until(h2.events.ConnectionTerminated)
        stream_id = raw.begin(3)
        await raw.flush()
        reset = await raw.until(h2.events.StreamReset)
        assert (reset.stream_id, reset.error_code) == (stream_id, ErrorCodes.REFUSED_STREAM)
    assert world.audit == []


async def test_connections_are_counted(world: World, service: WaitingService, nursery: trio.Nursery) -> None:
    """One too many is closed; when one ends, another may come."""
    port = await world.serve(nursery, service, connections=ConnectionLimits(connections=2))
    async with AsyncExitStack() as stack, open_peer(world.client(port)) as peer:
        held = [await stack.enter_async_context(Raw.connect(world, port)) for _ in range(2)]
        for raw in held:
            raw.events += raw.h2.receive_data(await raw.stream.receive_some())
        with pytest.raises(UnavailableError):
            await peer.connect()
        await held[0].stream.aclose()
        with trio.fail_after(3):
            await polled_connect(peer)


async def polled_connect(peer: PeerClient) -> None:
    """Try until there is a connection."""
    while not peer.connected:
        try:
            await peer.connect()
        except UnavailableError:
            await trio.sleep(0.05)


@pytest.mark.parametrize(
    "noise",
    [
        b"\xff" * 100,  # a frame of 16 MiB
        hyperframe.frame.WindowUpdateFrame(0, window_increment=1).serialize()[:3] + b"\xff" * 50,
        hyperframe.frame.HeadersFrame(1, data=b"\xff" * 50, flags=["END_HEADERS"]).serialize(),
        hyperframe.frame.DataFrame(7, data=b"x").serialize(),
        hyperframe.frame.PriorityFrame(1, depends_on=1).serialize(),
    ],
    ids=["long", "cut", "hpack", "idle-stream", "priority"],
)
async def test_noise_ends_only_its_connection(
    world: World, service: WaitingService, nursery: trio.Nursery, noise: bytes
) -> None:
    """Whatever a peer sends, the server goes on."""
    port = await world.serve(nursery, service)
    async with open_peer(world.client(port)) as peer, Raw.connect(world, port) as raw:
        await peer.connect()
        with suppress(trio.BrokenResourceError):
            await raw.stream.send_all(noise)
            await raw.stream.send_all(bytes(100))
        await raw.read()
        assert raw.ended
        await good_calls_go_on(peer, service)


async def test_odd_requests_end_nothing(
    world: World, service: WaitingService, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """CONNECT, websockets over HTTP/2, paths outside ASCII: hypercorn stumbles over some of them."""
    caplog.set_level(logging.CRITICAL)
    port = await world.serve(nursery, service)
    async with open_peer(world.client(port)) as peer:
        await peer.connect()
        post = [(":method", "POST"), (":scheme", "https"), (":authority", "x")]
        for headers, outcome in (
            ([(":method", "CONNECT"), (":authority", "x")], h2.events.StreamReset),
            ([*post, (":path", "/")], h2.events.ResponseReceived),
            ([*post, (":path", "/\xe6")], None),
        ):
            async with Raw.connect(world, port) as raw:
                raw.h2.send_headers(1, headers, end_stream=outcome is not h2.events.StreamReset)
                await raw.flush()
                if outcome is None:
                    await raw.read()
                    assert raw.ended
                else:
                    await raw.until(outcome)
                await good_calls_go_on(peer, service)
