# SPDX-License-Identifier: Apache-2.0
"""What systemd-networkd and udev are told: the files of ``/run/systemd/network``, from a site configuration alone.

Each role's device is ``uplink0`` or ``plant0``, whatever it stands on. A port gets its name by a ``.link`` file, which
udev applies when the port appears; for ports that are there already::

    udevadm control --reload
    udevadm trigger --subsystem-match=net --action=add --settle

Nothing here listens: no LLMNR, no mDNS, no LLDP, no DHCP server. Name servers, time servers, domains and host names
that DHCP or a router offers are not used: nobody signed them. Ports that no role stands on are kept down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from appliance.site.config import Address, Bond, BondMode, Interface, MatchBy, Port, Role, SiteConfig, V4Mode, V6Mode

Entries = Iterable[tuple[str, object]]

_HEAD: Final = "# Made from the site configuration by bsfg.\n"
_MATCH: Final = {MatchBy.MAC: "PermanentMACAddress", MatchBy.NAME: "OriginalName", MatchBy.DRIVER: "Driver"}
_QUIET: Final = (("LLMNR", "no"), ("MulticastDNS", "no"), ("LLDP", "no"), ("EmitLLDP", "no"))
_DEAF: Final = (("DHCP", "no"), ("IPv6AcceptRA", "no"), ("LinkLocalAddressing", "no"), *_QUIET)
_ONLINE: Final = ("RequiredForOnline", "no")
"""Nothing of ours waits for a link: local work needs none."""
_UNASKED: Final = ("UseDNS", "UseNTP", "UseSIP", "UseDomains", "UseHostname", "SendHostname", "UseMTU", "UseTimezone")


def base_device(config: SiteConfig, base: Port | Bond) -> str:
    """The name of the device a role stands on: the role's own, unless only VLANs are on it."""
    for interface in config.interfaces:
        if interface.base == base and interface.vlan is None:
            return interface.device
    first = next(interface for interface in config.interfaces if interface.base == base)
    return f"{first.role.value}-bond" if isinstance(base, Bond) else port_device(config, base)


def port_device(config: SiteConfig, port: Port) -> str:
    """The name a physical port gets: of the role that is alone on it, else ``port0`` and so on."""
    for interface in config.interfaces:
        if interface.base == port and interface.vlan is None:
            return interface.device
    return f"port{all_ports(config).index(port)}"


def all_ports(config: SiteConfig) -> list[Port]:
    """The physical ports in use, each once, uplink first."""
    found: list[Port] = []
    for interface in config.interfaces:
        found += [port for port in interface.ports if port not in found]
    return found


def uplink_ports(config: SiteConfig) -> list[str]:
    """The names of the physical ports that packets to the hub leave by."""
    return [] if config.uplink is None else [port_device(config, port) for port in config.uplink.ports]


def network_files(config: SiteConfig) -> Mapping[str, str]:
    """Every file by its name; in all of them each line is made here or from a parsed value."""
    files = {"90-bsfg-unused.network": _unused()}
    if config.listener is not None:
        files["10-bsfg-lo.network"] = _loopback(config.listener.address)
    for port in all_ports(config):
        files[f"10-bsfg-{port_device(config, port)}.link"] = _link(config, port)
    for base in _bases(config):
        device = base_device(config, base)
        if isinstance(base, Bond):
            files[f"20-bsfg-{device}.netdev"] = _bond(device, base)
            for port in base.members:
                member = port_device(config, port)
                files[f"30-bsfg-{member}.network"] = _carrier(config, base, member, [("Bond", device)])
        if all(interface.vlan is not None for interface in _on(config, base)):
            files[f"30-bsfg-{device}.network"] = _carrier(config, base, device, _vlans(config, base))
    for interface in config.interfaces:
        if interface.vlan is not None:
            files[f"20-bsfg-{interface.device}.netdev"] = _vlan(interface)
        files[f"30-bsfg-{interface.device}.network"] = _role(config, interface)
    return dict(sorted(files.items()))


def _bases(config: SiteConfig) -> list[Port | Bond]:
    found: list[Port | Bond] = []
    for interface in config.interfaces:
        if interface.base not in found:
            found.append(interface.base)
    return found


def _on(config: SiteConfig, base: Port | Bond) -> list[Interface]:
    return [interface for interface in config.interfaces if interface.base == base]


def _vlans(config: SiteConfig, base: Port | Bond) -> list[tuple[str, object]]:
    return [("VLAN", interface.device) for interface in _on(config, base) if interface.vlan is not None]


def _link(config: SiteConfig, port: Port) -> str:
    match = [(_MATCH[port.by], port.value)]
    if port.by is not MatchBy.MAC:
        match.append(("Type", "ether"))
    policy = ("AlternativeNamesPolicy", "database onboard slot path")  # the name on the technician's sheet stays known
    link = [("Name", port_device(config, port)), policy, ("WakeOnLan", "off")]
    return _render(("Match", match), ("Link", link))


def _loopback(address: Address) -> str:
    """The plant's address as well, so that a pulled cable does not end local work; the kernel's own stay."""
    network = [("KeepConfiguration", "yes"), ("Address", f"{address}/{address.max_prefixlen}")]
    return _render(("Match", [("Name", "lo")]), ("Link", [_ONLINE]), ("Network", network))


def _unused() -> str:
    return _render(
        ("Match", [("Name", "*"), ("Type", "ether")]), ("Link", [("ActivationPolicy", "always-down"), _ONLINE])
    )


def _bond(device: str, bond: Bond) -> str:
    settings: list[tuple[str, object]] = [("Mode", bond.mode), ("MIIMonitorSec", "100ms")]
    if bond.mode is BondMode.LACP:
        settings += [("LACPTransmitRate", "fast"), ("TransmitHashPolicy", "layer3+4")]
    return _render(("NetDev", [("Name", device), ("Kind", "bond")]), ("Bond", settings))


def _vlan(interface: Interface) -> str:
    netdev = [("Name", interface.device), ("Kind", "vlan")]
    return _render(("NetDev", netdev), ("VLAN", [("Id", interface.vlan)]))


def _carrier(config: SiteConfig, base: Port | Bond, device: str, carries: Entries) -> str:
    """A device without an address of its own."""
    return _render(
        ("Match", [("Name", device)]),
        ("Link", [*_mtu(_on(config, base)), _ONLINE]),
        ("Network", [*carries, *_DEAF]),
    )


def _role(config: SiteConfig, interface: Interface) -> str:
    ipv4, ipv6 = interface.ipv4, interface.ipv6
    shares = _on(config, interface.base) if interface.vlan is None else [interface]
    network: list[tuple[str, object]] = [
        ("DHCP", "ipv4" if ipv4.mode is V4Mode.DHCP else "no"),
        ("IPv6AcceptRA", "yes" if ipv6.mode is V6Mode.SLAAC else "no"),
        ("LinkLocalAddressing", "no" if ipv6.mode is V6Mode.OFF else "ipv6"),
        ("IPv6PrivacyExtensions", "no"),
        *_QUIET,
    ]
    network += [("Address", address.with_prefixlen) for address in interface.addresses]
    network += [("Gateway", gateway) for gateway in (ipv4.gateway, ipv6.gateway) if gateway is not None]
    if interface.vlan is None:
        network += _vlans(config, interface.base)
    parts: list[tuple[str, Entries]] = [
        ("Match", [("Name", interface.device)]),
        ("Link", [*_mtu(shares), _ONLINE]),
        ("Network", network),
    ]
    routed = "yes" if interface.role is Role.UPLINK or config.air_gapped else "no"  # the way out is the uplink's alone
    if ipv4.mode is V4Mode.DHCP:
        refused = [(option, "no") for option in _UNASKED]
        parts.append(("DHCPv4", [("ClientIdentifier", "mac"), *refused, ("UseGateway", routed), ("UseRoutes", routed)]))
    if ipv6.mode is V6Mode.SLAAC:
        refused = [("DHCPv6Client", "no"), ("UseDNS", "no"), ("UseDomains", "no")]
        parts.append(("IPv6AcceptRA", [*refused, ("UseGateway", routed), ("UseRoutePrefix", routed)]))
    parts += [("Route", [("Destination", route.to), ("Gateway", route.via)]) for route in interface.routes]
    return _render(*parts)


def _mtu(interfaces: list[Interface]) -> list[tuple[str, object]]:
    """The largest of what stands on one device: what is on it cannot be larger."""
    sizes = [interface.mtu for interface in interfaces if interface.mtu is not None]
    return [("MTUBytes", max(sizes))] if sizes else []


def _render(*parts: tuple[str, Entries]) -> str:
    sections = ["".join([f"[{name}]\n", *(f"{key}={value}\n" for key, value in entries)]) for name, entries in parts]
    return _HEAD + "\n".join(sections)
