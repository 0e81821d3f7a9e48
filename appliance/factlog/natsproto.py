# SPDX-License-Identifier: Apache-2.0
"""The NATS client protocol without I/O: frames to send, and a parser for what comes back.

Made for pages: a thousand messages are parsed in one pass over the buffer, without an object tree per message.
Source: https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason

MAX_CONTROL_LINE: Final = 64 * 1024
"""Longest line the parser accepts (INFO is the longest one)."""
MAX_MESSAGE: Final = 64 * 1024 * 1024
"""Largest message the parser waits for; also nats-server's own bound for max_payload."""

_STATUS: Final = b"NATS/1.0"
_CRLF: Final = b"\r\n"
_UNSAFE: Final = str.maketrans({"\r": " ", "\n": " "})


class Delivery(NamedTuple):
    """One message from the broker; ``header`` is the raw header block, empty when there is none."""

    subject: str
    sid: int
    reply: str
    header: bytes
    payload: bytes

    @property
    def status(self) -> int:
        """The status code of a control message (100, 404, 408, 409, 503 ...); 0 for an ordinary message."""
        line = self.header[len(_STATUS) : self.header.find(_CRLF)].strip()
        return int(line[:3]) if line[:3].isdigit() else 0

    @property
    def description(self) -> str:
        """The text behind the status code."""
        line = self.header[len(_STATUS) : self.header.find(_CRLF)].strip()
        return line[3:].strip().decode("utf-8", "replace")

    def headers(self) -> dict[str, str]:
        """The headers as text; of a repeated header the last one counts."""
        found: dict[str, str] = {}
        for line in self.header.split(_CRLF)[1:]:
            name, colon, value = line.partition(b":")
            if colon:
                found[name.decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
        return found


class Info(NamedTuple):
    """The broker's INFO; ``nonce`` is what it wants to have signed, if anything."""

    version: str
    max_payload: int
    headers: bool
    nonce: str = ""


class Pong(NamedTuple):
    """The answer to our PING."""


class Ping(NamedTuple):
    """The broker wants a PONG."""


class ServerError(NamedTuple):
    """-ERR: permission violations and the reasons for a closed connection."""

    text: str


Event = Delivery | Info | Ping | Pong | ServerError


class Parser:
    """Turns received bytes into events; keeps what is incomplete for the next call."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """Everything that is complete now.

        :raises UnavailableError: ``broker_unavailable``: the other side does not speak the protocol.
        """
        self._buffer += data
        buffer = bytes(self._buffer)
        events: list[Event] = []
        at = 0
        while (end := buffer.find(_CRLF, at)) >= 0:
            line = buffer[at:end]
            kind = line[:4]
            if kind in (b"MSG ", b"HMSG"):
                delivery, following = _message(line, buffer, end + 2)
                if delivery is None:
                    break
                events.append(delivery)
                at = following
                continue
            events += _control(line)
            at = end + 2
        else:
            if len(buffer) - at > MAX_CONTROL_LINE:
                raise UnavailableError(Reason.BROKER_UNAVAILABLE, "an endless control line")
        if at:
            del self._buffer[:at]
        return events


def _message(line: bytes, buffer: bytes, body: int) -> tuple[Delivery | None, int]:
    """The message whose control line this is, and where the next one starts; ``None`` while it is incomplete."""
    parts = line.split()
    try:
        if parts[0] == b"HMSG":
            head_size, size = _number(parts[-2]), _number(parts[-1])
            named = parts[1:-2]
        else:
            head_size, size = 0, _number(parts[-1])
            named = parts[1:-1]
        if head_size > size or size > MAX_MESSAGE or not 2 <= len(named) <= 3:
            raise ValueError("sizes or words do not fit")
        subject, sid = named[0].decode(), _number(named[1])
        reply = named[2].decode() if len(named) > 2 else ""
    except (IndexError, ValueError) as error:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"not a message line: {line[:80]!r}") from error
    end = body + size
    if len(buffer) < end + 2:
        return None, 0
    if buffer[end : end + 2] != _CRLF:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"a message does not end where its line says: {line[:80]!r}")
    return Delivery(subject, sid, reply, buffer[body : body + head_size], buffer[body + head_size : end]), end + 2


def _number(word: bytes) -> int:
    if not word.isdigit():  # int() also takes signs and underscores; a negative size would be read for ever
        raise ValueError(f"not a number: {word[:20]!r}")
    return int(word)


def _control(line: bytes) -> list[Event]:
    word = line[:4].upper()
    if word == b"PING":
        return [Ping()]
    if word == b"PONG":
        return [Pong()]
    if word == b"INFO":
        return [_info(line[5:])]
    if word == b"-ERR":
        return [ServerError(line[5:].decode("utf-8", "replace").strip(" '"))]
    if word.startswith(b"+OK") or not line:
        return []
    raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"not the NATS protocol: {line[:80]!r}")


def _info(text: bytes) -> Info:
    try:
        values: dict[str, Any] = json.loads(text)
        version, max_payload = str(values["version"]), int(values["max_payload"])
        return Info(version, max_payload, bool(values.get("headers", False)), str(values.get("nonce", "")))
    except (ValueError, KeyError, TypeError) as error:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"not a valid INFO: {text[:80]!r}") from error


def header_block(headers: Mapping[str, str]) -> bytes:
    """The header block of a message; line breaks in values cannot get through."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        lines = "".join([f"{name}: {value.translate(_UNSAFE)}\r\n" for name, value in headers.items()])
    return f"NATS/1.0\r\n{lines}\r\n".encode()


def publish(subject: str, payload: bytes, *, reply: str = "", header: bytes = b"") -> bytes:
    """The frame of one message. Subjects have been parsed before; nothing a peer sent gets here unchecked."""
    target = f"{subject} {reply}" if reply else subject
    if header:
        return b"HPUB %s %d %d\r\n%s%s\r\n" % (
            target.encode(),
            len(header),
            len(header) + len(payload),
            header,
            payload,
        )
    return b"PUB %s %d\r\n%s\r\n" % (target.encode(), len(payload), payload)


def subscribe(subject: str, sid: int) -> bytes:
    """The frame that starts a subscription."""
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    """The frame that ends a subscription."""
    return f"UNSUB {sid}\r\n".encode()


def connect(login: Mapping[str, str], *, name: str) -> bytes:
    """The frame that opens a session; it ends with a PING, whose PONG proves that it was accepted.

    :param login: the fields that prove who connects.
    """
    options = {
        "verbose": False,
        "pedantic": False,
        "lang": "python-trio",
        "version": "1",
        "protocol": 1,
        "headers": True,
        "no_responders": True,
        "name": name,
        **login,
    }
    return b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n"
