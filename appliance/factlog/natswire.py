# SPDX-License-Identifier: Apache-2.0
"""The NATS connection of a node on trio: requests, pages, subscriptions; every wait ends by itself.

One connection, kept up by :meth:`NatsWire.run`. While it is down, calls fail at once with ``broker_unavailable``; calls
in flight when it breaks fail too, and their outcome is unknown. Subscriptions come back with the connection.
"""

from __future__ import annotations

import json
import logging
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from appliance.boundary.claims import Signal
from appliance.boundary.errors import BsfgError, UnavailableError, first_error
from appliance.boundary.reasons import Reason
from appliance.factlog.natslogin import Login
from appliance.factlog.natsproto import (
    Delivery,
    Info,
    Parser,
    Ping,
    Pong,
    ServerError,
    connect,
    publish,
    subscribe,
    unsubscribe,
)

_log = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 256 * 1024
CONNECT_TIMEOUT_S: Final = 5.0
REQUEST_TIMEOUT_S: Final = 5.0
PING_EVERY_S: Final = 5.0
RECONNECT_FIRST_S: Final = 0.05
RECONNECT_LONGEST_S: Final = 1.0
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
INBOX_PREFIX: Final = "_BSFG"
"""Where our answers arrive. Not ``_INBOX``: what arrives there in our account is shown to local applications."""
_NO_RESPONDERS: Final = b"NATS/1.0 503"


@dataclass(slots=True, eq=False)
class _Waiter:
    """Collects the answers to one inbox token until ``enough`` says so."""

    enough: Callable[[list[Delivery]], bool]
    answers: list[Delivery] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)
    broken: bool = False


@dataclass(frozen=True, slots=True)
class _Subscription:
    subject: str
    deliver: Callable[[list[Delivery]], None]


class NatsWire:
    """One supervised connection to the zone's broker.

    :param tls: for a broker with a TLS listener; its certificate must be for ``host``.
    """

    def __init__(self, host: str, port: int, login: Login, *, name: str, tls: ssl.SSLContext | None = None) -> None:
        self.info: Info | None = None
        self.connects = 0
        self.changed = Signal()
        self._host, self._port, self._login, self._name, self._tls = host, port, login, name, tls
        self._inbox = f"{INBOX_PREFIX}.{secrets.token_hex(11)}"
        self._tokens = 0
        self._waiters: dict[str, _Waiter] = {}
        self._pages: dict[int, _Waiter] = {}
        self._subscriptions: dict[int, _Subscription] = {}
        self._next_sid = 2
        self._out = bytearray()
        self._wake = trio.Event()
        self._pong: trio.Event | None = None

    @property
    def connected(self) -> bool:
        """Whether the broker can be asked now."""
        return self.info is not None

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        pause = RECONNECT_FIRST_S
        while True:
            try:
                await self._session()
            except* (BsfgError, OSError, trio.TooSlowError, trio.BrokenResourceError) as group:
                if pause == RECONNECT_FIRST_S:
                    _log.warning("broker %s:%d: %s", self._host, self._port, first_error(group))
            connected = self.connected
            self._disconnected()
            pause = RECONNECT_FIRST_S if connected else min(pause * 2, RECONNECT_LONGEST_S)
            await trio.sleep(pause)

    async def wait_connected(self) -> None:
        """Wait until the broker can be asked."""
        while not self.connected:
            await self.changed.next().wait()

    def subscribe(self, subject: str, deliver: Callable[[list[Delivery]], None]) -> None:
        """Hand all messages of a subject to a callback, in order, as they come; it must not wait."""
        sid, self._next_sid = self._next_sid, self._next_sid + 1
        self._subscriptions[sid] = _Subscription(subject, deliver)
        if self.connected:
            self.send(subscribe(subject, sid))

    def send(self, frames: bytes) -> None:
        """Queue frames to be written. :raises UnavailableError: not connected, or the broker does not take them."""
        if not self.connected:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"not connected to {self._host}:{self._port}")
        if len(self._out) > MAX_UNSENT_BYTES:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, "the broker does not take what is sent")
        self._out += frames
        self._wake.set()

    async def exchange(
        self,
        frames: Callable[[str], bytes],
        enough: Callable[[list[Delivery]], bool],
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> list[Delivery]:
        """Send frames that name a reply subject and collect the answers until there are enough.

        :raises UnavailableError: ``broker_unavailable``; what was sent may or may not have taken effect.
        """
        self._tokens += 1
        token = str(self._tokens)
        waiter = self._waiters[token] = _Waiter(enough)
        try:
            self.send(frames(f"{self._inbox}.{token}"))
            return await self._wait(waiter, timeout_s)
        finally:
            del self._waiters[token]

    async def collect(
        self,
        frames: Callable[[str], bytes],
        enough: Callable[[list[Delivery]], bool],
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> list[Delivery]:
        """Like :meth:`exchange`, for answers that keep their own subject (pages): they are told by a subscription."""
        sid, self._next_sid = self._next_sid, self._next_sid + 1
        inbox = f"{self._inbox}.page.{sid}"
        waiter = self._pages[sid] = _Waiter(enough)
        try:
            self.send(subscribe(inbox, sid) + frames(inbox))
            return await self._wait(waiter, timeout_s)
        finally:
            del self._pages[sid]
            if self.connected:
                self._out += unsubscribe(sid)
                self._wake.set()

    @staticmethod
    async def _wait(waiter: _Waiter, timeout_s: float) -> list[Delivery]:
        with trio.move_on_after(timeout_s) as timeout:
            await waiter.done.wait()
        if timeout.cancelled_caught:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"no answer within {timeout_s:g} s")
        if waiter.broken:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, "the connection broke before the answer")
        return waiter.answers

    async def request(self, subject: str, payload: bytes = b"", *, timeout_s: float = REQUEST_TIMEOUT_S) -> Delivery:
        """One request, one answer. :raises UnavailableError: also when nobody answers this subject."""
        answers = await self.exchange(
            lambda reply: publish(subject, payload, reply=reply), lambda answers: True, timeout_s=timeout_s
        )
        if answers[0].status == 503:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"nobody answers {subject}")
        return answers[0]

    async def request_json(self, subject: str, document: object = None) -> dict[str, Any]:
        """A request of the JetStream API: JSON there and back. The answer may hold an ``error`` object."""
        payload = b"" if document is None else json.dumps(document).encode()
        answer = await self.request(subject, payload)
        try:
            values = json.loads(answer.payload)
        except ValueError as error:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{subject}: not JSON") from error
        if not isinstance(values, dict):
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{subject}: not an object")
        return values

    # -- the session -------------------------------------------------------------------------------------------------

    async def _session(self) -> None:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            tcp = await trio.open_tcp_stream(self._host, self._port)
        async with tcp:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                stream, parser, greeting = await self._greet(tcp)
                await self._open(stream, parser, greeting)
            _log.info("connected to the broker at %s:%d", self._host, self._port)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream)
                nursery.start_soon(self._keep_alive)
                await self._read(stream, parser)

    async def _greet(self, tcp: trio.SocketStream) -> tuple[trio.abc.Stream, Parser, Info]:
        """The broker's INFO; behind it TLS begins, where there is any.

        What came before the handshake may be anybody's: none of it is parsed further, and a nonce that somebody else
        chose is signed for the broker alone.
        """
        parser = Parser()
        while True:
            events = await self._receive(tcp, parser)
            for event in events:
                if isinstance(event, ServerError):
                    raise UnavailableError(Reason.BROKER_UNAVAILABLE, event.text)
            for event in events:
                if isinstance(event, Info):
                    if self._tls is None:
                        return tcp, parser, event
                    stream = trio.SSLStream(tcp, self._tls, server_hostname=self._host)
                    await stream.do_handshake()
                    return stream, Parser(), event

    async def _open(self, stream: trio.abc.Stream, parser: Parser, info: Info) -> None:
        await stream.send_all(connect(self._login.options(info.nonce), name=self._name))
        while True:
            for event in await self._receive(stream, parser):
                if isinstance(event, Info):
                    info = event
                elif isinstance(event, ServerError):
                    raise UnavailableError(Reason.BROKER_UNAVAILABLE, event.text)
                elif isinstance(event, Ping):
                    await stream.send_all(b"PONG\r\n")
                elif isinstance(event, Pong):
                    self._opened(info)
                    return

    def _opened(self, info: Info) -> None:
        self.info = info
        self.connects += 1
        self._out = bytearray(subscribe(f"{self._inbox}.*", 1))
        for sid, subscription in self._subscriptions.items():
            self._out += subscribe(subscription.subject, sid)
        self._wake.set()
        self.changed.fire()

    def _disconnected(self) -> None:
        self.info = None
        self._out.clear()
        for waiter in (*self._waiters.values(), *self._pages.values()):
            waiter.broken = True
            waiter.done.set()
        self.changed.fire()

    @staticmethod
    async def _receive(stream: trio.abc.Stream, parser: Parser) -> list[Any]:
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, "the broker closed the connection")
        return parser.feed(bytes(data))

    async def _read(self, stream: trio.abc.Stream, parser: Parser) -> None:
        while True:
            gathered: dict[int, list[Delivery]] = {}
            for event in await self._receive(stream, parser):
                if isinstance(event, Delivery):
                    self._deliver(event, gathered)
                else:
                    self._control(event)
            for sid, deliveries in gathered.items():
                self._subscriptions[sid].deliver(deliveries)

    def _deliver(self, delivery: Delivery, gathered: dict[int, list[Delivery]]) -> None:
        if delivery.sid == 1:
            _answer(self._waiters.get(delivery.subject.rpartition(".")[2]), delivery)
        elif delivery.sid in self._pages:
            _answer(self._pages[delivery.sid], delivery)
        elif delivery.sid in self._subscriptions:
            gathered.setdefault(delivery.sid, []).append(delivery)

    def _control(self, event: Info | Ping | Pong | ServerError) -> None:
        if isinstance(event, Ping):
            self._out += b"PONG\r\n"
            self._wake.set()
        elif isinstance(event, Pong) and self._pong is not None:
            self._pong.set()
        elif isinstance(event, ServerError):
            _log.warning("broker: %s", event.text)

    async def _write(self, stream: trio.abc.Stream) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._out:
                data, self._out = self._out, bytearray()
                await stream.send_all(bytes(data))

    async def _keep_alive(self) -> None:
        """A broker that hangs, or a half-open connection, is noticed within two periods."""
        while True:
            await trio.sleep(PING_EVERY_S)
            self._pong = trio.Event()
            self.send(b"PING\r\n")
            with trio.move_on_after(PING_EVERY_S) as waited:
                await self._pong.wait()
            if waited.cancelled_caught:
                raise UnavailableError(Reason.BROKER_UNAVAILABLE, "the broker does not answer PING")


def _answer(waiter: _Waiter | None, delivery: Delivery) -> None:
    if waiter is None or waiter.done.is_set():
        return  # too late: whoever asked has given up
    waiter.answers.append(delivery)
    if delivery.header.startswith(_NO_RESPONDERS) or waiter.enough(waiter.answers):
        waiter.done.set()
