# SPDX-License-Identifier: Apache-2.0
"""Dialling through an HTTP proxy: what it is asked, what of its answers is believed, and how long it may take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.peer.dial import MAX_ANSWER_BYTES, HttpProxy, open_tcp
from tests.proxies import ESTABLISHED, LOOPBACK, ConnectProxy

HUB = "hub.example.com"
PORT = 8443


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[ConnectProxy, HttpProxy]]:
    """A proxy that leads to a server which says back what it hears."""

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    proxy = ConnectProxy()
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=LOOPBACK)
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        port = listener.socket.getsockname()[1]
        proxy.leads = {f"{HUB}:{PORT}": port, f"[2001:db8::9]:{PORT}": port}
        yield proxy, HttpProxy(LOOPBACK, await nursery.start(proxy.run))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("host", [HUB, "2001:db8::9"])
async def test_the_proxy_is_asked_for_the_host_and_gets_nothing_else(host: str) -> None:
    """By its name, which this side does not look up; no user, no password, no cookie."""
    async with proxied() as (proxy, at):
        stream = await open_tcp(host, PORT, at)
        async with stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        target = f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}"
        assert proxy.requests == [f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()]


LONG = b"HTTP/1.1 200 yes\r\n" + b"X: y\r\n" * (MAX_ANSWER_BYTES // 4)
NO = {
    "forbidden": (b"HTTP/1.1 403 Forbidden\r\n\r\n", f"answered 403 when asked to connect to {HUB}:{PORT}"),
    "wants a user": (b"HTTP/1.1 407 no\r\nProxy-Authenticate: Basic\r\n\r\n", "wants a user and a password (407)"),
    "cannot reach it": (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", "answered 502"),
    "moved": (b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n", "answered 302"),
    "not yet": (b"HTTP/1.1 100 Continue\r\n\r\n", "answered 100"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", "does not speak HTTP"),
    "another version": (b"HTTP/2 200\r\n\r\n", "does not speak HTTP"),
    "a number too long": (b"HTTP/1.1 2000 yes\r\n\r\n", "does not speak HTTP"),
    "something else": (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
    "TLS": (bytes.fromhex("16030100020228"), "does not speak HTTP"),
    "endless headers": (LONG, "does not speak HTTP"),
    "more than an answer": (b"HTTP/1.1 200 yes\r\n\r\nSSH-2.0", "says more than it was asked"),
    "a page": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "says more than it was asked"),
    "hangs up": (b"", "hung up without an answer"),
    "hangs up in the middle": (b"HTTP/1.1 200 OK\r\nX: ", "hung up without an answer"),
}


@pytest.mark.parametrize("name", NO)
async def test_a_proxy_that_does_not_connect_is_told_from_a_hub_that_is_away(name: str) -> None:
    """With its address and why; nothing of its text is shown. The same proxy connects in the same run."""
    answer, why = NO[name]
    async with proxied() as (proxy, at):
        proxy.answer = answer
        with pytest.raises(UnavailableError) as caught:
            await open_tcp(HUB, PORT, at)
        assert caught.value.reason is Reason.PROXY_REFUSED
        assert f"the proxy {at} {why}" in caught.value.detail
        assert "evil" not in caught.value.detail
        proxy.answer = ESTABLISHED
        await (await open_tcp(HUB, PORT, at)).aclose()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.0 200 Connection established\r\n\r\n", b"HTTP/1.1 204\r\n\r\n", b"HTTP/1.1 200 \r\nVia: a, b\r\n\r\n"],
)
async def test_every_way_of_saying_yes_is_understood(answer: bytes) -> None:
    """Old ones, terse ones, talkative ones."""
    async with proxied() as (proxy, at):
        proxy.answer = answer
        await (await open_tcp(HUB, PORT, at)).aclose()


async def test_a_slow_proxy_takes_no_longer_than_whoever_dials_allows() -> None:
    """It has accepted, and says nothing."""
    async with proxied() as (proxy, at):
        proxy.delay_s = 60
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.3):
            await open_tcp(HUB, PORT, at)
        assert trio.current_time() - began < 5
        assert proxy.asked == [f"{HUB}:{PORT}"]


async def test_a_proxy_that_is_not_there_is_a_line_that_is_down() -> None:
    """And says so; without one, too."""
    (listener,) = await trio.open_tcp_listeners(0, host=LOOPBACK)
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    for arguments, words in (((HUB, PORT, HttpProxy(LOOPBACK, port)), "the proxy "), ((LOOPBACK, port), "")):
        with pytest.raises(UnavailableError) as caught:
            await open_tcp(*arguments)
        assert caught.value.reason is Reason.LINK_DOWN
        assert caught.value.detail.startswith(words)
