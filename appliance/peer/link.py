# SPDX-License-Identifier: Apache-2.0
"""One HTTP/2 connection to a peer, as the calling side: many calls at once, and a quick, honest end.

Theory of operation: one task reads, one writes, one listens for silence. Calls only touch h2's state, which never
waits, and wake the writer; so a call that is cancelled can never leave half a TLS record behind. Everything that ends
the connection goes through :meth:`Link.end`, which fails every call with the reason.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame
import trio
from h2.errors import ErrorCodes

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.peer.frames import overlong_frame
from appliance.peer.limits import MAX_BODY_BYTES, MIN_BYTES_PER_S
from appliance.peer.tls import refuses_certificate

Headers = list[tuple[str, str]]

_DEFAULT_WINDOW: Final = 65_535
_READ_BYTES: Final = 64 * 1024
_LAST_STREAM: Final = 2**31 - 2
_PING: Final = b"bsfgping"
_LAST_WORDS_S: Final = 1.0
"""How long after a failed write the reader may still find out why."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Times and sizes of a connection."""

    ping_after_s: float = 5.0
    """Silence after which the peer is asked whether it is there."""
    ping_timeout_s: float = 5.0
    """Silence after that question that ends the connection."""
    calls: int = 256
    """Calls under way at once, if the peer allows as many; further ones wait."""
    frame_bytes: int = 64 * 1024
    """Largest frame we take."""
    window_bytes: int = 8 * MAX_BODY_BYTES


class UnprocessedError(UnavailableError):
    """The peer says that it has not begun with this call: it may be made again without any doubt."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


@dataclass(eq=False, slots=True)
class _Call:
    """One stream."""

    scope: trio.CancelScope
    body: bytearray = field(default_factory=bytearray)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    over: trio.Event = field(default_factory=trio.Event)
    error: BsfgError | None = None

    def fail(self, error: BsfgError) -> None:
        if not self.over.is_set():
            self.error = error
            self.over.set()

    def moved(self, size: int) -> None:
        """Bytes went over: the call may take that much longer."""
        self.scope.deadline += size / MIN_BYTES_PER_S


class PatientConnection(h2.connection.H2Connection):
    """h2, except that a peer's goodbye does not end the calls it still finishes.

    h2 treats the first GOAWAY as the end of the connection and answers the rest of every answer with an error.
    """

    def _receive_goaway_frame(
        self, frame: hyperframe.frame.GoAwayFrame
    ) -> tuple[list[hyperframe.frame.Frame], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        return [], [event]


class Link:
    """A connection; :meth:`run` serves it, :meth:`call` uses it, from as many tasks as you like.

    :param stream: connected, and past its handshake.
    :param authority: what calls name as their host.
    """

    def __init__(self, stream: trio.abc.Stream, authority: str, limits: LinkLimits) -> None:
        self._stream = stream
        self._authority = authority
        self._limits = limits
        codes = h2.settings.SettingCodes
        self._h2 = PatientConnection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: 2 * MAX_BODY_BYTES,
                codes.MAX_FRAME_SIZE: limits.frame_bytes,
            },
        )
        self._h2.max_inbound_frame_size = limits.frame_bytes
        self._calls: dict[int, _Call] = {}
        self._free = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._unsent = trio.Event()
        self._ready = trio.Event()
        self._heard = trio.current_time()
        self._failure: BsfgError | None = None
        self._leaving = False
        self.ended = trio.Event()

    @property
    def usable(self) -> bool:
        """Whether new calls should be made here."""
        return not self._leaving and self._failure is None

    async def run(self) -> None:
        """Serve the connection until it ends, for whatever reason; it is closed then."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(self._limits.window_bytes - _DEFAULT_WINDOW)
        self._unsent.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._write)
                nursery.start_soon(self._listen_for_silence)
                await self.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.end(UnavailableError(Reason.LINK_DOWN, "the connection was closed here"))
            await trio.aclose_forcefully(self._stream)

    async def hello(self, patience_s: float) -> None:
        """Wait until the peer has said hello.

        That matters: with TLS 1.3 a server that refuses our certificate says so only after our side of the handshake
        is done.

        :raises BsfgError: why the connection ended instead.
        """
        with trio.move_on_after(patience_s):
            await self._ready.wait()
        if not self._ready.is_set():
            self.end(UnavailableError(Reason.LINK_DOWN, f"the peer said nothing for {patience_s:g} s"))
        if self._failure is not None:
            raise self._failure

    def retire(self) -> None:
        """Take no further calls; those under way are finished, and then the connection is closed."""
        self._leaving = True
        self._free.unpark_all()
        if not self._calls:
            self.end(UnavailableError(Reason.LINK_DOWN, "the connection was replaced by a newer one"))

    def end(self, error: BsfgError) -> None:
        """End the connection; calls under way fail with this error."""
        if self._failure is None:
            self._failure = error
        for call in self._calls.values():
            call.fail(self._failure)
        self._free.unpark_all()
        self._room.unpark_all()
        self._ready.set()
        self.ended.set()

    async def call(self, path: str, headers: Headers, body: bytes, patience_s: float) -> Reply:
        """Make one call.

        :param patience_s: how long it may take, beyond the time its bytes take at the slowest useful rate.
        :raises UnavailableError: ``peer_timeout``, ``link_down``, ``peer_fault``; then its outcome is unknown, unless
            it is an :class:`UnprocessedError`.
        :raises DeniedError: ``bad_certificate`` when the peer ended the connection for that.
        """
        with trio.CancelScope(deadline=trio.current_time() + patience_s) as scope:
            while len(self._calls) >= self._max_calls() and self.usable:
                await self._free.park()
            self._check_usable()
            call = _Call(scope)
            stream_id = self._open(call, path, headers, len(body))
            try:
                await self._send_body(stream_id, call, body)
                await call.over.wait()
            finally:
                self._close(stream_id)
            if call.error is not None:
                raise call.error
            return _reply(call)
        raise UnavailableError(Reason.PEER_TIMEOUT, f"no answer within {patience_s:g} s")

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _max_calls(self) -> int:
        return min(self._limits.calls, self._h2.remote_settings.max_concurrent_streams)

    def _check_usable(self) -> None:
        if self._failure is not None:
            error = self._failure
            raise UnprocessedError(error.reason, error.detail) if isinstance(error, UnavailableError) else error
        if self._leaving:
            raise UnprocessedError(Reason.LINK_DOWN, "this connection takes no further calls")

    def _open(self, call: _Call, path: str, headers: Headers, size: int) -> int:
        stream_id = self._h2.get_next_available_stream_id()
        self._leaving = self._leaving or stream_id >= _LAST_STREAM
        head = [(":method", "POST"), (":scheme", "https"), (":authority", self._authority), (":path", path)]
        self._h2.send_headers(stream_id, [*head, *headers, ("content-length", str(size))], end_stream=not size)
        self._calls[stream_id] = call
        self._unsent.set()
        return stream_id

    async def _send_body(self, stream_id: int, call: _Call, body: bytes) -> None:
        at = 0
        while at < len(body) and not call.over.is_set():
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room <= 0:
                await self._room.park()
                continue
            piece = body[at : at + room]
            at += len(piece)
            self._h2.send_data(stream_id, piece, end_stream=at == len(body))
            self._unsent.set()
            call.moved(len(piece))

    def _close(self, stream_id: int) -> None:
        """Forget a call; tell the peer if it is not over."""
        del self._calls[stream_id]
        if self._failure is None:
            stream = self._h2.streams.get(stream_id)
            if stream is not None and not stream.closed:
                self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
                self._unsent.set()
            if self._leaving and not self._calls:
                self.end(UnavailableError(Reason.LINK_DOWN, "the peer closed the connection"))
        self._free.unpark()

    # -- tasks ---------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                self._heard = trio.current_time()
                for event in self._h2.receive_data(data):
                    self._take(event)
                if overlong_frame(self._h2):
                    raise h2.exceptions.FrameTooLargeError("a frame is longer than we said we take")
                self._unsent.set()
            self.end(UnavailableError(Reason.LINK_DOWN, "the peer closed the connection"))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.end(stream_error(error))
        except h2.exceptions.ProtocolError as error:
            self.end(UnavailableError(Reason.PEER_FAULT, f"HTTP/2: {error}"))

    async def _write(self) -> None:
        try:
            while True:
                await self._unsent.wait()
                self._unsent = trio.Event()
                if data := self._h2.data_to_send():
                    await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            await trio.sleep(_LAST_WORDS_S)
            self.end(stream_error(error))

    async def _listen_for_silence(self) -> None:
        """A peer that vanished sends nothing, not even an end: ask, and give up when nothing comes."""
        while True:
            quiet_s = trio.current_time() - self._heard
            if quiet_s < self._limits.ping_after_s:
                await trio.sleep(self._limits.ping_after_s - quiet_s)
                continue
            asked = trio.current_time()
            self._h2.ping(_PING)
            self._unsent.set()
            await trio.sleep(self._limits.ping_timeout_s)
            if self._heard < asked:
                self.end(UnavailableError(Reason.LINK_DOWN, f"silent for {trio.current_time() - self._heard:.1f} s"))

    # -- events --------------------------------------------------------------------------------------------------------

    def _take(self, event: h2.events.Event) -> None:
        take = _TAKERS.get(type(event))
        if take is not None:
            take(self, event)

    def _take_settings(self, _event: Any) -> None:
        self._ready.set()
        self._room.unpark_all()
        self._free.unpark_all()

    def _take_window(self, _event: Any) -> None:
        self._room.unpark_all()

    def _take_goodbye(self, event: h2.events.ConnectionTerminated) -> None:
        self._leaving = True
        refused = UnprocessedError(Reason.LINK_DOWN, "the peer closed the connection before this call")
        for stream_id, call in self._calls.items():
            if stream_id > (event.last_stream_id or 0):
                call.fail(refused)
        self._free.unpark_all()
        self._room.unpark_all()
        if not self._calls:
            self.end(UnavailableError(Reason.LINK_DOWN, "the peer closed the connection"))

    def _take_headers(self, event: h2.events.ResponseReceived) -> None:
        if call := self._calls.get(event.stream_id):
            call.headers = dict(event.headers)

    def _take_data(self, event: h2.events.DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if call := self._calls.get(event.stream_id):
            call.body += event.data
            call.moved(len(event.data))
            if len(call.body) > MAX_BODY_BYTES:
                call.fail(UnavailableError(Reason.PEER_FAULT, f"an answer of more than {MAX_BODY_BYTES} bytes"))
                self._room.unpark_all()

    def _take_end(self, event: h2.events.StreamEnded) -> None:
        if call := self._calls.get(event.stream_id):
            call.over.set()
            self._room.unpark_all()

    def _take_reset(self, event: h2.events.StreamReset) -> None:
        if call := self._calls.get(event.stream_id):
            if event.error_code == ErrorCodes.REFUSED_STREAM:
                call.fail(UnprocessedError(Reason.LINK_DOWN, "the peer takes no further calls"))
            else:
                call.fail(UnavailableError(Reason.PEER_FAULT, f"the peer took the call back: {event.error_code!r}"))
            self._room.unpark_all()


_TAKERS: Final[dict[type, Any]] = {
    h2.events.RemoteSettingsChanged: Link._take_settings,
    h2.events.WindowUpdated: Link._take_window,
    h2.events.ConnectionTerminated: Link._take_goodbye,
    h2.events.ResponseReceived: Link._take_headers,
    h2.events.DataReceived: Link._take_data,
    h2.events.StreamEnded: Link._take_end,
    h2.events.StreamReset: Link._take_reset,
}


def stream_error(error: BaseException) -> BsfgError:
    """What an error of a TLS stream means: a certificate that one side does not accept, or a line that is down."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return DeniedError(Reason.BAD_CERTIFICATE, f"the peer's: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError) and refuses_certificate(cause):
        return DeniedError(Reason.BAD_CERTIFICATE, f"the peer does not accept ours: {cause.reason.lower()}")
    return UnavailableError(Reason.LINK_DOWN, str(cause or error) or "the connection broke")


def _reply(call: _Call) -> Reply:
    status = call.headers.get(b":status", b"0")
    content_type = call.headers.get(b"content-type", b"").decode("latin-1")
    return Reply(int(status), content_type, bytes(call.body))
