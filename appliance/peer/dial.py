# SPDX-License-Identifier: Apache-2.0
"""A TCP connection to a peer: directly, or through an HTTP proxy that opens it by CONNECT (RFC 9110, section 9.3.6).

The proxy sees host and port and then TLS, whose certificate names the peer and not the proxy: it can refuse and delay,
and nothing else. It is given no user and password. What it answers is read up to a size and believed nothing but its
status code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason

MAX_ANSWER_BYTES: Final = 16 * 1024
"""Of a proxy's status line and headers."""
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_PROXY_WANTS_USER: Final = 407


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """Where a proxy is. It must let CONNECT through to the peer's ports."""

    host: str
    port: int

    def __str__(self) -> str:
        return authority(self.host, self.port)


async def open_tcp(host: str, port: int, proxy: HttpProxy | None = None) -> trio.SocketStream:
    """Connect; whoever calls bounds the time it may take.

    :param proxy: asked to connect; it looks the host up, too.
    :raises UnavailableError: ``link_down``: nobody answers at what is dialled; ``proxy_refused``: the proxy does, and
        does not connect.
    """
    at = (host, port) if proxy is None else (proxy.host, proxy.port)
    try:
        stream = await trio.open_tcp_stream(*at)
    except OSError as error:
        where = "" if proxy is None else f"the proxy {proxy}: "
        raise UnavailableError(Reason.LINK_DOWN, f"{where}{error}") from error
    if proxy is None:
        return stream
    try:
        await _ask(stream, authority(host, port), proxy)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def authority(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _ask(stream: trio.SocketStream, target: str, proxy: HttpProxy) -> None:
    try:
        await stream.send_all(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
        answer = await _answer(stream, proxy)
    except trio.BrokenResourceError as error:
        raise UnavailableError(Reason.LINK_DOWN, f"the proxy {proxy} broke off") from error
    status = _STATUS.match(answer)
    if status is None:
        raise _refused(proxy, "does not speak HTTP")
    code = int(status[1])
    if code == _PROXY_WANTS_USER:
        raise _refused(proxy, f"wants a user and a password ({code}) before it connects to {target}")
    if code // 100 != 2:
        raise _refused(proxy, f"answered {code} when asked to connect to {target}")
    if not answer.endswith(_END):  # the peer speaks TLS, and so it speaks second
        raise _refused(proxy, "says more than it was asked")


async def _answer(stream: trio.SocketStream, proxy: HttpProxy) -> bytes:
    """What it sends, up to the end of the headers, and what came along with that."""
    answer = b""
    while _END not in answer:
        if len(answer) > MAX_ANSWER_BYTES or (answer and not b"HTTP/1.".startswith(answer[:7])):
            raise _refused(proxy, "does not speak HTTP")
        more = await stream.receive_some(MAX_ANSWER_BYTES)
        if not more:
            raise _refused(proxy, "hung up without an answer")
        answer += more
    return answer


def _refused(proxy: HttpProxy, why: str) -> UnavailableError:
    return UnavailableError(Reason.PROXY_REFUSED, f"the proxy {proxy} {why}")
