# SPDX-License-Identifier: Apache-2.0
"""What a site configuration means, for people and programs: every field with its value, and what changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from appliance.site.config import SiteConfig
from appliance.site.egress import egress, ingress, names_to_resolve
from appliance.site.values import certificate_name, key_name


def flat(config: SiteConfig) -> dict[str, str]:
    """Every value by its dotted name, in the order of the document; keys and certificates by their short names."""
    policy, found = config.policy, _rows("", _plain(config))
    for category, each in policy.categories.items():
        found |= _rows(f"categories.{category}", _plain(each))
    for zone, peer in policy.peers.items():
        found[f"peers.{zone}.fetch"] = ", ".join(sorted(peer.fetch)) or "-"
        found[f"peers.{zone}.append"] = ", ".join(sorted(peer.append)) or "-"
    return found


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


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, texts of keys by name."""
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value) if each.name != "policy"}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value.startswith("-----BEGIN"):
        return key_name(value) if "PUBLIC KEY" in value else certificate_name(value)
    return value


def _rows(prefix: str, value: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, each in value.items():
        path = f"{prefix}.{name}" if prefix else name
        if isinstance(each, Mapping):
            found |= _rows(path, each)
        elif isinstance(each, list) and each and isinstance(each[0], Mapping):
            for index, item in enumerate(each):
                found |= _rows(f"{path}.{index}", item)
        elif isinstance(each, list):
            found[path] = ", ".join(map(_text, each)) or "-"
        else:
            found[path] = _text(each)
    return found


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
