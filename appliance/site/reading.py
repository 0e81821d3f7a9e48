# SPDX-License-Identifier: Apache-2.0
"""A site configuration read from its text: strictly, with file, line, reason and what is allowed for every error.

Whether it is signed is another question: :mod:`appliance.site.document`.
"""

from __future__ import annotations

import re
import tomllib
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId, parse_category
from appliance.boundary.policy import ZonePolicy
from appliance.node.config import category_policy, peer_policies
from appliance.site import values
from appliance.site.applications import read_applications
from appliance.site.config import (
    HTTPS_PORT,
    LEAF_PORT,
    NATS_PORT,
    RPC_PORT,
    TRUST_PORT,
    Address,
    Console,
    Dns,
    HubEndpoints,
    Interface,
    PlantListener,
    Proxy,
    Role,
    SiteConfig,
    TimeServers,
    Trust,
    numeric,
)
from appliance.site.errors import BadSiteError
from appliance.site.fields import FORMAT
from appliance.site.interfaces import check_pair, networks_of, read_interfaces
from appliance.site.lines import Lines
from appliance.site.tables import Source, Table

MOST_BYTES: Final = 262_144
"""A longer document is none of ours."""
_PORT: Final = (1, 65_535)
_AT_LINE: Final = re.compile(r"(.*?) \(at line (\d+), column (\d+)\)", re.DOTALL)

Interfaces = dict[Role, tuple[Interface, Table]]


def read_site(data: bytes, file: str) -> SiteConfig:
    """Parse a document, without its signature.

    :param file: how errors call it.
    :raises BadSiteError: ``bad_site``: the first thing that is wrong.
    """
    if len(data) > MOST_BYTES:
        raise BadSiteError(file, 0, f"{len(data)} bytes; allowed: at most {MOST_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadSiteError(file, data.count(b"\n", 0, error.start) + 1, "not UTF-8") from error
    # tomllib counts characters after making CRLF one; the lines are the same
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.fullmatch(str(error))
        line = int(found[2]) if found else text.count("\n") + 1
        raise BadSiteError(file, line, f"not TOML: {found[1] if found else error}") from error
    except RecursionError as error:
        raise BadSiteError(file, 0, "not TOML: nested too deeply") from error
    return _read(Table(Source(file, Lines(text)), (), "", document))


def _read(root: Table) -> SiteConfig:
    site, hub = root.need("site"), root.need("hub")
    site.number("format", FORMAT, FORMAT)
    version, zone = site.number("version", 1, 2**53 - 1), site.zone()
    air_gapped, hub_zone = site.take("air_gapped", bool, default=False), hub.zone()
    if hub_zone == zone:
        raise hub.fault("zone", f"zone {hub_zone!r} is this box's own")
    name = site.value("name", values.label) if site.has("name") else ""
    signers = site.values("signers", values.public_key, 0, 4)
    endpoints = None if air_gapped else _endpoints(hub)
    if air_gapped and (extra := [field for field in hub.fields() if field != "zone"]):
        raise hub.fault(extra[0], f"{extra[0]} is nothing for an air-gapped box; only the hub's zone is")
    interfaces = read_interfaces(root)
    _check_uplink(root, air_gapped, interfaces)
    check_pair(interfaces)
    uplink, plant = (interfaces[role][0] if role in interfaces else None for role in Role)
    policy = _policy(root, zone, hub_zone)
    config = SiteConfig(
        version=version,
        zone=zone,
        name=name,
        hub=hub_zone,
        endpoints=endpoints,
        trust=_trust(root.need("trust")),
        signers=signers,
        uplink=uplink,
        plant=plant,
        listener=_listener(root.section("plant"), interfaces),
        dns=_dns(root.section("dns"), air_gapped),
        time=_time(root.section("time")),
        proxy=_proxy(root.section("proxy"), air_gapped),
        policy=policy,
        console=_console(root.section("console")),
        applications=read_applications(root.section("applications"), policy),
    )
    for table in (site, hub, root):
        table.end()
    _check_reach(root, config)
    return config


def _endpoints(hub: Table) -> HubEndpoints:
    host = hub.value("host", values.host)
    addresses = hub.values("addresses", values.remote, 0, 8)
    own = numeric(host)
    if own is not None and addresses:
        raise hub.fault("addresses", "addresses stand beside a name, and the host is an address")
    rpc, trust, leaf = (
        hub.number(field, *_PORT, default)
        for field, default in (("rpc_port", RPC_PORT), ("trust_port", TRUST_PORT), ("leaf_port", LEAF_PORT))
    )
    if len({rpc, trust, leaf}) < 3:
        raise hub.fault("leaf_port" if leaf in (rpc, trust) else "trust_port", "two ports of the hub are the same")
    return HubEndpoints(host, addresses if own is None else (own,), rpc, trust, leaf)


def _trust(table: Table) -> Trust:
    hub_ca = table.value("hub_ca", values.hub_ca_certificate)
    operators = table.values("operators", values.public_key, 2, 3)
    trust = Trust(hub_ca, operators, table.values("authorities", values.ca_certificate, 0, 16))
    table.end()
    return trust


def _check_uplink(root: Table, air_gapped: bool, interfaces: Interfaces) -> None:
    if air_gapped and Role.UPLINK in interfaces:
        raise interfaces[Role.UPLINK][1].fault(None, "an air-gapped box has no uplink")
    if not air_gapped and Role.UPLINK not in interfaces:
        raise root.fault(
            "interfaces", "[interfaces.uplink] is missing; allowed without it: air_gapped = true in [site]"
        )


def _listener(table: Table | None, interfaces: Interfaces) -> PlantListener | None:
    if table is None:
        return None
    if Role.PLANT not in interfaces:
        raise table.fault(None, "needs [interfaces.plant]: nothing listens on the uplink")
    address = table.value("address", values.remote)
    nats, https = table.number("nats_port", *_PORT, NATS_PORT), table.number("https_port", *_PORT, HTTPS_PORT)
    plant = interfaces[Role.PLANT][0]
    if address not in [each.ip for each in plant.addresses]:
        raise table.fault("address", f"address {str(address)!r} is none of the plant interface")
    if nats == https:
        raise table.fault("https_port", "https_port is the same as nats_port")
    table.end()
    return PlantListener(address, nats, https)


def _dns(table: Table | None, air_gapped: bool) -> Dns:
    if table is None:
        return Dns()
    if air_gapped:
        raise table.fault(None, "is nothing for an air-gapped box: it looks up no names")
    dns = Dns(table.values("servers", values.remote, 1, 3), table.values("search", values.dns_name, 0, 6))
    table.end()
    return dns


def _time(table: Table | None) -> TimeServers:
    if table is None:
        return TimeServers()
    found = TimeServers(table.values("nts", values.dns_name, 0, 8), table.values("ntp", values.host, 0, 8))
    if not found.nts and not found.ntp:
        raise table.fault(None, "needs nts or ntp")
    table.end()
    return found


def _proxy(table: Table | None, air_gapped: bool) -> Proxy | None:
    if table is None:
        return None
    if air_gapped:
        raise table.fault(None, "is nothing for an air-gapped box")
    proxy = Proxy(table.value("host", values.host), table.number("port", *_PORT))
    table.end()
    return proxy


def _policy(root: Table, zone: ZoneId, hub: ZoneId) -> ZonePolicy:
    categories, peers = root.section("categories"), root.section("peers")
    if categories is None or not categories.fields():
        raise root.fault(None, "[categories.…] is missing: a box has at least one category")
    found = {}
    for name in categories.fields():
        try:
            category = parse_category(name)
        except RefusedError as error:
            raise categories.fault(name, error.detail) from error
        found[category] = category_policy(categories.need(name))
    if peers is None or not peers.has(hub):
        raise root.fault("peers", f"[peers.{hub}] is missing: what the hub may do")
    if other := next((name for name in peers.fields() if name != hub), None):
        raise peers.fault(other, f"{other!r} is not the hub; a box has one peer, and that is {hub!r}")
    policy = ZonePolicy(zone, found, peer_policies(peers))
    if unknown := sorted(policy.peers[hub].fetch - found.keys()):
        raise peers.fault(hub, f"fetch: {unknown[0]!r} needs a table [categories.{unknown[0]}]", "fetch")
    return policy


def _console(table: Table | None) -> Console:
    if table is None:
        return Console()
    console = Console(table.take("show_addresses", bool, default=True))
    table.end()
    return console


def _check_reach(root: Table, config: SiteConfig) -> None:
    """Whether what is named can be found, and lies where it must."""
    needs = _names(config)
    if needs and not config.dns.servers:
        table, field, name = needs[0]
        raise root.fault(table, f"[{table}] {field}: {name!r} is a name, and there is no [dns] to look it up", field)
    if config.proxy is not None:
        proxy = numeric(config.proxy.host)
        _check_boundary(root, config, ("proxy", "host"), () if proxy is None else (proxy,))
        if config.endpoints is not None and not config.endpoints.addresses:
            why = "behind a proxy the control plane dials the hub by address; name at least one"
            raise root.fault("hub", f"[hub] addresses: {why}", "host")
    elif config.endpoints is not None:
        where = ("hub", "host" if numeric(config.endpoints.host) else "addresses")
        _check_boundary(root, config, where, config.endpoints.addresses)
    others = [("dns", "servers", str(server)) for server in config.dns.servers]
    others += [("time", "ntp", server) for server in config.time.ntp]
    for table, field, server in others:
        address = numeric(server)
        if address is not None and not any(reaches(interface, address) for interface in config.interfaces):
            raise root.fault(table, f"[{table}] {field}: no interface has a route to {server}", field)


def _names(config: SiteConfig) -> list[tuple[str, str, str]]:
    """What must be looked up: table, field, name."""
    found = []
    if config.proxy is not None:
        found.append(("proxy", "host", config.proxy.host))
    elif config.endpoints is not None and not config.endpoints.addresses:
        found.append(("hub", "host", config.endpoints.host))
    found += [("time", "nts", name) for name in config.time.nts]
    found += [("time", "ntp", name) for name in config.time.ntp]
    return [(table, field, name) for table, field, name in found if numeric(name) is None]


def _check_boundary(root: Table, config: SiteConfig, where: tuple[str, str], addresses: tuple[Address, ...]) -> None:
    """The way to the hub is the uplink, and no other."""
    table, field = where
    for address in addresses:
        for interface in config.interfaces:
            if address in [each.ip for each in interface.addresses]:
                raise root.fault(table, f"[{table}] {field}: {address} is this box itself", field)
        if config.plant is not None and lies_behind(config.plant, address):
            raise root.fault(table, f"[{table}] {field}: {address} is on the plant's side, not the uplink's", field)
    if addresses and config.uplink is not None and not any(reaches(config.uplink, each) for each in addresses):
        raise root.fault(table, f"[{table}] {field}: the uplink has no route to {addresses[0]}", field)


def lies_behind(interface: Interface, address: Address) -> bool:
    """Whether an address is in a network of an interface, or in one that its routes name."""
    return any(address in net for net in (*networks_of(interface), *(route.to for route in interface.routes)))


def reaches(interface: Interface, address: Address) -> bool:
    """Whether packets to an address can leave by an interface, as far as this document says."""
    version = address.version
    return interface.learns(version) or interface.gateway(version) is not None or lies_behind(interface, address)
