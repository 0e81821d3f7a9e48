# SPDX-License-Identifier: Apache-2.0
"""The simulated link carries both directions, can be cut in two ways and healed, and never buffers without bound."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.dev.environment import choose_ports
from appliance.dev.link import Cut, SimulatedLink, Tunnel

HOST = "127.0.0.1"


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes, until it ends."""
    try:
        async for chunk in stream:
            await stream.send_all(chunk)
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


@asynccontextmanager
async def linked(handler: object = echo) -> AsyncIterator[tuple[SimulatedLink, int]]:
    """A server behind a link, and the port to dial."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handler, 0)
        port = next(iter(choose_ports().values()))
        link = SimulatedLink([Tunnel("test", port, listeners[0].socket.getsockname()[1])])
        await nursery.start(link.run)
        with trio.fail_after(20):
            yield link, port
        nursery.cancel_scope.cancel()


async def receive(stream: trio.SocketStream, count: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < count:
        chunk = await stream.receive_some(count - len(data))
        assert chunk, f"ended after {data!r}"
        data += chunk
    return data


async def test_it_carries_both_directions_and_the_end() -> None:
    """What is sent arrives, in both directions, and so does the end of each."""
    async with linked() as (link, port), await trio.open_tcp_stream(HOST, port) as stream:
        await stream.send_all(b"x" * 300_000)
        assert await receive(stream, 300_000) == b"x" * 300_000
        assert link.connections == 1
        await stream.send_eof()
        assert await stream.receive_some() == b""
        while link.connections:  # noqa: ASYNC110 - the link has no event for it
            await trio.sleep(0.01)
        assert link.bytes_carried == 600_000


async def test_a_cut_resets_and_refuses_until_it_is_healed() -> None:
    """Open connections break at once, new ones are refused; after healing they work."""
    async with linked() as (link, port):
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"before")
            await receive(stream, 6)
            await link.cut(Cut.RESET)
            assert link.connections == 0
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        with pytest.raises(OSError, match=r"refused|failed"):
            await trio.open_tcp_stream(HOST, port)
        await link.heal()
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"after")
            assert await receive(stream, 5) == b"after"


async def test_a_black_hole_keeps_silent_and_goes_on_when_healed() -> None:
    """Nothing comes through and nothing breaks; what was sent meanwhile arrives after healing."""
    async with linked() as (link, port), await trio.open_tcp_stream(HOST, port) as stream:
        await stream.send_all(b"1")
        await receive(stream, 1)
        await link.cut(Cut.BLACKHOLE)
        async with await trio.open_tcp_stream(HOST, port) as late:
            await stream.send_all(b"2")
            await late.send_all(b"3")
            with trio.move_on_after(0.3) as waited:
                await stream.receive_some()
            assert waited.cancelled_caught
            await link.heal()
            assert await receive(stream, 1) == b"2"
            assert await receive(late, 1) == b"3"


async def test_a_black_hole_can_become_a_reset() -> None:
    """Cutting a cut link changes how it is cut."""
    async with linked() as (link, port), await trio.open_tcp_stream(HOST, port) as stream:
        await link.cut(Cut.BLACKHOLE)
        await link.cut(Cut.RESET)
        assert link.cut_how is Cut.RESET
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_a_receiver_that_does_not_read_stops_its_sender() -> None:
    """Memory of the link is bounded: the sender is held up once the sockets' own buffers are full."""

    async def deaf(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await trio.sleep_forever()

    async with linked(deaf) as (link, port), await trio.open_tcp_stream(HOST, port) as stream:
        sent = 0
        with trio.move_on_after(1.5) as limit:
            while True:
                await stream.send_all(b"x" * 65536)
                sent += 65536
        assert limit.cancelled_caught
        carried = link.bytes_carried
        await trio.sleep(0.2)
        assert link.bytes_carried == carried < sent <= 64 * 1024**2


async def test_a_dead_target_is_not_hidden() -> None:
    """When the hub does not listen, whoever dials the link hears of it."""
    ports = list(choose_ports().values())
    link = SimulatedLink([Tunnel("test", ports[0], ports[1])])
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        with trio.fail_after(5):
            async with await trio.open_tcp_stream(HOST, ports[0]) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
        nursery.cancel_scope.cancel()


async def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link says which of its ports somebody else has."""
    monkeypatch.setattr("appliance.dev.link._RELISTEN_TIMEOUT", 0.3)
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.RaisesGroup(UnavailableError, flatten_subgroups=True) as caught:
            await SimulatedLink([Tunnel("hub RPC", port, 1)]).run()
    error = caught.value.exceptions[0]
    assert isinstance(error, UnavailableError)
    assert error.reason is Reason.PORT_TAKEN
    assert str(port) in error.detail
    assert "hub RPC" in error.detail
