# SPDX-License-Identifier: Apache-2.0
"""How often an address may ask where nobody has to prove who they are."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import trio

ADDRESSES: Final = 4096
"""Addresses remembered; the one that asked longest ago is forgotten first."""


@dataclass(slots=True)
class _Budget:
    left: float
    at: float


class AddressRates:
    """A budget for each address: ``burst`` at once, ``per_s`` from then on. A plant may be behind one address.

    :param addresses: how many are remembered.
    """

    def __init__(self, burst: float, per_s: float, addresses: int = ADDRESSES) -> None:
        self._burst = burst
        self._per_s = per_s
        self._addresses = addresses
        self._budgets: OrderedDict[str, _Budget] = OrderedDict()

    def spend(self, address: str) -> bool:
        """Count one request; false when the address has none left."""
        now = trio.current_time()
        budget = self._budgets.pop(address, None) or _Budget(self._burst, now)
        while len(self._budgets) >= self._addresses:
            self._budgets.popitem(last=False)
        self._budgets[address] = budget
        budget.left = min(self._burst, budget.left + (now - budget.at) * self._per_s)
        budget.at = now
        if budget.left < 1:
            return False
        budget.left -= 1
        return True


def network_of(address: str) -> str:
    """What counts as one address: with IPv6 the network of 64 bits, of which one host has as many as it likes."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    prefix = 64 if parsed.version == 6 else 32
    return str(ipaddress.ip_network((parsed, prefix), strict=False).network_address)
