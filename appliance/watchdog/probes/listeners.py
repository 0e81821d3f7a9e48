# SPDX-License-Identifier: Apache-2.0
"""What listens on the network, who reads raw packets, and which ports there are; every two seconds, and on new ports.

The kernel's own tables (proc(5), ``net/``) are compared with what the site configuration makes services listen on
(``listeners.json``, written with the services' configurations), and with what networkd needs to get an address. Only
what is still there at a second look a moment later counts: a socket that connects has no peer for an instant.

Besides sockets there are other ways to packets that the firewall would not see: programs attached to a port (XDP), or
to its queue (tc). They are looked for too.
"""

from __future__ import annotations

import ipaddress
import json
import pwd
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from appliance.watchdog.netlink import Netlink, attributes, text
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import Code, ProbeName

PERIOD_S: Final = 2.0
AGAIN_S: Final = 0.2
GRACE_S: Final = 120.0
"""So long a service may go on to listen where a former site configuration made it; then it was started anew."""
NETWORKD: Final = "systemd-network"
DATAGRAMS: Final = {68, 546}
"""UDP ports where networkd waits for answers of DHCP."""
RAW_PROTOCOLS: Final = {("raw6", 58)}
"""Raw sockets of networkd: router advertisements are ICMPv6."""
PACKET_PROTOCOLS: Final = {0x0800, 0x0806}
"""Packet sockets of networkd: DHCP before there is an address, and whether somebody else has it (ARP)."""
BYPASSES: Final = ("XDP", "SCTP", "SCTPv6", "DCCP", "TIPC", "RDS", "AF_VSOCK", "SMC", "L2TP")
"""Protocols that nothing on a box speaks; the kernel counts their sockets."""
PORT_NAMES: Final = ("lo", "uplink", "plant", "port")
_LISTEN, _UNCONNECTED = 0x0A, 0x07
_NETLINK_ROUTE: Final = 0
_GROUP_LINK: Final = 1
_GET_LINK, _GET_QUEUE = 18, 38
_LINK_HEAD: Final = 16
_NAME, _XDP, _XDP_ATTACHED = 3, 43, 2
_QUEUE_HEAD: Final = struct.Struct("=BxxxiIII")
_QUEUE_KIND: Final = 1
_TAPS: Final = {"clsact", "ingress"}


@dataclass(frozen=True, slots=True)
class ListenerPlaces:
    """Where to look. :param allowed: what services listen on: ``[[uid, address, port], ...]``."""

    net: Path = Path("/proc/thread-self/net")
    allowed: Path = Path("/run/bsfg/config/listeners.json")
    networkd: str = NETWORKD

    @classmethod
    def below(cls, root: Path) -> Self:
        """The document below a folder; the kernel's tables are where they are."""
        return cls(allowed=root / cls().allowed.relative_to("/"))


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket. :param table: ``tcp``, ``udp6``, ``raw``, ``packet`` ... :param port: its protocol, if it is raw."""

    table: str
    uid: int
    address: str
    port: int
    inode: int

    def __str__(self) -> str:
        """For people."""
        at = f"protocol {self.port:#06x}" if self.table == "packet" else f"{self.address} {self.port}"
        return f"{self.table} {at}, user {self.uid}"


Listener = tuple[int, str, int]


@dataclass(slots=True)
class Allowed:
    """What may listen: the present document, and for a while what is in it no more."""

    places: ListenerPlaces
    _until: dict[Listener, float] = field(default_factory=dict)

    def now(self, moment: float) -> set[Listener]:
        """Those that may, now. :raises ValueError: the document is none. :raises OSError: it cannot be read."""
        for listener in _document(self.places.allowed):
            self._until[listener] = moment + GRACE_S
        self._until = {listener: until for listener, until in self._until.items() if until > moment}
        return set(self._until)


class ListenersProbe:
    """A :class:`~appliance.watchdog.probing.Probe`; looks within half a second."""

    name = ProbeName.LISTENERS
    period_s = PERIOD_S

    def __init__(self, places: ListenerPlaces | None = None) -> None:
        self._places = places or ListenerPlaces()
        self._allowed = Allowed(self._places)
        self._events: Netlink | None = None
        self._first: set[str] | None = None
        """The ports that were there when it began: those do not appear."""

    def descriptor(self) -> int | None:
        """As the port says."""
        try:
            return self._listening().fileno()
        except OSError:
            return None

    def look(self) -> Reading:
        """As the port says."""
        try:
            self._listening().events()
            sockets = self._foreign()
            if sockets:
                time.sleep(AGAIN_S)
                sockets &= self._foreign()
            seen = [Seen(_code(each), str(each)) for each in sorted(sockets, key=str)]
            seen += self._bypasses()
            seen += self._ports()
        except (OSError, ValueError, KeyError, struct.error) as error:
            return Reading(self.name, blind=f"{type(error).__name__}: {error}")
        return Reading(self.name, tuple(seen), facts={"ports": " ".join(sorted(self._first or ()))})

    def close(self) -> None:
        """As the port says."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _listening(self) -> Netlink:
        if self._events is None:
            self._events = Netlink(_NETLINK_ROUTE, _GROUP_LINK)
        return self._events

    def _foreign(self) -> set[Socket]:
        allowed, networkd = self._allowed.now(time.monotonic()), pwd.getpwnam(self._places.networkd).pw_uid
        return {each for each in sockets_of(self._places.net) if not _is_allowed(each, allowed, networkd)}

    def _bypasses(self) -> Iterator[Seen]:
        for name, count in protocols_of((self._places.net / "protocols").read_text("ascii")).items():
            if count and name in BYPASSES:
                yield Seen(Code.RAW_SOCKET_FOREIGN, f"{count} sockets of {name}")
        with Netlink(_NETLINK_ROUTE) as kernel:
            for message in kernel.ask(_GET_QUEUE, bytes(_QUEUE_HEAD.size)):
                kind = text(attributes(message.body[_QUEUE_HEAD.size :]).get(_QUEUE_KIND, b""))
                if kind in _TAPS:
                    _, index, *_ = _QUEUE_HEAD.unpack_from(message.body)
                    yield Seen(Code.RAW_SOCKET_FOREIGN, f"a program may be attached to {_port(index)} (tc {kind})")

    def _ports(self) -> Iterator[Seen]:
        with Netlink(_NETLINK_ROUTE) as kernel:
            answers = kernel.ask(_GET_LINK, bytes(_LINK_HEAD))
        links = [attributes(message.body[_LINK_HEAD:]) for message in answers]
        names = {text(link[_NAME]) for link in links}
        self._first = names if self._first is None else self._first
        for link in links:
            attached = attributes(link.get(_XDP, b"")).get(_XDP_ATTACHED, b"\0")
            if any(attached):
                yield Seen(Code.RAW_SOCKET_FOREIGN, f"a program is attached to {text(link[_NAME])} (XDP)")
        for name in sorted(names - self._first):
            if not name.startswith(PORT_NAMES):
                yield Seen(Code.INTERFACE_FOREIGN, name)


def sockets_of(net: Path) -> Iterator[Socket]:
    """Every socket that waits for anybody's packets. :raises ValueError: a table has another form."""
    for table, wanted in (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _UNCONNECTED), ("udp6", _UNCONNECTED)):
        yield from (each for state, each in _internet(net, table) if state == wanted)
    for table in ("udplite", "udplite6", "raw", "raw6"):
        yield from (each for _, each in _internet(net, table))
    for row in _rows(net / "packet"):
        yield Socket("packet", int(row[7]), "", int(row[3], 16), int(row[8]))


def _internet(net: Path, table: str) -> Iterator[tuple[int, Socket]]:
    for row in _rows(net / table):
        address, _, port = row[1].partition(":")
        yield int(row[3], 16), Socket(table, int(row[7]), _address(address), int(port, 16), int(row[9]))


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows of a table; none where the kernel has it not."""
    try:
        lines = path.read_text("ascii").splitlines()
    except FileNotFoundError:
        return
    yield from (line.split() for line in lines[1:])


def _address(digits: str) -> str:
    """An address as the kernel writes it: words of 32 bits in the machine's own order."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def protocols_of(table: str) -> Mapping[str, int]:
    """How many sockets of each protocol there are."""
    return {row[0]: int(row[2]) for row in map(str.split, table.splitlines()[1:])}


def _is_allowed(each: Socket, allowed: set[Listener], networkd: int) -> bool:
    match each.table:
        case "tcp" | "tcp6":
            return (each.uid, each.address, each.port) in allowed
        case "udp" | "udp6":
            return each.uid == networkd and each.port in DATAGRAMS
        case "raw" | "raw6":
            return each.uid == networkd and (each.table, each.port) in RAW_PROTOCOLS
        case "packet":
            return each.uid == networkd and each.port in PACKET_PROTOCOLS
    return False


def _code(each: Socket) -> Code:
    raw = each.table in {"raw", "raw6", "packet"}
    return Code.RAW_SOCKET_FOREIGN if raw else Code.LISTENER_FOREIGN


def _document(path: Path) -> Iterator[Listener]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return  # a box that is not configured listens on nothing
    for uid, address, port in values:
        yield int(uid), str(ipaddress.ip_address(address)), int(port)


def _port(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"port {index}"


def probe(places: ListenerPlaces | None = None) -> ListenersProbe:
    """The probe of a box. :param places: elsewhere, for tests."""
    return ListenersProbe(places)
