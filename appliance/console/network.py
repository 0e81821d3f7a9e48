# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of the network, from /sys and /proc alone: no socket, no netlink library, no process.

So it works in a sandbox without any address family, and costs no memory. IPv4 addresses stand in ``fib_trie`` without
their device; the device is the one whose own network holds the address.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import Final

from appliance.console.documents import neutral, read_file

ROLES: Final = {"uplink0": "uplink", "plant0": "plant"}
"""The names that the site configuration gives to devices, as :class:`appliance.site.config.Role` has them."""
MAX_INTERFACES: Final = 64
_V6_UNUSABLE: Final = 0x08 | 0x40
"""Duplicate address found; still being tried."""
_UP, _GATEWAY, _V6_DEFAULT = 0x1, 0x2, "0" * 32
_LOCAL: Final = re.compile(r"\|-- ([0-9.]{7,15})\n\s+/32 host LOCAL")
_NAME: Final = re.compile(r"[\w.@:-]{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Interface:
    """One network device.

    :param role: ``uplink``, ``plant`` or empty. :param carrier: whether there is a link; ``None``: switched off.
    :param driver: of a physical port, where it is known.
    :param addresses: with prefix length, IPv4 first, without link-local ones.
    :param speed: Mbit/s, where known.
    """

    name: str
    role: str = ""
    carrier: bool | None = None
    mac: str = ""
    speed: int | None = None
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    physical: bool = True
    driver: str = ""


def interfaces(root: Path) -> tuple[Interface, ...]:
    """Every device but loopback: those with a role first."""
    folder, proc = root / "sys/class/net", root / "proc/self/net"
    try:
        names = sorted(name for name in os.listdir(folder) if name != "lo" and _NAME.fullmatch(name))
    except OSError:
        return ()
    v4, v4_gateways = _ipv4(_lines(proc / "route"), _text(proc / "fib_trie"))
    v6, v6_gateways = _ipv6(_lines(proc / "if_inet6")), _ipv6_gateways(_lines(proc / "ipv6_route"))
    found = []
    for name in names[:MAX_INTERFACES]:
        carrier, speed = _text(folder / name / "carrier").strip(), _text(folder / name / "speed").strip()
        found.append(
            Interface(
                name,
                ROLES.get(name, ""),
                {"1": True, "0": False}.get(carrier),
                _text(folder / name / "address").strip()[:17],
                int(speed) if re.fullmatch(r"[1-9][0-9]{0,6}", speed) else None,
                (*v4.get(name, ()), *v6.get(name, ())),
                (*v4_gateways.get(name, ()), *v6_gateways.get(name, ())),
                (folder / name / "device").exists(),
                _driver(folder / name / "device/driver"),
            )
        )
    return tuple(sorted(found, key=lambda each: (list(ROLES).index(each.name) if each.role else len(ROLES), each.name)))


def _driver(link: Path) -> str:
    try:
        return neutral(os.path.basename(os.readlink(link)), 30)
    except OSError:
        return ""


def _ipv4(routes: Iterable[str], trie: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Addresses and default gateways by device."""
    networks: list[tuple[IPv4Network, str]] = []
    gateways: dict[str, list[str]] = {}
    for line in routes:
        parts = line.split()
        try:
            destination, gateway, mask = (_hex4(parts[i]) for i in (1, 2, 7))
            flags = int(parts[3], 16)
            if flags & _GATEWAY and int(destination) == 0 and int(mask) == 0:
                gateways.setdefault(parts[0], []).append(str(gateway))
            elif flags & _UP and not flags & _GATEWAY:
                networks.append((IPv4Network(f"{destination}/{mask}"), parts[0]))
        except (ValueError, IndexError, struct.error):  # the heading too
            continue
    networks.sort(key=lambda each: each[0].prefixlen, reverse=True)
    addresses: dict[str, list[str]] = {}
    for text in dict.fromkeys(_LOCAL.findall(trie)):
        try:
            address = IPv4Address(text)
        except ValueError:
            continue
        if not address.is_loopback:
            network, name = next((each for each in networks if address in each[0]), (IPv4Network("0.0.0.0/32"), "?"))
            addresses.setdefault(name, []).append(f"{address}/{network.prefixlen}")
    return addresses, gateways


def _ipv6(lines: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        parts = line.split()
        try:
            scope, flags = int(parts[3], 16), int(parts[4], 16)
            if scope == 0 and not flags & _V6_UNUSABLE:
                found.setdefault(parts[5], []).append(f"{_hex6(parts[0])}/{int(parts[2], 16)}")
        except (ValueError, IndexError):
            continue
    return found


def _ipv6_gateways(lines: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        parts = line.split()
        try:
            if parts[0] == _V6_DEFAULT and parts[1] == "00" and int(parts[8], 16) & _GATEWAY:
                found.setdefault(parts[9], []).append(str(_hex6(parts[4])))
        except (ValueError, IndexError):
            continue
    return found


def _hex4(text: str) -> IPv4Address:
    """An address as /proc has it: the kernel's own byte order."""
    return IPv4Address(socket.ntohl(int(text, 16)))


def _hex6(text: str) -> IPv6Address:
    return IPv6Address(bytes.fromhex(text))


def _text(path: Path) -> str:
    """A small file of the kernel; empty: it cannot be read (as ``carrier`` of a device that is switched off)."""
    try:
        return _read(path)
    except (OSError, ValueError):
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _read(path: Path) -> str:
    return read_file(path)[0].decode("ascii", errors="replace")
