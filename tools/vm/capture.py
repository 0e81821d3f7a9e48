# SPDX-License-Identifier: Apache-2.0
"""What QEMU captured of a network card (``filter-dump``): who spoke to whom, by Ethernet and IP headers."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from appliance.dev.environment import PortName
from appliance.dev.hub_alone import HubAlone
from tools.vm.faults import VmError
from tools.vm.hardware import HUB_ADDRESS, UPLINK_MAC

_GLOBAL: Final = 24
_RECORD: Final = struct.Struct("<IIII")
_MAGIC: Final = b"\xd4\xc3\xb2\xa1"
_ARP, _IP4, _IP6 = 0x0806, 0x0800, 0x86DD
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
_GATEWAY: Final = HUB_ADDRESS
_DHCP: Final = {67, 68, 546, 547}


@dataclass(frozen=True, slots=True)
class Packet:
    """One frame, as far as its headers say.

    :param protocol: ``arp``, ``tcp``, ``udp``, ``icmp``, ``icmp6``, or the number of another.
    :param port: destination port of TCP and UDP, type of ICMP; else 0. :param opens: whether it opens a connection.
    """

    from_guest: bool
    protocol: str
    target: str
    port: int = 0
    opens: bool = False


@dataclass(frozen=True, slots=True)
class HubPorts:
    """Where a hub listens for boxes."""

    rpc: int
    trust: int
    leaf: int


def hub_ports(folder: Path) -> HubPorts:
    """The ports of the hub in a folder."""
    ports = HubAlone.load(folder).environment.ports
    return HubPorts(*(ports[name] for name in (PortName.LINK_RPC, PortName.LINK_TRUST, PortName.LINK_LEAF)))


def read(path: Path, mac: str = UPLINK_MAC) -> list[Packet]:
    """Every frame of a capture. :param mac: of the guest's card. :raises VmError: it is no capture."""
    data = path.read_bytes()
    if data[:4] != _MAGIC:
        raise VmError(f"{path} is no capture")
    own = bytes.fromhex(mac.replace(":", ""))
    found, at = [], _GLOBAL
    while at + _RECORD.size <= len(data):
        length = _RECORD.unpack_from(data, at)[2]
        at += _RECORD.size
        if packet := _packet(data[at : at + length], own):
            found.append(packet)
        at += length
    return found


def _packet(frame: bytes, own: bytes) -> Packet | None:
    if len(frame) < 34:
        return None
    from_guest = frame[6:12] == own
    kind = int.from_bytes(frame[12:14], "big")
    if kind == _ARP:
        return Packet(from_guest, "arp", "")
    if kind == _IP4:
        header = (frame[14] & 15) * 4
        return _ip(from_guest, frame[23], IPv4Address(frame[30:34]), frame[14 + header :])
    if kind == _IP6:
        number, rest = frame[20], frame[54:]
        if number == 0 and len(rest) >= 8:  # hop-by-hop options
            number, rest = rest[0], rest[(rest[1] + 1) * 8 :]
        return _ip(from_guest, number, IPv6Address(frame[38:54]), rest)
    return Packet(from_guest, f"ethernet {kind:#06x}", "")


def _ip(from_guest: bool, number: int, target: IPv4Address | IPv6Address, rest: bytes) -> Packet:
    protocol = _PROTOCOLS.get(number, str(number))
    if protocol in {"tcp", "udp"} and len(rest) >= 4:
        opens = protocol == "tcp" and len(rest) >= 14 and rest[13] & 0x12 == 0x02
        return Packet(from_guest, protocol, str(target), int.from_bytes(rest[2:4], "big"), opens)
    return Packet(from_guest, protocol, str(target), rest[0] if rest else 0)


def allowed(packet: Packet, hub: HubPorts) -> bool:
    """Whether a box may send this on its uplink: to its hub's ports, DHCP, and what IP needs on its own link."""
    if packet.protocol == "arp":
        return True
    if packet.protocol == "udp":
        return packet.port in _DHCP
    if packet.protocol == "icmp6":  # neighbours, routers, multicast listeners: nothing beyond the link
        target = ip_address(packet.target)
        return packet.port in {133, 135, 136, 143} and (target.is_link_local or target.is_multicast)
    return packet.protocol == "tcp" and packet.target == _GATEWAY and packet.port in {hub.rpc, hub.trust, hub.leaf}
