# SPDX-License-Identifier: Apache-2.0
"""The sensor's end of the socket: each reading goes to the watchdog at once, and is kept until one is there to hear it.

Kept are the last reading of each probe, and each one that saw something wrong and was not told yet, or so shortly
before that it may have been lost with the watchdog. So one that starts again hears what happened meanwhile, and then
the present state of everything.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import ProbeName

AGAIN_S: Final = 0.25
"""Between two attempts to connect."""
PATIENCE_S: Final = 3.0
"""How long a watchdog may leave a reading in the socket before the connection is made anew."""
KEPT: Final = 256
FRESH_S: Final = 10.0
"""A reading that is older is not told to somebody who connects; the next one is."""

AGAIN_TOLD_S: Final = 15.0
"""What was told so shortly before a connection ended, and was wrong, is told once more."""

_log = logging.getLogger(__name__)


class Telling:
    """Tells readings to whoever listens at a socket. :param path: of the socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._untold: list[Reading] = []
        self._told: list[tuple[float, Reading]] = []
        self._last: dict[ProbeName, tuple[float, Reading]] = {}
        self._news = trio.Event()
        self._said = ""
        self.connected = False

    async def tell(self, reading: Reading) -> None:
        """Take a reading; :meth:`run` sends it."""
        self._last[reading.probe] = (trio.current_time(), reading)
        if reading.seen or self.connected:
            self._untold.append(reading)
        if len(self._untold) > KEPT:
            dull = (number for number, each in enumerate(self._untold) if not each.seen)
            del self._untold[next(dull, 0)]
        self._news.set()

    def last(self) -> list[Reading]:
        """The last reading of each probe, by its name."""
        return [reading for _, (_, reading) in sorted(self._last.items())]

    async def run(self) -> None:
        """Connect, send, and connect again; until cancelled."""
        while True:
            try:
                stream = await trio.open_unix_socket(self._path)
            except OSError as error:
                self._problem(f"{self._path}: {error.strerror or error}")
                await trio.sleep(AGAIN_S)
                continue
            try:
                async with stream, trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_closed, stream, nursery.cancel_scope)
                    nursery.start_soon(self._send_all, stream, nursery.cancel_scope)
            finally:
                self.connected = False
            self._problem("the watchdog does not listen any more")
            await trio.sleep(AGAIN_S)

    @staticmethod
    async def _until_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        """The watchdog says nothing here; when this ends, it is gone."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.receive_some(1)
        scope.cancel()

    async def _send_all(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            await self._sending(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            scope.cancel()

    async def _sending(self, stream: trio.SocketStream) -> None:
        self.connected = True
        self._problem("")
        now = trio.current_time()
        again = [reading for at, reading in self._told if now - at <= AGAIN_TOLD_S]
        wrong = [reading for reading in self._untold if reading.seen]
        self._untold = [*again, *wrong, *(reading for at, reading in self._last.values() if now - at <= FRESH_S)]
        while True:
            self._news = trio.Event()
            while self._untold:
                reading = self._untold.pop(0)
                try:
                    with trio.fail_after(PATIENCE_S):
                        await stream.send_all(reading.render())
                except BaseException:
                    self._untold.insert(0, reading)
                    raise
                if reading.seen:
                    self._told = [*self._told[-KEPT:], (trio.current_time(), reading)]
            await self._news.wait()

    def _problem(self, text: str) -> None:
        if text != self._said:
            _log.log(logging.WARNING if text else logging.INFO, "%s", text or "the watchdog listens")
        self._said = text
