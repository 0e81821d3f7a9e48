# SPDX-License-Identifier: Apache-2.0
"""A site configuration is read strictly: each rule has a document that breaks it, refused with line and reason."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.boundary.errors import BsfgError
from appliance.boundary.policy import WhenFull
from appliance.boundary.reasons import Reason
from appliance.site.config import Bond, BondMode, MatchBy, Port, SiteConfig, V4Mode, V6Mode
from appliance.site.errors import BadSiteError
from appliance.site.fields import FIELDS, NEEDED, TABLES
from appliance.site.reading import MOST_BYTES, read_site
from tests import sites


def refused(text: str) -> BadSiteError:
    """The error of a document."""
    with pytest.raises(BadSiteError) as caught:
        read_site(text.encode(), "site.toml")
    assert caught.value.reason is Reason.BAD_SITE
    return caught.value


UP4 = 'mode = "static"\naddresses = ["192.0.2.20/24"]\ngateway = "192.0.2.1"'
ROUTE = '[[interfaces.plant.routes]]\nto = "192.168.20.0/24"\nvia = "192.168.10.1"'
MEMBERS = 'members = [{ mac = "00:00:5e:00:53:01" }, { mac = "00:00:5e:00:53:02" }]'
MAC1, MAC2 = 'mac = "00:00:5e:00:53:01"', 'mac = "00:00:5e:00:53:02"'
MANY = ", ".join(f'"192.0.2.{n}/24"' for n in range(20, 29))

# example, what is replaced (once), with what, where the error is (a part of its line), what it says
RULES = [
    # the document
    ("single-site", "format = 1", "format = 2", "format = 2", "format 2 is out of range; allowed: 1"),
    ("single-site", "format = 1\n", "", "[site]", "needs format"),
    ("single-site", "version = 1 ", "version = 0 ", "version = 0", "out of range"),
    ("single-site", "version = 1 ", "version = 9007199254740992 ", "version = 90",
     "out of range; allowed: 1 to 2^53 - 1"),
    ("single-site", "version = 1 ", 'version = "1" ', 'version = "1"', "version must be int"),
    ("single-site", "version = 1 ", "version = true ", "version = true", "version must be int"),
    ("single-site", "version = 1 ", "version = 1.0 ", "version = 1.0", "version must be int"),
    ("single-site", 'zone = "plant-a"', 'zone = "Plant_A"', 'zone = "Plant_A"', "[a-z0-9]+"),
    ("single-site", 'zone = "plant-a"', 'zone = "all"', 'zone = "all"', "not a zone"),
    ("single-site", 'zone = "plant-a"', "", "[site]", "needs zone"),
    ("single-site", 'zone = "enterprise"', 'zone = "plant-a"', 'zone = "plant-a"', "this box's own"),
    ("single-site", '"Pump house 4"', '"a\\nb"', "name = ", "cannot be printed"),
    ("single-site", '"Pump house 4"', f'"{"x" * 65}"', "name = ", "more than 64 characters"),
    ("single-site", "[hub]", 'signers = ["x"]\n[hub]', "signers", "not a PEM public key"),
    ("single-site", "[hub]", 'signers = "x"\n[hub]', "signers", "signers must be a list of texts"),
    ("single-site", "[hub]", "unknown = 1\n[hub]", "unknown = 1",
     "unknown field 'unknown'; there are: format, version"),
    ("single-site", "[dns]", "[dnss]", "[dnss]", "unknown field 'dnss'"),
    ("single-site", "[site]", "site = 1\n[sitt]", "site = 1", "site must be a table"),
    ("single-site", "[site]", "[site", "[site", "not TOML"),
    ("single-site", "[dns]", "[hub]", "[hub]", "not TOML"),
    ("single-site", "[dns]", "\0", "\0", "not TOML"),
    # the hub
    ("single-site", 'host = "hub.example.com"', "", "[hub]", "needs host"),
    ("single-site", '"hub.example.com"', '"hub.example.com:8443"', "host =", "no scheme and no port"),
    ("single-site", '"hub.example.com"', '"https://hub.example.com"', "host =", "no scheme and no port"),
    ("single-site", '"hub.example.com"', '"hub_1.example.com"', "host =", "not a DNS name"),
    ("single-site", '"hub.example.com"', '"hub.example.com\\n[Match]"', "host =", "not a DNS name"),
    ("single-site", '"hub.example.com"', '"192.0.2.300"', "host =", "not an address"),
    ("single-site", '"hub.example.com"', '"hub.1"', "host =", "the last part is a number"),
    ("single-site", '"hub.example.com"', '"127.0.0.1"', "host =", "not the address of one host"),
    ("single-site", '"hub.example.com"', '"0.0.0.0"', "host =", "not the address of one host"),
    ("single-site", '"hub.example.com"', '"224.0.0.1"', "host =", "not the address of one host"),
    ("single-site", '"hub.example.com"', '"fe80::1"', "host =", "link-local"),
    ("single-site", '"hub.example.com"', '"fe80::1%eth0"', "host =", "no interface in it"),
    ("single-site", '"hub.example.com"', '"::ffff:192.0.2.1"', "host =", "write it as IPv4"),
    ("single-site", '"hub.example.com"', '"2001:db8::1"', "host =", "the uplink has no route to 2001:db8::1"),
    ("single-site", "[trust]", "rpc_port = 0\n[trust]", "rpc_port", "out of range; allowed: 1 to 65535"),
    ("single-site", "[trust]", "rpc_port = 65536\n[trust]", "rpc_port", "out of range"),
    ("single-site", "[trust]", "rpc_port = 8444\n[trust]", "[hub]", "two ports of the hub are the same"),
    ("single-site", "[trust]", "leaf_port = 8443\n[trust]", "leaf_port", "two ports of the hub are the same"),
    ("vlan-one-nic", 'host = "203.0.113.10"', 'host = "203.0.113.10"\naddresses = ["192.0.2.9"]', "addresses",
     "is an address"),
    ("two-nics", '["203.0.113.10"]', '["203.0.113.10", "203.0.113.10"]', "addresses =", "stands there twice"),
    ("two-nics", '["203.0.113.10"]', '["hub"]', "addresses =", "not an address"),
    ("two-nics", '["203.0.113.10"]', '["192.0.2.20"]', "addresses =", "is this box itself"),
    ("two-nics", '["203.0.113.10"]', '["192.168.10.77"]', "addresses =", "on the plant's side"),
    ("two-nics", '["203.0.113.10"]', '["192.168.20.77"]', "addresses =", "on the plant's side"),
    ("two-nics", 'gateway = "192.0.2.1"', "", "addresses = [", "the uplink has no route to 203.0.113.10"),
    ("two-nics", 'addresses = ["203.0.113.10"]', "", "host =", "there is no [dns] to look it up"),
    ("single-site", '[dns]\nservers = ["192.0.2.53"]', "", "host =", "there is no [dns] to look it up"),
    # trust
    ("single-site", "-----BEGIN CERTIFICATE-----", "-----BEGIN CERT-----", "hub_ca", "not one PEM certificate"),
    ("single-site", "-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nAAAA", "hub_ca",
     "not a CA certificate"),
    ("single-site", sites.public("operator 2"), sites.public("operator 1"), '""", """', "stands there twice"),
    ("single-site", f', """\n{sites.public("operator 2")}"""', "", "operators", "has 1 entries; allowed: 2 or 3"),
    ("single-site", "operators = ", "operator = ", "[trust]", "operators must be a list"),
    ("proxy", "authorities = [", "authorities = [1, ", "authorities", "must be a list of texts"),
    # interfaces
    ("single-site", "[interfaces.uplink]", "[interfaces.uplunk]", "[interfaces.uplunk]", "'uplunk' is no role"),
    ("single-site", "[dns]", f"[interfaces.lan]\n{MAC2}\n[dns]", "[interfaces.lan]", "'lan' is no role"),
    ("single-site", MAC1, "", "[interfaces.uplink]", "exactly one of mac, name, driver and bond"),
    ("single-site", MAC1, f'{MAC1}\nname = "eth0"', 'name = "eth0"', "exactly one of"),
    ("single-site", MAC1, 'mac = "00:00:5e:00:53"', "mac =", "not six bytes in hex"),
    ("single-site", MAC1, 'mac = "01:00:5e:00:53:01"', "mac =", "not the address of one port"),
    ("single-site", MAC1, 'name = "eth 0"', "name = \"eth", "not the name of an interface"),
    ("single-site", MAC1, 'name = "abcdefghijklmnop"', "name = \"abc", "not the name of an interface"),
    ("single-site", MAC1, 'name = "uplink0"', "name = \"up", "a name that the box gives itself"),
    ("single-site", MAC1, 'name = "lo"', 'name = "lo"', "a name that the box gives itself"),
    ("single-site", MAC1, 'driver = "*"', "driver =", "not the name of a driver"),
    ("single-site", MAC1, f"{MAC1}\nvlan = 0", "vlan = 0", "out of range; allowed: 1 to 4094"),
    ("single-site", MAC1, f"{MAC1}\nvlan = 4095", "vlan = 4095", "out of range"),
    ("single-site", MAC1, f"{MAC1}\nmtu = 576", "mtu = 576", "out of range; allowed: 1280 to 9216"),
    ("single-site", MAC1, f"{MAC1}\nspeed = 1", "speed = 1", "unknown field 'speed'"),
    ("single-site", 'ipv4 = { mode = "dhcp" }', "", "[interfaces.uplink]", "ipv4 or ipv6 that is not off"),
    ("single-site", 'mode = "dhcp"', 'mode = "auto"', "ipv4 =", "'auto' is not one of them; allowed: \"static\""),
    ("single-site", 'mode = "dhcp"', 'mode = "dhcp", gateway = "192.0.2.1"', "ipv4 =", 'is for mode "static"'),
    ("ipv6", 'mode = "slaac"', 'mode = "slaac", addresses = ["2001:db8::2/64"]', "ipv6 =", 'is for mode "static"'),
    ("ipv6", 'mode = "slaac"', 'mode = "dhcp"', "ipv6 =", "is not one of them"),
    ("two-nics", UP4, 'mode = "static"', "[interfaces.uplink.ipv4]", "addresses must be a list"),
    ("two-nics", '"192.0.2.20/24"', '"192.0.2.20"', "addresses = [\"192.0.2", "an address and its prefix"),
    ("two-nics", '"192.0.2.20/24"', '"192.0.2.20/255.255.255.0"', "addresses = [\"192.0.2",
     "an address and its prefix"),
    ("two-nics", '"192.0.2.20/24"', '"192.0.2.20/33"', "addresses = [\"192.0.2", "the prefix is too long"),
    ("two-nics", '"192.0.2.20/24"', '"192.0.2.20/0"', "addresses = [\"192.0.2", "no network"),
    ("two-nics", '"192.0.2.20/24"', '"192.0.2.0/24"', "addresses = [\"192.0.2", "the network's own address"),
    ("two-nics", '"192.0.2.20/24"', '"192.0.2.255/24"', "addresses = [\"192.0.2", "broadcast address"),
    ("two-nics", '"192.0.2.20/24"', '"2001:db8::1/64"', "addresses = [\"2001", "not IPv4"),
    ("two-nics", '"192.0.2.20/24"', '"169.254.1.1/16"', "addresses = [\"169", "link-local"),
    ("two-nics", '"192.0.2.20/24"', MANY, "addresses = [\"192.0.2", "has 9 entries; allowed: 1 to 8"),
    ("ipv6", '"fd00:10::5/64"', '"192.168.10.6/24"', "addresses = [\"192.168.10.6", "not IPv6"),
    ("ipv6", '"fd00:10::5/64"', '"fd00:10::/64"', "addresses = [\"fd00", "anycast"),
    ("two-nics", '"192.0.2.1"', '"192.0.3.1"', "gateway", "in none of the networks"),
    ("two-nics", '"192.0.2.1"', '"192.0.2.20"', "gateway", "or the box itself"),
    ("two-nics", '"192.0.2.1"', '"2001:db8::1"', "gateway", "not IPv4"),
    ("ipv6", '["fd00:10::5/64"]', '["fd00:10::5/64"]\ngateway = "fd00:11::1"', "gateway", "in none of the networks"),
    ("ipv6", '["fd00:10::5/64"]', '["fd00:10::5/64"]\ngateway = "fd00:10::1"', "gateway",
     "the default route is the uplink's"),
    ("ipv6", '["fd00:10::5/64"]', '["fd00:10::5/64"]\ngateway = "192.0.2.1"', "gateway", "not IPv6"),
    ("two-nics", '["192.168.10.5/24"]', '["192.168.10.5/24"]\ngateway = "192.168.10.1"', 'gateway = "192.168',
     "uplink's"),
    # routes
    ("two-nics", '"192.168.20.0/24"', '"192.168.20.1/24"', "to =", "an address inside a network"),
    ("two-nics", '"192.168.20.0/24"', '"192.168.20.0"', "to =", "a network and its prefix"),
    ("two-nics", '"192.168.20.0/24"', '"0.0.0.0/0"', "to =", "name a gateway instead"),
    ("two-nics", '"192.168.20.0/24"', '"224.0.0.0/4"', "to =", "not a network that a router leads to"),
    ("two-nics", '"192.168.20.0/24"', '"x/8"', "to =", "not a network"),
    ("two-nics", '"192.168.20.0/24"', '"192.168.10.0/24"', "to =", "this interface's own network"),
    ("two-nics", '"192.168.10.1"', '"192.168.11.1"', "via =", "in no network of this interface"),
    ("two-nics", '"192.168.10.1"', '"192.168.10.5"', "via =", "in no network of this interface"),
    ("two-nics", '"192.168.10.1"', '"fd00::1"', "via =", "the other IP version"),
    ("two-nics", ROUTE, f"{ROUTE}\n{ROUTE}", "to =", "a route to it already"),
    ("two-nics", ROUTE, f"{ROUTE}\nmetric = 1", "metric", "unknown field 'metric'; there are: to, via"),
    ("two-nics", ROUTE, "[interfaces.plant.routes]\nx = 1", "[interfaces.plant.routes]", "must be a list of tables"),
    # bonds and both roles
    ("vlan-one-nic", '"active-backup"', '"balance-rr"', "mode =", "is not one of them"),
    ("vlan-one-nic", MEMBERS, 'members = [{ mac = "00:00:5e:00:53:01" }]', "members",
     "1 members; allowed: an array of two"),
    ("vlan-one-nic", MEMBERS, f"members = [{{ {MAC1} }}, {{ {MAC1} }}]", "members", "is a member already"),
    ("vlan-one-nic", MEMBERS, f'members = [{{ {MAC1} }}, {{ driver = "igb" }}]', "members",
     "exactly one of mac and name"),
    ("vlan-one-nic", MEMBERS, f"members = [{{ {MAC1} }}, {{ {MAC2}, x = 1 }}]", "members", "unknown field 'x'"),
    ("vlan-one-nic", f"vlan = 20\n\n[interfaces.uplink.bond]\nmode = \"active-backup\"\n{MEMBERS}", MAC1,
     "[interfaces.plant]", "is the uplink's as well"),
    ("vlan-one-nic", "vlan = 30", "vlan = 20", "vlan = 20", "needs another VLAN"),
    ("vlan-one-nic", 'mode = "active-backup"', 'mode = "802.3ad"', "[interfaces.plant]", "but not its bond"),
    ("two-nics", MAC2, MAC1, "[interfaces.plant]", "is the same port as the uplink's"),
    ("vlan-one-nic", '"192.168.10.5/24"', '"192.0.2.130/25"', "[interfaces.plant]", "overlaps 192.0.2.0/24"),
    ("two-nics", "[time]", '[[interfaces.uplink.routes]]\nto = "192.168.20.0/24"\nvia = "192.0.2.9"\n[time]',
     "[[interfaces.plant.routes]]", "has a route by the uplink as well"),
    # names, time, proxy
    ("single-site", '["192.0.2.53"]', "[]", "servers", "has 0 entries; allowed: 1 to 3"),
    ("single-site", '["192.0.2.53"]', '["dns.example.com"]', "servers", "not an address"),
    ("single-site", '["192.0.2.53"]', '["192.0.2.53"]\nsearch = ["a b"]', "search", "not a DNS name"),
    ("two-nics", '"192.0.2.123"', '"time.example.com"', "ntp", "there is no [dns] to look it up"),
    ("two-nics", '"192.0.2.123"', '"2001:db8::123"', "ntp", "no interface has a route to 2001:db8::123"),
    ("single-site", '["nts.example.com"]', "[]", "[time]", "needs nts or ntp"),
    ("single-site", '["nts.example.com"]', '["192.0.2.7"]', "nts", "the last part is a number"),
    ("proxy", "port = 3128", "", "[proxy]", "needs port"),
    ("proxy", 'addresses = ["203.0.113.10"]', "", 'host = "hub', "the control plane dials the hub by address"),
    ("proxy", '"proxy.plant-b.example.com"', '"http://proxy"', "host = \"http", "no scheme and no port"),
    ("proxy", "port = 3128", 'port = 3128\nuser = "x"', "user =", "unknown field 'user'"),
    # the plant's listener
    ("two-nics", 'address = "192.168.10.5"', 'address = "192.168.10.6"', 'address = "', "none of the plant interface"),
    ("two-nics", 'address = "192.168.10.5"', 'address = "192.0.2.20"', 'address = "', "none of the plant interface"),
    ("two-nics", 'address = "192.168.10.5"', 'address = "0.0.0.0"', 'address = "', "not the address of one host"),
    ("single-site", "[time]", '[plant]\naddress = "192.0.2.20"\n[time]', "[plant]", "nothing listens on the uplink"),
    ("vlan-one-nic", "https_port = 8443", "https_port = 4222", "https_port", "the same as nats_port"),
    # policy
    ("single-site", "[categories.operational]", "[categories.Operational]", "[categories.Operational]", "[a-z0-9]+"),
    ("single-site", 'when_full = "reject"', 'when_full = "wait"', "when_full", "reject, drop-oldest"),
    ("single-site", "max_bytes = 4294967296", "max_bytes = 1", "max_bytes", "at least 1048576"),
    ("single-site", "max_bytes = 4294967296", "max_age_s = -1", "max_age_s", "at least 0"),
    ("single-site", "max_bytes = 4294967296", "max_facts = 1", "max_facts", "unknown field 'max_facts'"),
    ("single-site", "[peers.enterprise]", "[peers.other]", "[peers.other]", "[peers.enterprise] is missing"),
    ("single-site", "[peers.enterprise]", "[peers.b]\nfetch = []\nappend = []\n[peers.enterprise]", "[peers.b]",
     "one peer"),
    ("single-site", 'fetch = ["operational"', 'fetch = ["orders"', "fetch", "needs a table [categories.orders]"),
    ("single-site", 'append = ["operational"]', 'append = "operational"', "append", "must be a list of categories"),
    ("single-site", 'append = ["operational"]', "", "[peers.enterprise]", "append must be a list"),
    ("air-gapped", "show_addresses = false", 'show_addresses = "no"', "show_addresses", "must be bool"),
    # air-gapped
    ("single-site", "[hub]", "air_gapped = true\n[hub]", "host", "nothing for an air-gapped box"),
    ("air-gapped", "[interfaces.plant]\n", f'[interfaces.uplink]\n{MAC1}\nipv4.mode = "dhcp"\n[interfaces.plant]\n',
     "[interfaces.uplink]", "an air-gapped box has no uplink"),
    ("air-gapped", "air_gapped = true\n", "", "[hub]", "needs host"),
    ("air-gapped", "[time]", '[dns]\nservers = ["192.168.10.2"]\n[time]', "[dns]", "it looks up no names"),
    ("air-gapped", "[time]", '[proxy]\nhost = "192.168.10.2"\nport = 1\n[time]', "[proxy]",
     "nothing for an air-gapped"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "where", "says"), RULES, ids=range(len(RULES)))
def test_a_document_that_breaks_a_rule(name: str, old: str, new: str, where: str, says: str) -> None:
    """Refused with its line and the reason; the example without the change is read."""
    good = sites.example(name)
    read_site(good.encode(), "good")
    assert old in good
    text = good.replace(old, new, 1)
    error = refused(text)
    assert says in error.problem
    assert where in text.split("\n")[error.line - 1], f"line {error.line}: {error.problem}"
    assert error.detail == f"site.toml:{error.line}: {error.problem}"


def test_tables_that_must_be_there() -> None:
    """Without them nothing can be said."""
    text = sites.example("single-site")
    for table in ("site", "hub", "trust", "interfaces.uplink", "categories.operational", "peers.enterprise"):
        without = re.sub(rf"^\[{table}\].*?(?=^\[|\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
        assert table.split(".")[0] in refused(without).problem
    without = re.sub(r"^\[categories.*?(?=^\[peers)", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "[categories.…] is missing" in refused(without).problem


def test_what_is_no_text_of_ours() -> None:
    """Too long, other encodings, nested without end: refused before anything else is done with it."""
    assert "allowed: at most" in refused("#" * (MOST_BYTES + 1)).problem
    with pytest.raises(BadSiteError, match=r"x:2: not UTF-8"):
        read_site(b"a = 1\nb = \xff", "x")
    assert "not TOML" in refused("x = " + "[" * 100_000).problem
    leaf = sites.pems()["HUB_CA"]
    assert "not one PEM certificate" in refused(sites.example("single-site").replace(leaf, leaf + leaf)).problem
    p384 = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = p384.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    wrong = sites.example("single-site").replace(sites.public("operator 1"), pem)
    assert "not a PEM public key on P-256" in refused(wrong).problem


def test_examples_say_what_they_say() -> None:
    """The values of the documents, by their types."""
    two, vlan, proxy, ipv6, gap = (sites.config(name) for name in sites.NAMES[1:])
    assert two.endpoints is not None
    assert two.endpoints.addresses == (ip_address("203.0.113.10"),)
    assert two.plant is not None
    assert two.plant.routes[0].to == ip_network("192.168.20.0/24")
    assert vlan.uplink is not None
    assert isinstance(vlan.uplink.base, Bond)
    assert vlan.uplink.base.mode is BondMode.ACTIVE_BACKUP
    assert (vlan.uplink.vlan, vlan.uplink.ipv4.mode, vlan.uplink.ipv6.mode) == (20, V4Mode.STATIC, V6Mode.OFF)
    assert proxy.proxy is not None
    assert proxy.uplink is not None
    assert (proxy.proxy.port, proxy.uplink.base) == (3128, Port(MatchBy.NAME, "enp1s0"))
    assert len(proxy.trust.authorities) == 1
    assert ipv6.uplink is not None
    assert (ipv6.uplink.mtu, ipv6.uplink.ipv6.mode) == (1400, V6Mode.SLAAC)
    assert gap.air_gapped
    assert gap.endpoints is None
    assert not gap.console.show_addresses
    assert (
        gap.policy.categories[next(c for c in gap.policy.categories if c == "telemetry")].when_full
        is WhenFull.DROP_OLDEST
    )


def test_equal_texts_are_equal_values() -> None:
    """Capitals in MAC and names, dashes, spaces and the form of a PEM text do not matter."""
    text = sites.example("single-site")
    other = text.replace("00:00:5e:00:53:01", "00-00-5E-00-53-01").replace("hub.example.com", "Hub.Example.COM")
    other = other.replace('operators = ["""\n', 'operators = ["""\n\n')
    assert read_site(other.encode(), "x") == read_site(text.encode(), "x")
    assert read_site(text.replace("\n", "\r\n").encode(), "x") == read_site(text.encode(), "x")


# -- the table of fields -----------------------------------------------------------------------------------------------


def _used(name: str, value: Any, kind: str = "") -> Iterator[tuple[str, str]]:
    chosen = {"interfaces": "<role>", "categories": "<category>", "peers": "<zone>", "applications": "<name>"}
    for key, inner in value.items():
        rows = inner if isinstance(inner, list) and inner and isinstance(inner[0], dict) else [inner]
        for row in rows:
            if isinstance(row, dict):
                part = chosen.get(kind, key)
                yield from _used(key, row, f"{kind}.{part}" if kind else part)
            else:
                yield (kind, key)


def test_fields_of_examples_are_in_the_table() -> None:
    """And the examples show nearly all of them."""
    used = {place for name in sites.NAMES for place in _used("", tomllib.loads(sites.example(name)))}
    assert used - FIELDS.keys() == set()
    missing = {f"{table}.{field}" for table, field in FIELDS.keys() - used}
    assert len(missing) <= 8, missing
    assert {table for table, _ in FIELDS} == set(TABLES)


def test_needed_fields_are_needed() -> None:
    """Each field that the table calls needed is: without it the document is refused at its table."""
    texts = {name: sites.example(name) for name in sites.NAMES}
    for (table, field), about in FIELDS.items():
        if about.default != NEEDED:
            continue
        pattern = re.compile(rf'(^|[{{,] ?){field} = (?:"""[^"]*"""|\[.*?\]|"[^"]*"|\d+)', re.MULTILINE | re.DOTALL)
        found = [(text, match) for text in texts.values() for match in pattern.finditer(text)]
        assert found, (table, field)
        messages = [_message(text[: m.start()] + m[1].replace(",", "") + text[m.end() :]) for text, m in found]
        assert any(field in message for message in messages), (table, field, messages)


def _message(text: str) -> str:
    try:
        read_site(text.encode(), "x")
    except BsfgError as error:
        return error.detail
    return ""


def test_defaults_are_the_documented_ones() -> None:
    """A default written out changes nothing."""
    text = sites.example("two-nics")
    written = {
        "[site]": "air_gapped = false\nsigners = []",
        "[hub]": "rpc_port = 8443\ntrust_port = 8444\nleaf_port = 7422",
        "[trust]": "authorities = []",
        "[plant]": "nats_port = 4222\nhttps_port = 8443",
        "[time]": "nts = []",
        "[interfaces.plant]": 'ipv6 = { mode = "off" }',
    }
    more = text + "\n[console]\nshow_addresses = true\n"
    for table, lines in written.items():
        more = more.replace(f"{table}\n", f"{table}\n{lines}\n", 1)
        for line in lines.splitlines():
            name, _, value = line.partition(" = ")
            known = FIELDS.get((table.strip("[]"), name))
            assert known is None or known.default == value
    assert read_site(more.encode(), "x") == read_site(text.encode(), "x")


# -- whatever comes ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from(sites.NAMES), st.sampled_from(["drop", "double", "swap", "cut", "char"]))
@settings(max_examples=400, deadline=None)
def test_broken_documents_are_refused_or_read(seed: int, name: str, how: str) -> None:
    """No error but the one that says where; a line that is named is one of the document."""
    rows = sites.example(name).split("\n")
    at = seed % len(rows)
    if how == "drop":
        del rows[at]
    elif how == "double":
        rows.insert(at, rows[at])
    elif how == "swap":
        rows[at], rows[-at] = rows[-at], rows[at]
    elif how == "cut":
        rows = rows[:at]
    else:
        rows[at] = rows[at][: seed % 17] + "\"[]{}=#,.'\\"[seed % 11] + rows[at][seed % 17 :]
    text = "\n".join(rows)
    error = None
    try:
        assert isinstance(read_site(text.encode(), "x"), SiteConfig)
    except BadSiteError as caught:
        error = caught
    assert error is None or 0 <= error.line <= text.count("\n") + 1
