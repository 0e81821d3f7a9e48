# SPDX-License-Identifier: Apache-2.0
"""What leaves a box, seen from outside: every frame at the far end of the uplink, with the kernel's own times.

A box of network namespaces (:mod:`tests.firewalled`) has a real cable (veth); a :class:`Tap` stands at its far end, in
the hub's namespace, and :func:`talking` keeps everything busy that may leave a healthy box: the agent's connection, its
early traffic (address requests, neighbours), and what root itself tries.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tests.firewalled import AGENT, HUB4, NETWORKD, ROOT, RPC_PORT, Space

T = TypeVar("T")
_ALL_FRAMES: Final = 0x0003
_SO_TIMESTAMPNS: Final = 35
_CLONE_NEWNET: Final = 0x40000000

TALKER: Final = r"""
import json, random, select, socket, sys, time

def agent(host, port, pause_s):
    # The agent's connection: a little each moment, opened anew as soon as it may be.
    while True:
        try:
            with socket.create_connection((host, port), timeout=0.2) as link:
                link.settimeout(0.5)
                while True:
                    link.sendall(b"x" * 64)
                    if select.select([link], [], [], 0)[0] and not link.recv(65536):
                        break
                    time.sleep(pause_s)
        except OSError:
            time.sleep(pause_s)

def addresses(device, pause_s):
    # What networkd sends to get an address: a broadcast frame with no route.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
        link.bind((device, 0))
        udp = bytes.fromhex("00440043") + (8 + 240).to_bytes(2, "big") + b"\0\0" + b"\1" * 240
        ip = bytearray.fromhex("45000000000100004011") + b"\0\0" + b"\0" * 4 + b"\xff" * 4
        ip[2:4] = (20 + len(udp)).to_bytes(2, "big")
        total = sum(int.from_bytes(ip[each:each + 2], "big") for each in range(0, 20, 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        ip[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
        frame = b"\xff" * 6 + b"\x02\0\0\0\0\1" + b"\x08\0" + bytes(ip) + udp
        while True:
            try:
                link.send(frame)
            except OSError:
                pass
            time.sleep(pause_s)

def neighbours(device, host, pause_s):
    # ARP for the gateway, as networkd may ask it.
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
        link.bind((device, 0))
        mine = link.getsockname()[4]
        frame = b"\xff" * 6 + mine + bytes.fromhex("08060001080006040001") + mine + b"\0" * 4 + b"\0" * 6
        frame += socket.inet_aton(host)
        while True:
            try:
                link.send(frame)
            except OSError:
                pass
            time.sleep(pause_s)

globals()[sys.argv[1]](*json.loads(sys.argv[2]))
"""
"""What each sender of a box does for as long as it runs; a program of its own, so that it has a user of its own."""


def within(space: Space, work: Callable[[], T]) -> T:
    """Do something in a thread that stands in a namespace; a socket that is made there stays there."""

    def enter_and_work() -> T:
        with open(f"/run/netns/{space.name}", "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter_and_work).result()


class Tap:
    """Listens at the far end of a cable. Times are Unix seconds, stamped by the kernel when a frame came in."""

    def __init__(self, space: Space, device: str) -> None:
        self._socket = within(space, lambda: _tap(device))

    def frames(self) -> list[tuple[float, bytes]]:
        """Every frame since the last call, oldest first: when, and its first 64 bytes."""
        found: list[tuple[float, bytes]] = []
        while True:
            try:
                data, extra, _, address = self._socket.recvmsg(64, 128)
            except BlockingIOError:
                return found
            if address[2] == socket.PACKET_OUTGOING:
                continue
            stamps = [value for level, kind, value in extra if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS)]
            seconds, nanoseconds = struct.unpack("ll", stamps[0][:16])
            found.append((seconds + nanoseconds / 1e9, data))

    def missed(self) -> int:
        """How many frames the kernel could not keep for us since the last call; any makes a count worthless."""
        statistics = self._socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS: seen, dropped
        return int(struct.unpack("II", statistics)[1])

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@contextmanager
def tapped(space: Space, device: str = "wan") -> Iterator[Tap]:
    """A tap for a while."""
    tap = Tap(space, device)
    try:
        yield tap
    finally:
        tap.close()


@dataclass(frozen=True, slots=True)
class Sender:
    """Somebody on the box who sends all the time. :param what: of :data:`TALKER`, with these values."""

    user: int
    what: str
    values: tuple[object, ...]
    privileges: str = ""


THE_AGENT: Final = Sender(AGENT, "agent", (HUB4, RPC_PORT, 0.002))
EVERY_SENDER: Final = (
    THE_AGENT,
    Sender(NETWORKD, "addresses", ("uplink0", 0.25), "net_raw"),
    Sender(NETWORKD, "neighbours", ("uplink0", HUB4, 0.05), "net_raw"),
    Sender(ROOT, "addresses", ("uplink0", 0.25)),
)
"""All that may leave a healthy box, and what root itself tries."""


@contextmanager
def talking(box: Space, senders: Sequence[Sender] = EVERY_SENDER) -> Iterator[None]:
    """They go on sending. The hub must answer on its RPC port."""
    with ExitStack() as stack:
        for each in senders:
            stack.enter_context(_sending(box, each))
        yield


@contextmanager
def _sending(box: Space, sender: Sender) -> Iterator[None]:
    command = box.within(
        Path(sys.executable).resolve(),
        *("-I", "-c", TALKER, sender.what, json.dumps(sender.values)),
        user=sender.user,
        privileges=sender.privileges,
    )
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield
        finally:
            process.kill()


def _tap(device: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    tap.bind((device, _ALL_FRAMES))
    tap.setblocking(False)
    return tap
