# SPDX-License-Identifier: Apache-2.0
"""What is said on the supervisor's control socket: one JSON line asks, one JSON line answers, then it closes.

Requests: ``{"do": "status"}``, ``{"do": "cut", "how": "reset"}``, ``{"do": "heal"}``, ``{"do": "kill", "process":
"agent"}``, ``{"do": "power-cut", "processes": ["plant-tpm", "agent"]}``, ``{"do": "down"}``. Answers: ``{"ok": {...}}``
or ``{"error": {"reason": "...", "detail": "..."}}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.dev.link import Cut

MAX_LINE: Final = 64 * 1024
"""Bytes of one request or answer."""


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Ask what runs."""


@dataclass(frozen=True, slots=True)
class CutRequest:
    """Cut the simulated link."""

    how: Cut = Cut.RESET


@dataclass(frozen=True, slots=True)
class HealRequest:
    """Heal the simulated link."""


@dataclass(frozen=True, slots=True)
class KillRequest:
    """Kill a process (SIGKILL); the supervisor starts it again."""

    process: str


@dataclass(frozen=True, slots=True)
class PowerCutRequest:
    """Kill those of these processes that run now, all at once; the supervisor starts them again."""

    processes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DownRequest:
    """End everything."""


Request = StatusRequest | CutRequest | HealRequest | KillRequest | PowerCutRequest | DownRequest


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process: ``since`` in Unix seconds, ``restarts`` since the environment came up."""

    name: str
    state: str
    pid: int | None
    since: float
    restarts: int
    last_end: str


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The simulated link: ``cut`` says how it is cut, empty when it carries."""

    cut: str
    connections: int
    bytes_carried: int


@dataclass(frozen=True, slots=True)
class SupervisorStatus:
    """The answer to a status request."""

    ready: bool
    supervisor_pid: int
    processes: tuple[ProcessStatus, ...]
    link: LinkStatus

    @classmethod
    def parse(cls, document: dict[str, Any]) -> SupervisorStatus:
        """The inverse of ``dataclasses.asdict``. :raises RefusedError: ``bad_request``."""
        try:
            return cls(
                document["ready"],
                document["supervisor_pid"],
                tuple(ProcessStatus(**process) for process in document["processes"]),
                LinkStatus(**document["link"]),
            )
        except (KeyError, TypeError) as error:
            raise RefusedError(Reason.BAD_REQUEST, f"the supervisor answered in another version: {error}") from error


_WORDS: Final[dict[type[Request], str]] = {
    StatusRequest: "status",
    CutRequest: "cut",
    HealRequest: "heal",
    KillRequest: "kill",
    PowerCutRequest: "power-cut",
    DownRequest: "down",
}


def encode_request(request: Request) -> bytes:
    """A request as a line."""
    return json.dumps({"do": _WORDS[type(request)], **asdict(request)}).encode() + b"\n"


def parse_request(line: bytes) -> Request:
    """A line as a request. :raises RefusedError: ``bad_request``."""
    try:
        fields = json.loads(line)
        word = fields.pop("do")
        kind = next(kind for kind, name in _WORDS.items() if name == word)
        if kind is CutRequest:
            return CutRequest(Cut(fields["how"]))
        if kind is PowerCutRequest:
            return PowerCutRequest(_names(fields["processes"]))
        request = kind(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise RefusedError(Reason.BAD_REQUEST, f"{line[:80]!r}") from error
    if isinstance(request, KillRequest) and not isinstance(request.process, str):
        raise RefusedError(Reason.BAD_REQUEST, "process must be a name")
    return request


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("processes must be names")
    return tuple(value)


def encode_answer(document: dict[str, Any]) -> bytes:
    """A good answer as a line."""
    return json.dumps({"ok": document}).encode() + b"\n"


def encode_error(error: BsfgError) -> bytes:
    """An error as a line."""
    return json.dumps({"error": {"reason": error.reason, "detail": error.detail}}).encode() + b"\n"


def parse_answer(line: bytes) -> dict[str, Any]:
    """A line as a good answer. :raises BsfgError: what the supervisor refused with."""
    try:
        answer = json.loads(line)
        if "error" in answer:
            raise BsfgError(Reason(answer["error"]["reason"]), answer["error"]["detail"])
        ok = answer["ok"]
    except (ValueError, TypeError, KeyError) as error:
        raise UnavailableError(Reason.NOT_RUNNING, "the supervisor ended while it answered") from error
    if not isinstance(ok, dict):
        raise UnavailableError(Reason.INTERNAL, "the supervisor answered outside its protocol")
    return ok


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for a socket file however long its path is: addresses have 108 bytes, folders have any length."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def ask(path: Path, request: Request, timeout: float = 20.0) -> dict[str, Any]:
    """Ask the supervisor behind a socket file; blocking.

    :raises UnavailableError: ``not_running``; BsfgError: what it refused with.
    """
    try:
        with socket_address(path) as address, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(address)
            connection.sendall(encode_request(request))
            connection.shutdown(socket.SHUT_WR)
            line = b""
            while chunk := connection.recv(MAX_LINE):
                line += chunk
    except TimeoutError as error:
        raise UnavailableError(Reason.NOT_READY, "the supervisor does not answer") from error
    except OSError as error:
        raise UnavailableError(Reason.NOT_RUNNING, str(path.parent.parent)) from error
    return parse_answer(line)
