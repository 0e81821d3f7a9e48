# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 on hypercorn, with the bounds and manners it lacks.

Theory of operation: hypercorn runs one application task for each call. Its protocol class is kept and led past its
traps (0.18): data for a call that was answered early ends the connection with a KeyError; windows of 64 KiB make a page
on a long line wait for dozens of round trips; calls that are taken back at once cost nothing to send and everything to
serve; and a server that stops never says which calls it still took.
"""

from __future__ import annotations

from typing import Any, Final

import h2.events
import h2.settings
import hyperframe.frame
import trio
from h2.errors import ErrorCodes
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h2 import H2Protocol

from appliance.peer.frames import overlong_frame
from appliance.peer.limits import ConnectionLimits

_DEFAULT_WINDOW: Final = 65_535
_MAX_HEADER_BYTES: Final = 16 * 1024


class ResetBudget:
    """How many calls a connection may still take back; fills up again with time."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._left = float(limits.resets)
        self._at = trio.current_time()

    def spend(self) -> bool:
        """Count one reset; false when the connection has none left."""
        now = trio.current_time()
        self._left = min(self._limits.resets, self._left + (now - self._at) * self._limits.resets_per_s) - 1
        self._at = now
        return self._left >= 0


class BoundedH2(H2Protocol):
    """hypercorn's HTTP/2 with large windows, bounded resets, and a goodbye that loses no call."""

    def __init__(self, limits: ConnectionLimits, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._limits = limits
        self._resets = ResetBudget(limits)
        self._leaving = False
        codes = h2.settings.SettingCodes
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: limits.streams,
                codes.MAX_HEADER_LIST_SIZE: _MAX_HEADER_BYTES,
                codes.INITIAL_WINDOW_SIZE: limits.window_bytes // 2,
            },
        )

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        """Say hello and open the connection's window."""
        await super().initiate(headers, settings)
        self.connection.increment_flow_control_window(self._limits.window_bytes - _DEFAULT_WINDOW)
        await self._flush()

    async def handle(self, event: Event) -> None:
        """Take bytes, or the end of the connection."""
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in self.stream_buffers.values():
                await buffer.close()  # a call may wait for room in it, and nobody would tell it any more
        elif isinstance(event, RawData) and overlong_frame(self.connection):
            await self.send(Closed())

    async def say_goodbye(self) -> None:
        """Take no further calls; those under way are finished.

        The frame is written past h2, which would refuse to send anything after it.
        """
        if self._leaving or self.closed:
            return
        self._leaving = True
        frame = hyperframe.frame.GoAwayFrame(0, last_stream_id=self.connection.highest_inbound_stream_id)
        await self.send(RawData(frame.serialize()))

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.StreamReset) and not self._resets.spend():
                self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
                await self._flush()
                await self.send(Closed())
                return
            if not self._dropped(event):
                await super()._handle_events([event])
        await self._flush()

    def _dropped(self, event: h2.events.Event) -> bool:
        """Deal with an event that hypercorn must not see."""
        if isinstance(event, h2.events.RequestReceived):
            if self._leaving:
                self.connection.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                return True
            if dict(event.headers).get(b":method") == b"CONNECT":
                self.connection.reset_stream(event.stream_id, ErrorCodes.PROTOCOL_ERROR)
                return True
        if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
            self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            return True
        return False
