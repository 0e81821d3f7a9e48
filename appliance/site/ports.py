# SPDX-License-Identifier: Apache-2.0
"""Whether the ports that a site configuration names are in the box: said before anybody looks for a cable fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.site.config import MatchBy, Port, SiteConfig
from appliance.site.network import all_ports, port_device

NET: Final = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class FoundPort:
    """A physical port of the box. :param mac: lower case. :param other_names: by which Linux knows it as well."""

    name: str
    mac: str
    driver: str
    other_names: tuple[str, ...] = ()


def found_ports(root: Path = NET) -> list[FoundPort]:
    """The ports that have a device behind them, by name. Other names and permanent addresses are not in these files."""
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        device = folder / "device"
        if not device.exists():
            continue
        driver = device / "driver"
        mac = (folder / "address").read_text("ascii").strip().lower()
        found.append(FoundPort(folder.name, mac, driver.resolve().name if driver.exists() else ""))
    return found


def missing_ports(config: SiteConfig, found: Sequence[FoundPort]) -> list[str]:
    """What is wrong with the ports, a sentence each, for people; empty: each is there, and only once."""
    problems = []
    for port in all_ports(config):
        matches = [each.name for each in found if _matches(port, port_device(config, port), each)]
        if not matches:
            there = ", ".join(f"{each.name} {each.mac} {each.driver}" for each in found) or "none"
            problems.append(f"no port has {port.by} {port.value}; there are: {there}")
        elif len(matches) > 1:
            problems.append(f"{port.by} {port.value} is of several ports: {', '.join(matches)}; name one by its mac")
    return problems


def _matches(port: Port, ours: str, found: FoundPort) -> bool:
    if port.by is MatchBy.MAC:
        return found.mac == port.value
    if port.by is MatchBy.DRIVER:
        return found.driver == port.value
    return port.value in (found.name, *found.other_names) or found.name == ours
