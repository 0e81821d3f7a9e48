# SPDX-License-Identifier: Apache-2.0
"""What a site configuration says, as frozen values. The text is read in :mod:`appliance.site.reading`.

Everything that follows from it (networkd, chrony, hosts, allow-lists) is a pure function of :class:`SiteConfig`:
:mod:`appliance.site.network`, :mod:`appliance.site.services`, :mod:`appliance.site.egress`.

Whatever a role stands on (a port, a VLAN, a bond), its device on the box has the name of the role:
``uplink0``, ``plant0``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from typing import Final

from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.policy import ZonePolicy
from appliance.keys.local.site import SiteApplication

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RPC_PORT: Final = 8443
TRUST_PORT: Final = 8444
LEAF_PORT: Final = 7422
NATS_PORT: Final = 4222
HTTPS_PORT: Final = 8443


def numeric(host: str) -> Address | None:
    """The address a host is, or ``None``: it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


class Role(StrEnum):
    """What a network interface is for."""

    UPLINK = "uplink"
    """Towards the hub; the box dials out there and nothing listens."""
    PLANT = "plant"
    """Towards the machines of the plant; the two documented ports listen there."""

    @property
    def device(self) -> str:
        """The name of its device on the box."""
        return f"{self.value}0"


class MatchBy(StrEnum):
    """How a port of the box is recognised."""

    MAC = "mac"
    NAME = "name"
    DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Port:
    """One physical port. :param value: MAC in lower case with colons, kernel name, or name of the driver."""

    by: MatchBy
    value: str


class BondMode(StrEnum):
    """How several ports act as one."""

    ACTIVE_BACKUP = "active-backup"
    """One carries, the others wait; the switch needs nothing."""
    LACP = "802.3ad"
    """All carry; the switch needs LACP."""


@dataclass(frozen=True, slots=True)
class Bond:
    """Two to four ports that act as one."""

    mode: BondMode
    members: tuple[Port, ...]


class V4Mode(StrEnum):
    """Where an IPv4 address comes from."""

    STATIC = "static"
    DHCP = "dhcp"
    OFF = "off"


class V6Mode(StrEnum):
    """Where an IPv6 address comes from."""

    STATIC = "static"
    SLAAC = "slaac"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class IPv4:
    """IPv4 of an interface; addresses and gateway are there with ``static`` alone."""

    mode: V4Mode
    addresses: tuple[IPv4Interface, ...] = ()
    gateway: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class IPv6:
    """IPv6 of an interface; addresses and gateway are there with ``static`` alone."""

    mode: V6Mode
    addresses: tuple[IPv6Interface, ...] = ()
    gateway: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A network behind a router of an interface."""

    to: Network
    via: Address


@dataclass(frozen=True, slots=True)
class Interface:
    """One role on its port.

    :param base: the port, or the ports that act as one. Both roles may have the same base, by VLAN.
    :param vlan: 1 to 4094; ``None``: untagged. :param mtu: bytes; ``None``: as the driver has it.
    """

    role: Role
    base: Port | Bond
    vlan: int | None
    mtu: int | None
    ipv4: IPv4
    ipv6: IPv6
    routes: tuple[Route, ...] = ()

    @property
    def device(self) -> str:
        """``uplink0`` or ``plant0``."""
        return self.role.device

    @property
    def addresses(self) -> list[IPv4Interface | IPv6Interface]:
        """Its static addresses, both versions, with their prefixes."""
        return [*self.ipv4.addresses, *self.ipv6.addresses]

    def learns(self, version: int) -> bool:
        """Whether its address and router of this version of IP come from the network."""
        return self.ipv4.mode is V4Mode.DHCP if version == 4 else self.ipv6.mode is V6Mode.SLAAC

    def gateway(self, version: int) -> Address | None:
        """Its static default router of this version of IP."""
        return self.ipv4.gateway if version == 4 else self.ipv6.gateway

    @property
    def ports(self) -> tuple[Port, ...]:
        """All physical ports it stands on."""
        return self.base.members if isinstance(self.base, Bond) else (self.base,)


@dataclass(frozen=True, slots=True)
class HubEndpoints:
    """Where the hub is.

    :param host: a DNS name or an address. :param addresses: what the name stands for, where no DNS is to be asked;
        with an address as host: that one.
    :param rpc: port of the contract (agent). :param trust: port of time, enrolment and attestation (agent, enrolment).
    :param leaf: port of the NATS leaf connection (nats-control).
    """

    host: str
    addresses: tuple[Address, ...]
    rpc: int = RPC_PORT
    trust: int = TRUST_PORT
    leaf: int = LEAF_PORT


@dataclass(frozen=True, slots=True)
class Trust:
    """Public material, as PEM texts, each in its one form with a newline at the end.

    :param hub_ca: the hub's CA certificate. :param operators: 2 or 3 public keys (P-256) of release operators.
    :param authorities: CA certificates of the site, for NTS servers and the like; never for the boundary.
    """

    hub_ca: str
    operators: tuple[str, ...]
    authorities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dns:
    """Resolvers, and the domains a short name is tried in. What DHCP or router advertisements name is not used."""

    servers: tuple[Address, ...] = ()
    search: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeServers:
    """Servers of wall-clock time: names with NTS, names or addresses with plain NTP."""

    nts: tuple[str, ...] = ()
    ntp: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that opens connections to the hub by CONNECT; without user and password."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class PlantListener:
    """Where the machines of the plant reach the box; the address is a static one of the plant interface.

    :param nats: TLS port of nats-facts. :param https: port of AppendFact over HTTPS.
    """

    address: Address
    nats: int = NATS_PORT
    https: int = HTTPS_PORT


@dataclass(frozen=True, slots=True)
class Console:
    """What the status page on screen and serial line shows."""

    show_addresses: bool = True


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """One site configuration.

    :param version: rises with each document of a box. :param name: of the site, for people; may be empty.
    :param hub: the hub's zone. :param endpoints: ``None`` on an air-gapped box, which has no uplink at all.
    :param signers: PEM texts of further keys that may sign the next version, beside the key that signed this one.
    :param policy: categories and the one peer, the hub.
    :param uplink: ``None`` on an air-gapped box alone. :param plant: ``None``: no interface of that role.
    :param listener: ``None``: local applications on loopback alone.
    :param applications: local applications, by name.
    """

    version: int
    zone: ZoneId
    name: str
    hub: ZoneId
    endpoints: HubEndpoints | None
    trust: Trust
    signers: tuple[str, ...]
    uplink: Interface | None
    plant: Interface | None
    listener: PlantListener | None
    dns: Dns
    time: TimeServers
    proxy: Proxy | None
    policy: ZonePolicy
    console: Console
    applications: tuple[SiteApplication, ...] = ()

    @property
    def air_gapped(self) -> bool:
        """Whether there is no uplink, by design: enrolment and facts go by USB stick."""
        return self.uplink is None

    @property
    def hub_identity(self) -> str:
        """The hub's name in its certificates, such as ``enterprise-bsfg``; nats-control dials it by this name."""
        return identity_of(self.hub)

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Those that are there: uplink first."""
        return tuple(interface for interface in (self.uplink, self.plant) if interface is not None)
