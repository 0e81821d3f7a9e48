# SPDX-License-Identifier: Apache-2.0
"""Netlink, as far as probes need it: a question and its answer, events of a group, attributes (netlink(7)).

The kernel speaks here, not a stranger; still every length is checked, for a wrong offset would be a wrong reading.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = 2
_DONE: Final = 3
REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_TYPE_MASK: Final = 0x3FFF
BUFFER: Final = 1 << 20
ANSWER_S: Final = 2.0
_DATAGRAM: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class NetlinkMessage:
    """One message. :param kind: its type."""

    kind: int
    flags: int
    body: bytes


class Netlink:
    """One socket. Blocking, one caller at a time.

    :param protocol: ``NETLINK_*``. :param group: whose events are wanted; 0: none.
    :raises OSError: the kernel has no such protocol, or this process has not the right.
    """

    def __init__(self, protocol: int, group: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            self._socket.bind((0, 0))
            if group:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def fileno(self) -> int:
        """Readable when there is an event."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give it back."""
        self._socket.close()

    def events(self) -> tuple[list[NetlinkMessage], bool]:
        """What has come in since, and whether the kernel had to leave something out. Does not wait."""
        found: list[NetlinkMessage] = []
        lost = False
        while True:
            try:
                data = self._socket.recv(_DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            found += messages(data)

    def ask(self, kind: int, body: bytes, flags: int = DUMP) -> list[NetlinkMessage]:
        """The answer to a question. :raises OSError: the kernel's error; ``TimeoutError``: it is silent."""
        self._sequence += 1
        head = HEADER.pack(HEADER.size + len(body), kind, REQUEST | flags, self._sequence, 0)
        self._socket.settimeout(ANSWER_S)
        self._socket.send(head + body)
        found: list[NetlinkMessage] = []
        while True:
            for message, sequence in _sequenced(self._socket.recv(_DATAGRAM)):
                if sequence != self._sequence:
                    continue
                if message.kind == _ERROR:
                    (code,) = struct.unpack_from("=i", message.body)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return found
                if message.kind == _DONE:
                    return found
                found.append(message)
                if not flags & (DUMP | ACK):
                    return found


def messages(data: bytes) -> list[NetlinkMessage]:
    """The messages of one datagram. :raises ValueError: their lengths do not fit."""
    return [message for message, _ in _sequenced(data)]


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by type; of several of one type the last. :raises ValueError: their lengths do not fit."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    """All attributes in their order. :raises ValueError: their lengths do not fit."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > len(data):
            raise ValueError("an attribute that does not fit")
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += -(-size // 4) * 4


def text(value: bytes) -> str:
    """A name of the kernel's."""
    return value.split(b"\0")[0].decode("utf-8", "replace")


def _sequenced(data: bytes) -> Iterator[tuple[NetlinkMessage, int]]:
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if size < HEADER.size or at + size > len(data):
            raise ValueError("a message that does not fit")
        yield NetlinkMessage(kind, flags, data[at + HEADER.size : at + size]), sequence
        at += -(-size // 4) * 4
