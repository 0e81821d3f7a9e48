# SPDX-License-Identifier: Apache-2.0
"""One broker as a child process: checked, started, waited for, ended. Starting it again is its owner's decision."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers.binary import MINIMUM, BrokerBinary, Version
from appliance.brokers.config import Local, Plant

READY_TIMEOUT_S: Final = 30.0
"""How long a broker may take to read its store and listen."""
STOP_TIMEOUT_S: Final = 10.0
"""How long it may take to end before it is killed."""
_CHECK_TIMEOUT_S: Final = 10.0
_GREETING_TIMEOUT_S: Final = 2.0
_RETRY_S: Final = 0.02
_LOG_TAIL: Final = 600


@dataclass(frozen=True, slots=True)
class Greeting:
    """The ``INFO`` line a broker sends to whoever connects."""

    server_name: str
    version: str
    jetstream: bool


class BrokerProcess:
    """A nats-server run from a configuration file.

    Its output goes to the end of ``log``. It has a session of its own, so that Ctrl-C in a terminal reaches its owner
    and not it. One object runs it any number of times, one after the other.
    """

    def __init__(self, binary: BrokerBinary, config: Path, log: Path, listen: Local | Plant) -> None:
        self._binary = binary
        self._config = config
        self._log = log
        self._listen = listen
        self._process: trio.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def check(self) -> None:
        """Let nats-server read the configuration without running it.

        :raises UnavailableError: ``broker_refused`` with its words, ``broker_not_found``.
        """
        command: list[str | Path] = [self._binary.path, "-c", self._config, "-t"]
        try:
            with trio.fail_after(_CHECK_TIMEOUT_S):
                outcome = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        except OSError as error:
            raise UnavailableError(Reason.BROKER_NOT_FOUND, f"{self._binary.path}: {error.strerror}") from error
        except trio.TooSlowError as error:
            raise UnavailableError(Reason.BROKER_REFUSED, f"{self._config}: checking it took too long") from error
        if outcome.returncode:
            words = (outcome.stderr or outcome.stdout).decode(errors="replace").strip()
            raise UnavailableError(Reason.BROKER_REFUSED, words[-_LOG_TAIL:])

    async def start(self, timeout_s: float = READY_TIMEOUT_S) -> Greeting:
        """Check the configuration, start the broker, and return when it serves clients; if that fails, it is ended.

        :raises UnavailableError: ``broker_refused`` with the end of its log, ``broker_unavailable`` (not in time),
            ``broker_not_found``.
        """
        if self.pid is not None:
            raise RuntimeError("this broker runs already")
        await self.check()
        with self._log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                [self._binary.path, "-c", self._config, "--ports_file_dir", self._log.parent],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            with trio.fail_after(timeout_s):
                return await self._ready(self._process)
        except trio.TooSlowError:
            await self.kill()
            raise UnavailableError(
                Reason.BROKER_UNAVAILABLE, f"no greeting from {self._listen} in {timeout_s:g} s: {self._tail()}"
            ) from None
        except BaseException:
            await self.kill()
            raise

    async def _ready(self, process: trio.Process) -> Greeting:
        """Wait until the child answers; JetStream is up before nats-server listens.

        Another program may hold the port and answer in its place, while the child is about to give up. So the child's
        own word is awaited first: the file it writes once it listens.
        """
        while True:
            if process.poll() is not None:
                raise UnavailableError(Reason.BROKER_REFUSED, f"it ended with {process.returncode}: {self._tail()}")
            if self._ports_file(process).exists():
                greeting = await self._greeting()
                if greeting is not None:
                    return greeting
            await trio.sleep(_RETRY_S)

    async def _greeting(self) -> Greeting | None:
        with suppress(OSError), trio.move_on_after(_GREETING_TIMEOUT_S):
            return await read_greeting(self._listen)
        return None  # it is busy, or just ended

    def _ports_file(self, process: trio.Process) -> Path:
        return self._log.parent / f"{self._binary.path.name}_{process.pid}.ports"

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """End it in good order, or by force after ``timeout_s``; its exit code, or none if it did not run."""
        if self._process is None:
            return None
        if self.pid is not None:
            self._process.send_signal(signal.SIGTERM)
            with trio.move_on_after(timeout_s):
                return await self.wait()
        return await self.kill()

    async def kill(self) -> int | None:
        """End it at once with SIGKILL, as a crash would; its exit code, or none if it never ran."""
        if self._process is None:
            return None
        self._process.kill()
        with trio.CancelScope(shield=True):  # the kernel ends it at once; waiting leaves no zombie
            await self.wait()
        return self._process.returncode

    def reload(self) -> None:
        """Let it read its configuration and certificates again; connections stay. Nothing happens if it has ended."""
        if self.pid is not None and self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    async def wait(self) -> int:
        """Wait until it ends, for whatever reason; its exit code. :raises RuntimeError: it was never started."""
        if self._process is None:
            raise RuntimeError("this broker was never started")
        code = await self._process.wait()
        self._ports_file(self._process).unlink(missing_ok=True)  # it does so itself, unless it was killed
        return code

    def _tail(self) -> str:
        with suppress(OSError):
            return self._log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
        return ""


async def read_greeting(listen: Local | Plant) -> Greeting:
    """Connect, read the ``INFO`` line and hang up. The caller sets the time limit.

    :raises OSError: nobody listens.
    :raises UnavailableError: ``broker_unavailable``: what answers is no nats-server that is new enough.
    """
    async with await trio.open_tcp_stream(listen.host, listen.port) as stream:
        line = bytearray()
        while b"\r\n" not in line and len(line) < 16384:
            piece = await stream.receive_some(4096)
            if not piece:
                break
            line += piece
    greeting = _parse_greeting(bytes(line))
    version = Version.parse(greeting.version) if greeting else None
    if greeting is None or version is None or version < MINIMUM:
        raise UnavailableError(
            Reason.BROKER_UNAVAILABLE, f"{listen} is not served by a nats-server of {MINIMUM} or newer"
        )
    return greeting


def _parse_greeting(line: bytes) -> Greeting | None:
    word, _, text = line.partition(b" ")
    if word != b"INFO":
        return None
    try:
        info: Any = json.loads(text.partition(b"\r\n")[0])
        return Greeting(str(info["server_name"]), str(info["version"]), info.get("jetstream") is True)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
