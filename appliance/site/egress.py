# SPDX-License-Identifier: Apache-2.0
"""Where a box may dial, and who may dial in on the plant's side: computed from the site configuration alone.

The firewall (table ``inet bsfg``) drops all the rest. Its sets hold addresses; a name is looked up by somebody who is
allowed to, and what was found is given in as ``resolved``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appliance.site.config import Address, SiteConfig, V4Mode, numeric
from appliance.site.services import Resolved

TABLE: Final = "inet bsfg"
DNS_PORT: Final = 53
NTP_PORT: Final = 123
NTS_PORT: Final = 4460
DHCP_PORT: Final = 67
AGENT: Final = "bsfg-agent"
CONTROL: Final = "bsfg-control"
ENROL: Final = "bsfg-enrol"
NAMES: Final = "bsfg-names"
CHRONY: Final = "_chrony"
NETWORKD: Final = "systemd-network"

SETS: Final = (
    *(f"{purpose}{version}" for purpose in ("hub", "resolver", "time", "proxy") for version in (4, 6)),
    "plant_ingress",
)
"""The sets of the table; of addresses (``ipv4_addr`` or ``ipv6_addr``) or, the last, of ``ifname``, and ports."""


class Purpose(StrEnum):
    """What a connection is for; the beginning of its set's name."""

    HUB = "hub"
    RESOLVER = "resolver"
    TIME = "time"
    PROXY = "proxy"
    DHCP = "dhcp"


@dataclass(frozen=True, slots=True)
class Egress:
    """One destination. :param host: a name or an address. :param users: who dials it.

    :param addresses: what the host is, as far as it is known.
    """

    purpose: Purpose
    protocol: str
    host: str
    port: int
    users: tuple[str, ...]
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Ingress:
    """One listener on the plant's side."""

    purpose: str
    device: str
    address: Address
    port: int


def egress(config: SiteConfig, resolved: Resolved | None = None) -> tuple[Egress, ...]:
    """Every destination this box may open a connection to, or send a datagram to.

    :param resolved: what names stand for; a name that is not in it has no address yet.
    """
    dialling = (AGENT, CONTROL, ENROL)
    found: list[tuple[Purpose, str, str, int, tuple[str, ...]]] = []
    if config.proxy is not None:
        found.append((Purpose.PROXY, "tcp", config.proxy.host, config.proxy.port, dialling))
    elif config.endpoints is not None:
        hub = config.endpoints
        found.append((Purpose.HUB, "tcp", hub.host, hub.rpc, (AGENT,)))
        found.append((Purpose.HUB, "tcp", hub.host, hub.trust, (AGENT, ENROL)))
        found.append((Purpose.HUB, "tcp", hub.host, hub.leaf, (CONTROL,)))
    for server in config.dns.servers:
        found += [
            (Purpose.RESOLVER, protocol, str(server), DNS_PORT, (*dialling, NAMES, CHRONY))
            for protocol in ("udp", "tcp")
        ]
    for name in config.time.nts:
        found += [(Purpose.TIME, "tcp", name, NTS_PORT, (CHRONY,)), (Purpose.TIME, "udp", name, NTP_PORT, (CHRONY,))]
    found += [(Purpose.TIME, "udp", host, NTP_PORT, (CHRONY,)) for host in config.time.ntp]
    if any(interface.ipv4.mode is V4Mode.DHCP for interface in config.interfaces):
        found.append((Purpose.DHCP, "udp", "255.255.255.255", DHCP_PORT, (NETWORKD,)))
    known = dict(resolved or {})
    if config.endpoints is not None and config.endpoints.addresses:
        known[config.endpoints.host] = config.endpoints.addresses
    return tuple(Egress(*each, _addresses(each[2], known)) for each in found)


def _addresses(host: str, known: Resolved) -> tuple[Address, ...]:
    own = numeric(host)
    return tuple(known.get(host, ())) if own is None else (own,)


def names_to_resolve(config: SiteConfig) -> tuple[str, ...]:
    """The names that must be looked up before the sets are whole; each once."""
    return tuple(dict.fromkeys(each.host for each in egress(config) if not each.addresses))


def ingress(config: SiteConfig) -> tuple[Ingress, ...]:
    """What may be dialled, on the plant's device alone."""
    if config.plant is None or config.listener is None:
        return ()
    device, listener = config.plant.device, config.listener
    return tuple(
        Ingress(purpose, device, listener.address, port)
        for purpose, port in (("facts by NATS", listener.nats), ("facts by HTTPS", listener.https))
    )


def nft_sets(config: SiteConfig, resolved: Resolved | None = None) -> Mapping[str, tuple[str, ...]]:
    """The elements of each set, as nft takes them; every set is there, empty or not."""
    found: dict[str, dict[str, None]] = {name: {} for name in SETS}
    for each in egress(config, resolved):
        if each.purpose is not Purpose.DHCP:  # a rule of its own: it has no address to ask
            for address in each.addresses:
                found[f"{each.purpose}{address.version}"][f"{address} . {each.port}"] = None
    for listener in ingress(config):
        found["plant_ingress"][f'"{listener.device}" . {listener.port}'] = None
    return {name: tuple(elements) for name, elements in found.items()}


def nft_script(sets: Mapping[str, tuple[str, ...]], table: str = TABLE) -> str:
    """What ``nft -f`` takes, in one transaction: every set holds its elements, and nothing from before."""
    lines = [f"flush set {table} {name}\n" for name in sets]
    for name, elements in sets.items():
        if elements:
            lines.append(f"add element {table} {name} {{ {', '.join(elements)} }}\n")
    return "".join(lines)
