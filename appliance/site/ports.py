# SPDX-License-Identifier: Apache-2.0
"""The ports that a site configuration names, for whoever sees whether they are in the box: the status page.

The program that applies the configuration cannot say: it runs before the kernel has found them all.
"""

from __future__ import annotations

from appliance.site.config import SiteConfig
from appliance.site.network import all_ports, port_device


def named_ports(config: SiteConfig) -> list[dict[str, str]]:
    """Each physical port once, as status documents have it: role, device, how it is named, and by what.

    One that both roles stand on, by VLAN, is the uplink's.
    """
    found = []
    for port in all_ports(config):
        role = next(interface.role for interface in config.interfaces if port in interface.ports)
        found.append({"role": str(role), "device": port_device(config, port), "by": str(port.by), "value": port.value})
    return found
