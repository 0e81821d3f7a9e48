# SPDX-License-Identifier: Apache-2.0
"""Which devices are below the uplink: the ports of a bond, and what a VLAN stands on. Asked of the kernel (rtnetlink).

A packet socket on such a device passes the uplink itself by. A box in quarantine is dark there as well, unless the
plant stands on the same device, by another VLAN: local work goes on, and the firewall's own chain judges the frames.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from appliance.watchdog.netlink import Netlink, attributes, text

CARRIERS: Final = re.compile(r"uplink-bond|port[0-7]")
"""Devices that may be below the uplink, by the names that the site configuration gives them: bonds, ports of VLANs."""
_PLANT: Final = re.compile(r"plant0|plant-bond")
_ROUTE: Final = 0
"""NETLINK_ROUTE of linux/netlink.h; then RTM_GETLINK, and what of its answer (linux/if_link.h) is read here."""
_GET_LINK: Final = 18
_HEAD: Final = struct.Struct("=BxHiII")
_NAME, _STANDS_ON, _MASTER = 3, 5, 10


@dataclass(frozen=True, slots=True)
class Link:
    """A device. :param stands_on: the number of what a VLAN is on. :param master: of the bond a port is in. 0: none."""

    number: int
    name: str
    stands_on: int = 0
    master: int = 0


def links() -> tuple[Link, ...]:
    """All devices. :raises OSError, ValueError: the kernel does not say, or nothing that can be understood."""
    with Netlink(_ROUTE) as kernel:
        answers = kernel.ask(_GET_LINK, bytes(_HEAD.size))
    found = []
    for message in answers:
        if len(message.body) < _HEAD.size:
            raise ValueError("a link without a head")
        values = attributes(message.body[_HEAD.size :])
        number = _HEAD.unpack_from(message.body)[2]
        found.append(Link(number, text(values.get(_NAME, b"")), _number(values, _STANDS_ON), _number(values, _MASTER)))
    return tuple(found)


def of_the_uplink(uplink: str, known: tuple[Link, ...]) -> tuple[str, ...]:
    """Names of the devices below the uplink, and below nothing of the plant's; sorted."""
    numbers = {each.number: each for each in known}
    plant = {each.name for each in known if _PLANT.fullmatch(each.name)}
    return tuple(sorted(_below({uplink}, numbers) - _below(plant, numbers)))


def _below(names: set[str], known: Mapping[int, Link]) -> set[str]:
    """Whatever of :data:`CARRIERS` they stand on, down to the ports."""
    found: set[str] = set()
    above = names
    while above:
        stands_on = {each.stands_on for each in known.values() if each.name in above}
        masters = {each.number for each in known.values() if each.name in above}
        lower = {each.name for each in known.values() if each.number in stands_on or each.master in masters}
        above = {name for name in lower if CARRIERS.fullmatch(name)} - found
        found |= above
    return found


def _number(values: Mapping[int, bytes], kind: int) -> int:
    value = values.get(kind, b"")
    return int.from_bytes(value, "little") if len(value) == 4 else 0
