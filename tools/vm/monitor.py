# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor (QMP) for blocking programs: the client runs on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError
from qemu.qmp.message import Message

from tools.vm.faults import AwaitedError, VmError

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # a machine that ends is no error worth a stack

_T = TypeVar("_T")
_COMMAND_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something QEMU told: ``SHUTDOWN``, ``RESET``, ``WATCHDOG``, and so on."""

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Monitor:
    """One connection to one machine's monitor."""

    def __init__(self, path: Path, seconds: float, alive: Callable[[], bool] = lambda: True) -> None:
        """Connect. :param alive: whether QEMU still runs. :raises VmError: nobody answered within ``seconds``."""
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        self._client = QMPClient("vm")
        try:
            self._run(self._connect(path, seconds, alive), seconds + 5)
        except BaseException:
            self._stop()
            raise

    async def _connect(self, path: Path, seconds: float, alive: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                await self._client.connect(str(path))
                break
            except (QMPError, OSError) as error:
                if time.monotonic() > deadline or not alive():
                    raise VmError(f"QEMU's monitor does not answer: {error}") from error
                await asyncio.sleep(0.05)
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for message in self._client.events:
            with self._changed:
                self._events.append(_event(message))
                self._changed.notify_all()

    def _run(self, work: Awaitable[_T], seconds: float) -> _T:
        async def bounded() -> _T:
            return await asyncio.wait_for(work, seconds)

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    def command(self, name: str, seconds: float = _COMMAND_S, /, **arguments: object) -> Any:
        """Execute a command; underscores in argument names stand for hyphens.

        :raises VmError: refused, or no answer.
        """
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            return self._run(self._client.execute(name, given or None), seconds)
        except ExecuteError as error:
            raise VmError(f"QEMU refused {name}: {error}") from error
        except (QMPError, OSError, TimeoutError) as error:
            raise VmError(f"QEMU did not answer {name}: {error!r}") from error

    @property
    def events(self) -> tuple[Event, ...]:
        """What was told so far, in order."""
        with self._changed:
            return tuple(self._events)

    def wait_event(self, name: str, seconds: float) -> Event:
        """Wait for the first event of a name, also one that came already. :raises AwaitedError: none came."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for event in self._events:
                    if event.name == name:
                        return event
                left = deadline - time.monotonic()
                if left <= 0:
                    told = ", ".join(event.name for event in self._events) or "nothing"
                    raise AwaitedError(f"QEMU did not tell {name} within {seconds:.0f} s; it told {told}")
                self._changed.wait(left)

    def close(self) -> None:
        """Hang up; the machine goes on."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
            self._run(self._hang_up(), 5)
        self._stop()

    async def _hang_up(self) -> None:
        self._listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listening
        await self._client.disconnect()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def _event(message: Message) -> Event:
    data = message.get("data", {})
    return Event(str(message["event"]), data if isinstance(data, dict) else {})
