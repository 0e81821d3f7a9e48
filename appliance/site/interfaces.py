# SPDX-License-Identifier: Apache-2.0
"""The interfaces of a site configuration, read from their tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from appliance.site import values
from appliance.site.config import (
    Bond,
    BondMode,
    Interface,
    IPv4,
    IPv6,
    Network,
    Port,
    Role,
    Route,
    V4Mode,
    V6Mode,
)
from appliance.site.tables import Table

_BY: Final[dict[str, Callable[[str], Port]]] = {
    "mac": values.mac_port,
    "name": values.named_port,
    "driver": values.driver_port,
}
MOST_ADDRESSES: Final = 8
MOST_ROUTES: Final = 32


def read_interfaces(root: Table) -> dict[Role, tuple[Interface, Table]]:
    """Both roles that are given, each with its table, for errors. :raises BadSiteError: one is not valid."""
    parent = root.section("interfaces")
    if parent is None:
        raise root.fault(None, "[interfaces.uplink] or [interfaces.plant] is missing")
    found = {}
    for role in Role:
        table = parent.section(role)
        if table is not None:
            found[role] = (_interface(role, table), table)
    if unknown := next(iter(parent.fields()), None):
        raise parent.fault(unknown, f"{unknown!r} is no role; there are: {', '.join(Role)}")
    return found


def networks_of(interface: Interface) -> list[Network]:
    """The networks its static addresses are in."""
    return [address.network for address in interface.addresses]


def _interface(role: Role, table: Table) -> Interface:
    base = _base(table)
    vlan, mtu = table.maybe_number("vlan", 1, 4094), table.maybe_number("mtu", 1280, 9216)
    ipv4, ipv6 = _ipv4(table.section("ipv4")), _ipv6(table.section("ipv6"))
    if ipv4.mode is V4Mode.OFF and ipv6.mode is V6Mode.OFF:
        raise table.fault(None, "needs a table ipv4 or ipv6 that is not off")
    rows = table.tables("routes")
    interface = Interface(role, base, vlan, mtu, ipv4, ipv6)
    routes = tuple(_route(row, interface) for row in rows)
    if len(routes) > MOST_ROUTES:
        raise table.fault("routes", f"more than {MOST_ROUTES} routes")
    for index, route in enumerate(routes):
        if route.to in [other.to for other in routes[:index]]:
            raise rows[index].fault("to", f"to {str(route.to)!r}: there is a route to it already")
    table.end()
    return Interface(role, base, vlan, mtu, ipv4, ipv6, routes)


def _base(table: Table) -> Port | Bond:
    ways = [way for way in (*_BY, "bond") if table.has(way)]
    if len(ways) != 1:
        raise table.fault(ways[1] if ways else None, "needs exactly one of mac, name, driver and bond")
    bond = table.section("bond")
    if bond is None:
        return table.value(ways[0], _BY[ways[0]])
    mode = bond.word("mode", BondMode)
    members = []
    for member in bond.tables("members"):
        named = [way for way in ("mac", "name") if member.has(way)]
        if len(named) != 1:
            raise member.fault(None, "needs exactly one of mac and name")
        port = member.value(named[0], _BY[named[0]])
        if port in members:
            raise member.fault(named[0], f"{port.value!r} is a member already")
        members.append(port)
        member.end()
    if not 2 <= len(members) <= 4:
        raise bond.fault("members", f"{len(members)} members; allowed: an array of two to four tables")
    bond.end()
    return Bond(mode, tuple(members))


def _ipv4(table: Table | None) -> IPv4:
    if table is None:
        return IPv4(V4Mode.OFF)
    mode = table.word("mode", V4Mode)
    if mode is not V4Mode.STATIC:
        _only_static(table, mode)
        return IPv4(mode)
    addresses = table.values("addresses", values.ipv4_interface, 1, MOST_ADDRESSES)
    gateway = table.maybe_value("gateway", values.ipv4_gateway)
    if gateway is not None and not any(gateway in each.network and gateway != each.ip for each in addresses):
        raise table.fault("gateway", f"gateway {str(gateway)!r} is in none of the networks, or the box itself")
    table.end()
    return IPv4(mode, addresses, gateway)


def _ipv6(table: Table | None) -> IPv6:
    if table is None:
        return IPv6(V6Mode.OFF)
    mode = table.word("mode", V6Mode)
    if mode is not V6Mode.STATIC:
        _only_static(table, mode)
        return IPv6(mode)
    addresses = table.values("addresses", values.ipv6_interface, 1, MOST_ADDRESSES)
    gateway = table.maybe_value("gateway", values.ipv6_gateway)
    if (
        gateway is not None
        and not gateway.is_link_local
        and not any(gateway in each.network and gateway != each.ip for each in addresses)
    ):
        raise table.fault("gateway", f"gateway {str(gateway)!r} is in none of the networks, or the box itself")
    table.end()
    return IPv6(mode, addresses, gateway)


def _only_static(table: Table, mode: str) -> None:
    for field in ("addresses", "gateway"):
        if table.has(field):
            raise table.fault(field, f'{field} is for mode "static", and this one is "{mode}"')
    table.end()


def _route(table: Table, interface: Interface) -> Route:
    route = Route(table.value("to", values.network), table.value("via", values.address))
    table.end()
    if route.to.version != route.via.version:
        raise table.fault("via", f"via {str(route.via)!r} is of the other IP version")
    static = [each for each in interface.addresses if each.version == route.to.version]
    learnt = interface.learns(route.to.version)
    near = any(route.via in each.network and route.via != each.ip for each in static)
    if not near and not learnt and not (route.via.version == 6 and route.via.is_link_local and static):
        raise table.fault("via", f"via {str(route.via)!r} is in no network of this interface")
    if any(route.to == each.network for each in static):
        raise table.fault("to", f"to {str(route.to)!r} is this interface's own network")
    return route


def check_pair(found: dict[Role, tuple[Interface, Table]]) -> None:
    """What one interface cannot know of the other. :raises BadSiteError: they do not go together."""
    if len(found) < 2:
        return
    (uplink, _), (plant, table) = found[Role.UPLINK], found[Role.PLANT]
    if uplink.base == plant.base:
        if uplink.vlan == plant.vlan:
            raise table.fault(
                "vlan" if table.has("vlan") else None, "is the same port as the uplink's: needs another VLAN"
            )
    elif shared := set(uplink.ports) & set(plant.ports):
        raise table.fault(None, f"port {next(iter(shared)).value!r} is the uplink's as well, but not its bond")
    _check_networks(uplink, plant, table)


def _check_networks(uplink: Interface, plant: Interface, table: Table) -> None:
    for ours in networks_of(plant):
        for theirs in networks_of(uplink):
            if ours.overlaps(theirs):  # never, between the versions of IP
                raise table.fault(None, f"the network {ours} overlaps {theirs} of the uplink")
    for route in plant.routes:
        if route.to in [other.to for other in uplink.routes]:
            raise table.fault("routes", f"{route.to} has a route by the uplink as well")
    for version, interface in (("ipv4", plant.ipv4), ("ipv6", plant.ipv6)):
        if interface.gateway is not None:
            raise table.fault(version, "gateway: the default route is the uplink's; name routes instead", "gateway")
