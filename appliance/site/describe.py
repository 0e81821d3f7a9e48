# SPDX-License-Identifier: Apache-2.0
"""What a site configuration means, for people and programs: every field with its value, and what changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.site.config import Bond, Interface, SiteConfig
from appliance.site.egress import egress, ingress, names_to_resolve
from appliance.site.values import certificate_name, key_name


def flat(config: SiteConfig) -> dict[str, str]:
    """Every value by the name it has in the document, defaults included; keys and certificates by their short names.

    A value is text; ``-`` is none; entries of a list are set apart by commas.
    """
    return _rows("", _document(config))


def changes(old: SiteConfig | None, new: SiteConfig) -> list[tuple[str, str, str]]:
    """What differs: name, old and new value, ``-`` where there is none."""
    before, after = {} if old is None else flat(old), flat(new)
    names = dict.fromkeys((*after, *before))
    rows = [(name, before.get(name, "-"), after.get(name, "-")) for name in names]
    return [row for row in rows if row[1] != row[2]]


def meaning(config: SiteConfig) -> dict[str, Any]:
    """What follows from it, for programs: values, where the box dials, who may dial in."""
    return {
        "zone": config.zone,
        "version": config.version,
        "air_gapped": config.air_gapped,
        "values": flat(config),
        "egress": [
            {"purpose": each.purpose, "protocol": each.protocol, "host": each.host, "port": each.port}
            | {"users": list(each.users), "addresses": [str(address) for address in each.addresses]}
            for each in egress(config)
        ],
        "ingress": [
            {"purpose": each.purpose, "device": each.device, "address": str(each.address), "port": each.port}
            for each in ingress(config)
        ],
        "names_to_resolve": list(names_to_resolve(config)),
    }


def _document(config: SiteConfig) -> dict[str, Any]:
    """The tables of the document, with values where it may have left them out."""
    hub, listener, trust, policy = config.endpoints, config.listener, config.trust, config.policy
    tables: dict[str, Any] = {
        "site": {"version": config.version, "zone": config.zone, "name": config.name, "air_gapped": config.air_gapped}
        | {"signers": [key_name(pem) for pem in config.signers]},
        "hub": {"zone": config.hub},
        "trust": {
            "hub_ca": certificate_name(trust.hub_ca),
            "operators": [key_name(pem) for pem in trust.operators],
            "authorities": [certificate_name(pem) for pem in trust.authorities],
        },
        "interfaces": {interface.role: _interface(interface) for interface in config.interfaces},
        "dns": {"servers": config.dns.servers, "search": config.dns.search},
        "time": {"nts": config.time.nts, "ntp": config.time.ntp},
    }
    if hub is not None:
        ports = {"rpc_port": hub.rpc, "trust_port": hub.trust, "leaf_port": hub.leaf}
        tables["hub"] |= {"host": hub.host, "addresses": hub.addresses} | ports
    if config.proxy is not None:
        tables["proxy"] = {"host": config.proxy.host, "port": config.proxy.port}
    if listener is not None:
        tables["plant"] = {"address": listener.address, "nats_port": listener.nats, "https_port": listener.https}
    tables["categories"] = {
        name: {"when_full": each.when_full, "max_bytes": each.max_bytes, "max_age_s": each.max_age_s}
        for name, each in policy.categories.items()
    }
    tables["peers"] = {
        zone: {"fetch": sorted(each.fetch), "append": sorted(each.append)} for zone, each in policy.peers.items()
    }
    tables["applications"] = {
        each.name: {
            "role": each.role,
            "categories": "-" if not each.produces else "all" if each.categories is None else sorted(each.categories),
            "token_sha256": None if each.token is None else each.token.hex(),
            "nats_signer": each.signer,
        }
        for each in config.applications
    }
    return tables | {"console": {"show_addresses": config.console.show_addresses}}


def _interface(interface: Interface) -> dict[str, Any]:
    base = interface.base
    if isinstance(base, Bond):
        members = [f"{port.by} {port.value}" for port in base.members]
        found: dict[str, Any] = {"bond": {"mode": base.mode, "members": members}}
    else:
        found = {base.by: base.value}
    for name, version in (("ipv4", interface.ipv4), ("ipv6", interface.ipv6)):
        addresses = [str(address) for address in version.addresses]
        found[name] = {"mode": version.mode, "addresses": addresses, "gateway": version.gateway}
    routes = [f"{route.to} via {route.via}" for route in interface.routes]
    return found | {"vlan": interface.vlan, "mtu": interface.mtu, "routes": routes}


def _rows(prefix: str, value: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, each in value.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(each, Mapping):
            found |= _rows(path, each)
        elif isinstance(each, list | tuple):
            found[path] = ", ".join(map(_text, each)) or "-"
        else:
            found[path] = _text(each)
    return found


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
