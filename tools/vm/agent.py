# SPDX-License-Identifier: Apache-2.0
"""The guest's agent (qemu-guest-agent), which is in images of profile ``test`` only: commands, files, power.

There is no shell in the image, so commands are lists of arguments.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.image.launcher import STOCK
from tools.vm.faults import AgentError

PYTHON: Final = (f"/{STOCK}", "-I", "-c")
"""How a text is run: by the packaged interpreter, which an image of profile ``test`` has beside the product's; that one
refuses texts."""
_CHUNK: Final = 48 * 1024
_POLL_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended. :param code: exit code; minus the signal's number when a signal ended it."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Its standard output, without the last newline."""
        return self.out.decode("utf-8", "replace").rstrip("\n")


class Agent:
    """A connection to one guest's agent. It may be made before the guest has started one."""

    def __init__(self, path: Path) -> None:
        """:param path: the unix socket of QEMU's character device."""
        self._path = path
        self._socket: socket.socket | None = None
        self._buffer = b""

    @property
    def connected(self) -> bool:
        """Whether it has answered, and nobody has hung up since."""
        return self._socket is not None

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._buffer = b""

    def wait(self, seconds: float, worth_it: Callable[[], bool] = lambda: True) -> None:
        """Wait until it answers. :param worth_it: ends the waiting early. :raises AgentError: it did not answer."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._synchronise(min(5.0, max(0.1, deadline - time.monotonic())))
                return
            except (AgentError, OSError) as error:
                self.close()
                if time.monotonic() > deadline or not worth_it():
                    waited = seconds - max(0.0, deadline - time.monotonic())
                    raise AgentError(f"the guest's agent did not answer within {waited:.0f} s: {error}") from error
                time.sleep(0.2)

    def _synchronise(self, seconds: float) -> None:
        """Say a number and skip whatever an earlier conversation left, until it is said back."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(5)
            self._socket.connect(str(self._path))
        number = secrets.randbits(31)
        deadline = time.monotonic() + seconds
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._socket.sendall(b"\xff" + json.dumps(request).encode() + b"\n")
        while True:
            line = self._line(deadline)
            try:
                if json.loads(line.rpartition(b"\xff")[2]).get("return") == number:
                    return
            except ValueError:
                continue

    def _line(self, deadline: float) -> bytes:
        if self._socket is None:
            raise AgentError("the guest's agent was not waited for")
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AgentError("no answer in time")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                continue
            if not data:
                raise AgentError("the machine ended")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def command(self, name: str, seconds: float = 60.0, /, **arguments: object) -> Any:
        """Execute one of the agent's commands. :raises AgentError: refused, or no answer."""
        if self._socket is None:
            self.wait(seconds)
        request: dict[str, object] = {"execute": name}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        deadline = time.monotonic() + seconds
        try:
            if self._socket is None:
                raise AgentError("the guest's agent is gone")
            self._socket.settimeout(seconds)
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(self._line(deadline).rpartition(b"\xff")[2])
        except OSError as error:
            self.close()
            raise AgentError(f"{name}: {error}") from error
        except AgentError as error:
            self.close()  # a late answer must not be taken for the next one's
            raise AgentError(f"{name}: {error}") from error
        if "error" in answer:
            raise AgentError(f"{name}: {answer['error'].get('desc', answer['error'])}")
        return answer.get("return")

    def run(
        self,
        *command: str,
        seconds: float = 60.0,
        stdin: bytes | None = None,
        environment: Sequence[str] = (),
    ) -> Done:
        """Run a command in the guest to its end. :raises AgentError: it could not be started, or still runs."""
        given: dict[str, object] = {"path": command[0], "arg": list(command[1:]), "capture_output": True}
        if stdin is not None:
            given["input_data"] = base64.b64encode(stdin).decode()
        if environment:
            given["env"] = list(environment)
        pid = self.command("guest-exec", seconds, **given)["pid"]
        deadline = time.monotonic() + seconds
        while True:
            status = self.command("guest-exec-status", seconds, pid=pid)
            if status["exited"]:
                break
            if time.monotonic() > deadline:
                raise AgentError(f"{' '.join(command)} still runs after {seconds:.0f} s in the guest")
            time.sleep(_POLL_S)
        code = -status["signal"] if "signal" in status else status.get("exitcode", 0)
        out, err = (base64.b64decode(status.get(key, "")) for key in ("out-data", "err-data"))
        return Done(code, out, err)

    def start(self, *command: str) -> int:
        """Start a command in the guest and leave it running; its pid there."""
        return int(self.command("guest-exec", path=command[0], arg=list(command[1:]))["pid"])

    def check(self, *command: str, seconds: float = 60.0, stdin: bytes | None = None) -> str:
        """Run a command that must succeed; its standard output. :raises AgentError: it failed."""
        done = self.run(*command, seconds=seconds, stdin=stdin)
        if done.code:
            said = (done.err or done.out).decode("utf-8", "replace")[-2000:]
            raise AgentError(f"{' '.join(command)[:300]} ended with {done.code} in the guest: {said}")
        return done.text

    def python(self, text: str, *arguments: str, seconds: float = 60.0) -> str:
        """Run a Python text in the guest, isolated; what it printed. :raises AgentError: it failed."""
        return self.check(*PYTHON, text, *arguments, seconds=seconds)

    def read(self, path: str) -> bytes:
        """The content of a file in the guest; also of one in ``/proc`` or ``/sys``. :raises AgentError: unreadable."""
        handle = self.command("guest-file-open", path=path, mode="rb")
        try:
            parts = []
            while True:
                piece = self.command("guest-file-read", handle=handle, count=_CHUNK)
                parts.append(base64.b64decode(piece["buf-b64"]))
                if piece["eof"] or not piece["count"]:
                    return b"".join(parts)
        finally:
            self.command("guest-file-close", handle=handle)

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the guest. :raises AgentError: it cannot be written."""
        handle = self.command("guest-file-open", path=path, mode="wb")
        try:
            for start in range(0, len(content), _CHUNK):
                piece = base64.b64encode(content[start : start + _CHUNK]).decode()
                self.command("guest-file-write", handle=handle, buf_b64=piece)
        finally:
            self.command("guest-file-close", handle=handle)

    def shutdown(self) -> None:
        """Have the guest power off, by its service manager; there is no ``shutdown`` for the agent's own command."""
        self.start("/usr/bin/systemctl", "poweroff")
        self.close()
