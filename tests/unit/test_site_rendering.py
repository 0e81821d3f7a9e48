# SPDX-License-Identifier: Apache-2.0
"""What networkd, resolver, hosts, chrony and firewall are told: exact texts, and rules that hold for every document."""

from __future__ import annotations

import configparser
import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.site.config import SiteConfig
from appliance.site.describe import changes, flat, meaning
from appliance.site.egress import SETS, Purpose, egress, ingress, names_to_resolve, nft_script, nft_sets
from appliance.site.network import all_ports, base_device, network_files, port_device, uplink_ports
from appliance.site.ports import named_ports
from appliance.site.reading import read_site
from appliance.site.services import chrony_conf, hosts, resolv_conf, site_authorities
from tests import sites

HEAD = "# Made from the site configuration by bsfg.\n"
QUIET = "LLMNR=no\nMulticastDNS=no\nLLDP=no\nEmitLLDP=no\n"
ONLINE = "RequiredForOnline=no\n"


def edited(name: str, *pairs: tuple[str, str]) -> SiteConfig:
    """An example with something replaced."""
    text = sites.example(name)
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return read_site(text.encode(), name)


def network(config: SiteConfig, name: str) -> str:
    """A file without its head."""
    return network_files(config)[name].removeprefix(HEAD)


# -- networkd ----------------------------------------------------------------------------------------------------------


def test_two_ports_with_static_addresses() -> None:
    """Names by role, the route of the plant, and its address on ``lo`` as well."""
    config = sites.config("two-nics")
    assert list(network_files(config)) == [
        "10-bsfg-lo.network", "10-bsfg-plant0.link", "10-bsfg-uplink0.link",
        "30-bsfg-plant0.network", "30-bsfg-uplink0.network", "90-bsfg-unused.network",
    ]  # fmt: skip
    assert network(config, "10-bsfg-uplink0.link") == (
        "[Match]\nPermanentMACAddress=00:00:5e:00:53:01\n\n"
        "[Link]\nName=uplink0\nAlternativeNamesPolicy=database onboard slot path\nWakeOnLan=off\n"
    )
    assert network(config, "30-bsfg-uplink0.network") == (
        f"[Match]\nName=uplink0\n\n[Link]\n{ONLINE}\n"
        f"[Network]\nDHCP=no\nIPv6AcceptRA=no\nLinkLocalAddressing=no\nIPv6PrivacyExtensions=no\n{QUIET}"
        "Address=192.0.2.20/24\nGateway=192.0.2.1\n"
    )
    plant = network(config, "30-bsfg-plant0.network")
    assert plant.endswith("Address=192.168.10.5/24\n\n[Route]\nDestination=192.168.20.0/24\nGateway=192.168.10.1\n")
    assert network(config, "10-bsfg-lo.network") == (
        f"[Match]\nName=lo\n\n[Link]\n{ONLINE}\n[Network]\nKeepConfiguration=yes\nAddress=192.168.10.5/32\n"
    )
    assert "fd00:10::5/128" in network(sites.config("ipv6"), "10-bsfg-lo.network")
    assert uplink_ports(config) == ["uplink0"]


def test_both_roles_on_one_bond() -> None:
    """The bond carries two VLANs and no address; both ports are its members."""
    config = sites.config("vlan-one-nic")
    assert network(config, "20-bsfg-uplink-bond.netdev") == (
        "[NetDev]\nName=uplink-bond\nKind=bond\n\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n"
    )
    assert network(config, "20-bsfg-plant0.netdev") == "[NetDev]\nName=plant0\nKind=vlan\n\n[VLAN]\nId=30\n"
    carrier = network(config, "30-bsfg-uplink-bond.network")
    assert "VLAN=uplink0\nVLAN=plant0\nDHCP=no\n" in carrier
    assert "Address=" not in carrier
    assert "MTUBytes=1500\n" in carrier  # what is on it cannot be larger
    for port in ("port0", "port1"):
        assert "Bond=uplink-bond\n" in network(config, f"30-bsfg-{port}.network")
    assert uplink_ports(config) == ["port0", "port1"]


def test_both_roles_on_one_port() -> None:
    """With one of them untagged the port is that role's device; with none it is a port."""
    bond = re.compile(r"\[interfaces\.(\w+)\.bond\].*?\nmembers = .*?\n", re.DOTALL)
    text = bond.sub("", sites.example("vlan-one-nic"))
    text = text.replace("vlan = 20", 'vlan = 20\nmac = "00:00:5e:00:53:01"')
    text = text.replace("vlan = 30", 'vlan = 30\nmac = "00:00:5e:00:53:01"')
    tagged = read_site(text.encode(), "x")
    assert port_device(tagged, all_ports(tagged)[0]) == "port0"
    assert "VLAN=uplink0\nVLAN=plant0\n" in network(tagged, "30-bsfg-port0.network")
    untagged = read_site(text.replace("vlan = 20\n", "").encode(), "x")
    assert "VLAN=plant0\n" in network(untagged, "30-bsfg-uplink0.network")
    assert "Address=192.0.2.20/24\n" in network(untagged, "30-bsfg-uplink0.network")
    assert "20-bsfg-uplink0.netdev" not in network_files(untagged)
    assert uplink_ports(untagged) == ["uplink0"]
    assert base_device(untagged, all_ports(untagged)[0]) == "uplink0"


def test_a_bond_of_one_role() -> None:
    """Untagged, it is the role's device; LACP has its settings."""
    text = sites.example("vlan-one-nic").replace('"active-backup"', '"802.3ad"')
    text = text.replace("[interfaces.plant]\nvlan = 30", '[interfaces.plant]\nname = "eth7"')
    text = re.sub(r"\[interfaces\.plant\.bond\].*?\nmembers = .*?\n", "", text, flags=re.DOTALL)
    config = read_site(text.replace("vlan = 20\n", "").encode(), "x")
    bond = network(config, "20-bsfg-uplink0.netdev")
    assert bond.startswith("[NetDev]\nName=uplink0\nKind=bond\n")
    assert bond.endswith("Mode=802.3ad\nMIIMonitorSec=100ms\nLACPTransmitRate=fast\nTransmitHashPolicy=layer3+4\n")
    assert "Address=192.0.2.20/24\n" in network(config, "30-bsfg-uplink0.network")
    assert "OriginalName=eth7\nType=ether\n" in network(config, "10-bsfg-plant0.link")


def test_dhcp_gives_an_address_and_a_router_and_no_more() -> None:
    """On the plant's side not even a router."""
    up = network(sites.config("single-site"), "30-bsfg-uplink0.network")
    assert "DHCP=ipv4\n" in up
    for option in ("DNS", "NTP", "SIP", "Domains", "Hostname", "MTU", "Timezone"):
        assert f"Use{option}=no\n" in up
    assert up.endswith("SendHostname=no\nUseMTU=no\nUseTimezone=no\nUseGateway=yes\nUseRoutes=yes\n")
    static = 'mode = "static"\naddresses = ["192.168.10.5/24"]\n\n[[interfaces.plant.routes]]\nto = "192.168.20.0/24"'
    learnt = ('via = "192.168.10.1"', "")
    plant = edited("two-nics", (static, 'mode = "dhcp"'), learnt, ('[plant]\naddress = "192.168.10.5"', ""))
    assert network(plant, "30-bsfg-plant0.network").endswith("UseGateway=no\nUseRoutes=no\n")
    assert "10-bsfg-lo.network" not in network_files(plant)


def test_router_advertisements() -> None:
    """For the uplink; a static role does not hear them."""
    config = sites.config("ipv6")
    up, plant = (network(config, f"30-bsfg-{device}.network") for device in ("uplink0", "plant0"))
    assert up.endswith(
        "[IPv6AcceptRA]\nDHCPv6Client=no\nUseDNS=no\nUseDomains=no\nUseGateway=yes\nUseRoutePrefix=yes\n"
    )
    assert "IPv6AcceptRA=yes\nLinkLocalAddressing=ipv6\n" in up
    assert "MTUBytes=1400\n" in up
    assert "IPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n" in plant
    assert "Address=192.168.10.5/24\nAddress=fd00:10::5/64\n" in plant


@pytest.mark.parametrize("name", sites.NAMES)
def test_rules_of_every_file(name: str) -> None:
    """Nothing listens, devices have a file each, unused ports are down, and files are what systemd reads."""
    config = sites.config(name)
    files = network_files(config)
    for file, text in files.items():
        parser = configparser.RawConfigParser(strict=False)
        parser.read_string(text)
        assert parser.sections()[0] in ("Match", "NetDev")
        if file.endswith(".network") and "unused" not in file and "-lo." not in file:
            assert QUIET in text
        assert "DHCPServer" not in text
        assert "UseDNS=yes" not in text
    assert "ActivationPolicy=always-down" in files["90-bsfg-unused.network"]
    made = {interface.device for interface in config.interfaces} | {port_device(config, p) for p in all_ports(config)}
    assert all(f"30-bsfg-{device}.network" in files for device in made)
    assert all(len(device) <= 15 for device in made)


# -- resolver, hosts, time ---------------------------------------------------------------------------------------------


def test_resolver() -> None:
    """Only what the document names."""
    assert resolv_conf(sites.config("proxy")) == (
        f"{HEAD}nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch plant-b.example.com\n"
        "options timeout:2 attempts:2 edns0\n"
    )
    assert "nameserver" not in resolv_conf(sites.config("air-gapped"))


def test_hosts() -> None:
    """The hub by the name in its certificate: fixed, looked up, or not known yet."""
    local = f"{HEAD}127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
    assert hosts(sites.config("two-nics")) == f"{local}203.0.113.10 enterprise-bsfg hub.example.com\n"
    assert hosts(sites.config("ipv6")) == f"{local}2001:db8:1::10 enterprise-bsfg\n"
    assert hosts(sites.config("single-site")) == local
    found = {"hub.example.com": (ip_address("203.0.113.7"), ip_address("2001:db8::7"))}
    assert (
        hosts(sites.config("single-site"), found)
        == f"{local}203.0.113.7 enterprise-bsfg\n2001:db8::7 enterprise-bsfg\n"
    )
    assert hosts(sites.config("air-gapped")) == local


def test_chrony() -> None:
    """NTS with the site's CA; it serves nobody and takes no commands by network; without servers it does not run."""
    assert chrony_conf(sites.config("proxy"), Path("/run/bsfg/config/site-ca.pem")) == (
        f"{HEAD}server time.plant-b.example.com iburst nts\nnocerttimecheck 1\nntsdumpdir /var/lib/chrony\n"
        "ntstrustedcerts /run/bsfg/config/site-ca.pem\ndriftfile /var/lib/chrony/chrony.drift\n"
        "makestep 1.0 3\nrtcsync\nport 0\ncmdport 0\n"
    )
    plain = chrony_conf(sites.config("two-nics"))
    assert plain is not None
    assert "server 192.0.2.123 iburst\n" in plain
    assert "nts" not in plain
    assert chrony_conf(sites.config("vlan-one-nic")) is None
    assert site_authorities(sites.config("proxy")) == sites.authority("site")
    assert site_authorities(sites.config("two-nics")) == ""


# -- allow-lists -------------------------------------------------------------------------------------------------------


def test_egress_of_a_fixed_hub() -> None:
    """Three ports of the hub, each for its user, and the time."""
    found = [(e.purpose, e.protocol, e.host, e.port, e.users) for e in egress(sites.config("two-nics"))]
    assert found == [
        ("hub", "tcp", "hub.example.com", 8443, ("bsfg-agent",)),
        ("hub", "tcp", "hub.example.com", 8444, ("bsfg-agent", "bsfg-enrol")),
        ("hub", "tcp", "hub.example.com", 7422, ("bsfg-control",)),
        ("time", "udp", "192.0.2.123", 123, ("_chrony",)),
    ]
    assert names_to_resolve(sites.config("two-nics")) == ()
    sets = nft_sets(sites.config("two-nics"))
    assert sets["hub4"] == ("203.0.113.10 . 8443", "203.0.113.10 . 8444", "203.0.113.10 . 7422")
    assert sets["time4"] == ("192.0.2.123 . 123",)
    assert sets["plant_ingress"] == ('"plant0" . 4222', '"plant0" . 8443')
    assert [(i.device, str(i.address), i.port) for i in ingress(sites.config("two-nics"))] == [
        ("plant0", "192.168.10.5", 4222),
        ("plant0", "192.168.10.5", 8443),
    ]


def test_egress_of_a_named_hub() -> None:
    """Nothing is open before the names are looked up; then exactly what they stand for."""
    config = sites.config("single-site")
    assert names_to_resolve(config) == ("hub.example.com", "nts.example.com")
    sets = nft_sets(config)
    assert {name for name, elements in sets.items() if elements} == {"resolver4"}
    found = {"hub.example.com": [ip_address("2001:db8::7")], "nts.example.com": [ip_address("192.0.2.99")]}
    sets = nft_sets(config, {**found, "other.example.com": [ip_address("192.0.2.66")]})
    assert sets["hub6"] == ("2001:db8::7 . 8443", "2001:db8::7 . 8444", "2001:db8::7 . 7422")
    assert sets["time4"] == ("192.0.2.99 . 4460", "192.0.2.99 . 123")
    assert not sets["hub4"]
    assert "192.0.2.66" not in str(sets)
    dhcp = [each for each in egress(config) if each.purpose is Purpose.DHCP]
    assert [(each.port, each.users) for each in dhcp] == [(67, ("systemd-network",))]


def test_behind_a_proxy_the_hub_is_not_dialled() -> None:
    """Not by address, and its name is not looked up."""
    config = sites.config("proxy")
    assert "hub.example.com" not in names_to_resolve(config)
    assert {each.host for each in egress(config) if each.purpose in (Purpose.HUB, Purpose.PROXY)} == {
        "proxy.plant-b.example.com"
    }
    found = hosts(config, {"proxy.plant-b.example.com": [ip_address("192.0.2.30")]})
    assert "192.0.2.30 proxy.plant-b.example.com\n" in found
    assert "203.0.113.10 enterprise-bsfg hub.example.com\n" in found


def test_an_air_gapped_box_dials_nothing_but_its_clock() -> None:
    """And the document cannot say otherwise."""
    assert [(each.purpose, each.host) for each in egress(sites.config("air-gapped"))] == [("time", "192.168.10.2")]


@pytest.mark.parametrize("name", sites.NAMES)
def test_every_set_is_there_and_replaced_as_a_whole(name: str) -> None:
    """One transaction: flushed first, then filled; elements have the set's version of IP."""
    sets = nft_sets(sites.config(name))
    assert tuple(sets) == SETS
    script = nft_script(sets).splitlines()
    assert script[: len(SETS)] == [f"flush set inet bsfg {each}" for each in SETS]
    assert len(script) == len(SETS) + sum(1 for elements in sets.values() if elements)
    for each, elements in sets.items():
        if each != "plant_ingress":
            assert {str(ip_address(e.split(" . ")[0]).version) for e in elements} <= {each[-1]}


# -- ports that are named ----------------------------------------------------------------------------------------------


def test_named_ports() -> None:
    """Each once, with its role, the name that it gets, and how the site knows it."""
    mac = "00:00:5e:00:53:0"
    assert named_ports(sites.config("two-nics")) == [
        {"role": "uplink", "device": "uplink0", "by": "mac", "value": f"{mac}1"},
        {"role": "plant", "device": "plant0", "by": "mac", "value": f"{mac}2"},
    ]
    assert [(each["role"], each["by"], each["value"]) for each in named_ports(sites.config("air-gapped"))] == [
        ("plant", "driver", "igb")
    ]
    for name in sites.NAMES:
        config = sites.config(name)
        assert [each["device"] for each in named_ports(config)] == [port_device(config, p) for p in all_ports(config)]


# -- what it means -----------------------------------------------------------------------------------------------------


def test_values_and_changes() -> None:
    """Every value by its name; a change is seen and nothing else."""
    old, new = sites.config("two-nics"), edited("two-nics", ('"192.0.2.1"', '"192.0.2.254"'))
    assert changes(old, new) == [("interfaces.uplink.ipv4.gateway", "192.0.2.1", "192.0.2.254")]
    assert changes(old, old) == []
    assert ("site.version", "-", "1") in changes(None, new)
    assert flat(old)["interfaces.uplink.mac"] == "00:00:5e:00:53:01"
    assert flat(old)["categories.telemetry.when_full"] == "drop-oldest"
    assert flat(old)["peers.enterprise.fetch"] == "audit, operational, telemetry"
    assert "BEGIN" not in str(flat(old))


@pytest.mark.parametrize("name", sites.NAMES)
def test_meaning_is_for_programs(name: str) -> None:
    """It can be written as JSON."""
    import json

    document = json.loads(json.dumps(meaning(sites.config(name))))
    assert document["zone"] == "plant-a"
    assert document["air_gapped"] == (name == "air-gapped")
