# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that runs as long as a ``with``: QEMU with Secure Boot firmware, its serial line, monitor, agent.

Nothing of it is left behind: leaving the ``with`` ends QEMU, and so does the end of this program, however it comes.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from tools.vm import pace
from tools.vm.agent import Agent
from tools.vm.children import Child, program
from tools.vm.faults import AwaitedError, VmError
from tools.vm.hardware import Hardware, Sockets, arguments
from tools.vm.monitor import Event, Monitor
from tools.vm.transcript import Seen, Transcript

REFUSED: Final = r"THIS BOX DOES NOT START"
"""What the initrd says when it opens nothing."""
QEMU: Final = "qemu-system-x86_64"
_CONNECT_S: Final = 20.0
_POWERDOWN_S: Final = 90.0


class Machine:
    """One machine. Enter it from the main thread. :ivar serial: what it wrote on its serial line, as text."""

    def __init__(self, hardware: Hardware, folder: Path, name: str = "box") -> None:
        """:param folder: for its logs: ``<name>.serial``, ``<name>.qemu``; those of an earlier run are continued."""
        self.hardware = hardware
        self.name = name
        self.serial = Transcript()
        self.serial_log = folder / f"{name}.serial"
        self._qemu_log = folder / f"{name}.qemu"
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self._line: socket.socket | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._folder.mkdir(parents=True, exist_ok=True)
            short = Path(tempfile.mkdtemp(prefix="bsfg-vm-"))  # a socket's path has at most 107 bytes
            stack.callback(shutil.rmtree, short, ignore_errors=True)
            sockets = Sockets(short)
            command = arguments(self.hardware, sockets, self.serial_log, pace.accelerator())
            self.started = time.monotonic()
            self._child = stack.enter_context(
                Child([program(QEMU), *command], self._qemu_log, pass_fds=self.hardware.descriptors)
            )
            try:
                self.monitor = Monitor(sockets.monitor, pace.limit(_CONNECT_S), lambda: self._child.alive)
            except VmError as error:
                raise VmError(f"{error}; QEMU said: {self._child.said()}") from error
            stack.callback(self.monitor.close)
            self._open_line(sockets.serial, stack)
            self.agent = Agent(sockets.agent)
            stack.callback(self.agent.close)
            self.monitor.command("cont")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open_line(self, path: Path, stack: contextlib.ExitStack) -> None:
        """Read the line from the first byte on, always: a guest whose line nobody reads stands still."""
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        stack.callback(self._line.close)
        self._line.connect(str(path))
        reader = threading.Thread(target=self._read_line, args=(self._line,), name=f"{self.name}-serial", daemon=True)
        reader.start()
        stack.callback(reader.join, 5)
        stack.callback(self._child.end)  # before the reader is waited for

    def _read_line(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := line.recv(65536):
                self.serial.feed(data)
        self.serial.end("QEMU ended")

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._child.alive

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._child.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def type(self, text: str) -> None:
        """Type on the serial line."""
        if self._line is None:
            raise VmError("the machine does not run")
        self._line.sendall(text.encode())

    def wait(
        self,
        *patterns: str,
        what: str,
        seconds: float | None = None,
        since: int = 0,
        never: Sequence[str] = (),
    ) -> Seen:
        """Wait for one of some regular expressions on the serial line.

        :param seconds: on an idle reference machine; a whole boot if left out.
        :raises EndedError: the machine ended. :raises AwaitedError: it did not come, or one of ``never`` did.
        """
        limit = pace.boot_limit() if seconds is None else pace.limit(seconds)
        return self.serial.wait(*patterns, seconds=limit, what=what, since=since, never=never)

    def wait_agent(self, seconds: float | None = None) -> Agent:
        """Wait until the guest's agent answers (profile ``test``). :raises AwaitedError: it does not."""
        limit = pace.boot_limit() if seconds is None else pace.limit(seconds)
        try:
            self.agent.wait(limit, lambda: self.alive and not self.serial.has(REFUSED))
        except VmError as error:
            raise AwaitedError(f"{error}; the serial line ended with:\n{self.serial.tail()}") from error
        return self.agent

    def wait_end(self, what: str, seconds: float | None = None) -> Event:
        """Wait until the machine ends by itself. A reboot is not carried out: it ends the machine, too.

        :returns: the event; its ``reason`` is ``guest-shutdown`` for a power-off, ``guest-reset`` for a reboot.
        :raises AwaitedError: it runs on.
        """
        limit = pace.boot_limit() if seconds is None else pace.limit(seconds)
        try:
            self._child.wait(limit)
        except VmError as error:
            raise AwaitedError(f"{what}: {error}; the serial line ended with:\n{self.serial.tail()}") from error
        with contextlib.suppress(AwaitedError):
            return self.monitor.wait_event("SHUTDOWN", 2)
        if self._child.code:
            raise VmError(f"QEMU ended with {self._child.code}: {self._child.said()}")
        return Event("SHUTDOWN", {"guest": True, "reason": "unknown"})

    def power_off(self, seconds: float = _POWERDOWN_S) -> None:
        """Have the guest shut down, and wait until it has: by its agent where there is one, else by the power button.

        :raises AwaitedError: it has not, or it rebooted.
        """
        if self.agent.connected:
            self.agent.shutdown()
        else:
            self.monitor.command("system_powerdown")
        ended = self.wait_end("power-off", seconds)
        if ended.data.get("reason") == "guest-reset":
            raise AwaitedError(
                f"the guest rebooted instead of powering off; its line ended with:\n{self.serial.tail()}"
            )

    def kill(self) -> None:
        """End QEMU at once: a power cut, as far as the guest can tell."""
        self._child.kill()

    def set_link(self, card: int, *, up: bool) -> None:
        """Plug or unplug the cable of a network card (0 is the first)."""
        self.monitor.command("set_link", name=f"net{card}", up=up)
