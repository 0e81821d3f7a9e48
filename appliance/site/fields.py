# SPDX-License-Identifier: Apache-2.0
"""Every field of a site configuration: what is allowed in it, its default, and an example.

Errors say from here what is allowed, and ``docs/reference/site.md`` is made of it. The parser asks for these fields and
no others; a test compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from appliance.site import config

FORMAT: Final = 1
"""The format of the documents this version reads."""
NEEDED: Final = "needed"
"""What stands as default where there is none."""

TABLES: Final = {
    "site": "The document itself, and whose it is.",
    "hub": "The hub, which the box dials.",
    "trust": "Whom the box trusts. Public material only, each a PEM text in a multi-line string.",
    "interfaces.<role>": "An interface by its role: `uplink` (towards the hub) or `plant` (towards the machines).",
    "interfaces.<role>.bond": "Several ports that act as one.",
    "interfaces.<role>.bond.members": "One port of a bond; an array with two to four of them.",
    "interfaces.<role>.ipv4": "IPv4 of the interface; left out: `off`.",
    "interfaces.<role>.ipv6": "IPv6 of the interface; left out: `off`.",
    "interfaces.<role>.routes": "A network behind a router; an array of tables, may be left out.",
    "dns": "Resolvers. What DHCP or a router names is never used: nobody signed it.",
    "time": "Servers of wall-clock time. The order of facts and the life of certificates do not depend on it.",
    "proxy": "An HTTP proxy that opens connections to the hub by CONNECT. It is given no user and no password.",
    "plant": "Where the machines of the plant reach the box; left out: nowhere, and applications use loopback alone.",
    "categories.<category>": "A category of facts and the size of its log; at least one.",
    "peers.<zone>": "What the hub may do here; exactly one, named as the hub's zone.",
    "applications.<name>": "A local application, made by `bsfg site application`; public material only. At most 256.",
    "console": "What the status page on screen and serial line shows.",
}
"""Each table, by the name it has in :data:`FIELDS`, and what it is for."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field. :param kind: its TOML type. :param default: as it would be written, or :data:`NEEDED`, or empty."""

    table: str
    name: str
    kind: str
    allowed: str
    default: str
    example: str
    about: str


def _field(table: str, name: str, kind: str, allowed: str, default: object, example: str, about: str) -> Field:
    text = ("false", "true")[default] if isinstance(default, bool) else str(default)
    return Field(table, name, kind, allowed, text, example, about)


_I: Final = "interfaces.<role>"
_B: Final = f"{_I}.bond"
_PORT: Final = "1 to 65535"
_MAC: Final = "six bytes in hex of one port, such as 00:00:5e:00:53:01"
_KERNEL: Final = "the name Linux gives the port, such as enp1s0; 1 to 15 of [A-Za-z0-9_.-]"
_DRIVER: Final = "the name of a driver that has one port in this box, such as igb; 1 to 32 of [a-z0-9_-]"
_HOST: Final = "a DNS name, or an address"
_ADDRESSES: Final = "addresses of hosts"
_NAMES: Final = "DNS names"
_BYTES: Final = "1048576 or more"

_ALL: Final = (
    _field("site", "format", "int", str(FORMAT), NEEDED, "1", "the format of this document"),
    _field("site", "version", "int", "1 to 2^53 - 1", NEEDED, "2026080101",
           "rises with every document for this box; one that is not higher is refused"),
    _field("site", "zone", "str", "[a-z0-9]+(-[a-z0-9]+)*, at most 32", NEEDED, '"plant-a"', "the zone this box is"),
    _field("site", "name", "str", "up to 64 printable characters", '""', '"Plant A, hall 3"', "for people"),
    _field("site", "air_gapped", "bool", "true or false", False, "true",
           "there is no uplink: everything crosses by USB stick"),
    _field("site", "signers", "list of str", "up to 4 public keys, EC P-256, PEM", "[]", '["""…"""]',
           "further keys that may sign the next version; so a signer is replaced"),
    _field("hub", "zone", "str", "as `site.zone`, and another zone", NEEDED, '"enterprise"', "the zone of the hub"),
    _field("hub", "host", "str", _HOST, "needed, unless air-gapped", '"hub.example.com"', "where the hub is"),
    _field("hub", "addresses", "list of str", "up to 8 addresses of hosts, beside a name", "[]", '["192.0.2.10"]',
           "what the name stands for, where no DNS is to be asked; needed beside a name behind a proxy"),
    _field("hub", "rpc_port", "int", _PORT, config.RPC_PORT, "8443", "TCP port of the contract"),
    _field("hub", "trust_port", "int", _PORT, config.TRUST_PORT, "8444",
           "TCP port of time, enrolment and attestation"),
    _field("hub", "leaf_port", "int", _PORT, config.LEAF_PORT, "7422",
           "TCP port of the NATS leaf connection"),
    _field("trust", "hub_ca", "str", "one CA certificate, PEM", NEEDED, '"""…"""', "the CA of the boundary"),
    _field("trust", "operators", "list of str", "2 or 3 different public keys, EC P-256, PEM", NEEDED, '["""…""", …]',
           "release operators; two of them end a quarantine"),
    _field("trust", "authorities", "list of str", "up to 16 CA certificates, PEM", "[]", '["""…"""]',
           "CAs of the site, for its NTS servers; never for the boundary"),
    _field(_I, "mac", "str", _MAC, "", '"00:00:5e:00:53:01"', "the port, by its address; one of four ways"),
    _field(_I, "name", "str", _KERNEL, "", '"enp1s0"', "the port, by its name"),
    _field(_I, "driver", "str", _DRIVER, "", '"igb"', "the port, by its driver"),
    _field(_I, "vlan", "int", "1 to 4094", "", "20", "the VLAN of this role; left out: untagged"),
    _field(_I, "mtu", "int", "1280 to 9216", "", "1500", "bytes; left out: as the driver has it"),
    _field(_B, "mode", "str", '"active-backup" or "802.3ad"', NEEDED, '"active-backup"',
           "one port carries and the others wait, or LACP, which the switch must speak"),
    _field(f"{_B}.members", "mac", "str", _MAC, "", '"00:00:5e:00:53:01"', "the port, by address"),
    _field(f"{_B}.members", "name", "str", _KERNEL, "", '"enp1s0"', "the port, by its name"),
    _field(f"{_I}.ipv4", "mode", "str", '"static", "dhcp" or "off"', NEEDED, '"static"', "where its address is from"),
    _field(f"{_I}.ipv4", "addresses", "list of str", "1 to 8 addresses with their prefix", "needed with static",
           '["192.0.2.20/24"]', "static addresses"),
    _field(f"{_I}.ipv4", "gateway", "str", "an address of one of these networks", "", '"192.0.2.1"',
           "the default router; for a plant interface only where there is no uplink"),
    _field(f"{_I}.ipv6", "mode", "str", '"static", "slaac" or "off"', NEEDED, '"slaac"', "where its address is from"),
    _field(f"{_I}.ipv6", "addresses", "list of str", "1 to 8 addresses with their prefix", "needed with static",
           '["2001:db8::20/64"]', "static addresses"),
    _field(f"{_I}.ipv6", "gateway", "str", "an address of one of these networks, or fe80::…", "", '"fe80::1"',
           "the default router; for a plant interface only where there is no uplink"),
    _field(f"{_I}.routes", "to", "str", "a network with its prefix, not 0.0.0.0/0 or ::/0", NEEDED, '"10.20.0.0/16"',
           "the network"),
    _field(f"{_I}.routes", "via", "str", "an address of a network of this interface", NEEDED, '"192.0.2.254"',
           "its router"),
    _field("dns", "servers", "list of str", f"1 to 3 {_ADDRESSES}", NEEDED, '["192.0.2.53"]', "resolvers, in order"),
    _field("dns", "search", "list of str", f"up to 6 {_NAMES}", "[]", '["plant.example.com"]',
           "domains that a name without a dot is tried in"),
    _field("time", "nts", "list of str", f"up to 8 {_NAMES}", "[]", '["nts.example.com"]', "servers with NTS"),
    _field("time", "ntp", "list of str", "up to 8 DNS names or addresses", "[]", '["192.0.2.123"]',
           "servers with plain NTP; not used for security decisions"),
    _field("proxy", "host", "str", _HOST, NEEDED, '"proxy.example.com"', "where the proxy is"),
    _field("proxy", "port", "int", _PORT, NEEDED, "3128", "its TCP port"),
    _field("plant", "address", "str", "a static address of the plant interface", NEEDED, '"192.168.10.5"',
           "where to listen; it is also given to `lo`, so that a pulled cable does not end local work"),
    _field("plant", "nats_port", "int", _PORT, config.NATS_PORT, "4222", "TCP port of NATS with TLS"),
    _field("plant", "https_port", "int", _PORT, config.HTTPS_PORT, "8443", "TCP port of AppendFact over HTTPS"),
    _field("categories.<category>", "when_full", "str", '"reject" or "drop-oldest"', '"reject"', '"drop-oldest"',
           "what happens when it is full"),
    _field("categories.<category>", "max_bytes", "int", _BYTES, 1024**3, "4294967296", "bytes of its log on disk"),
    _field("categories.<category>", "max_age_s", "int", "0 or more", 0, "604800", "seconds; 0: no limit"),
    _field("peers.<zone>", "fetch", "list of str", "categories of this document", NEEDED, '["operational"]',
           "what the hub may have from here"),
    _field("peers.<zone>", "append", "list of str", "categories", NEEDED, '["operational"]', "what it may send here"),
    _field("applications.<name>", "role", "str", '"producer", "consumer" or "service"', NEEDED, '"producer"',
           "what it may do: produce under its own name, read, or both"),
    _field("applications.<name>", "categories", "list of str", "categories of this document, for who produces", "",
           '["telemetry"]', "what it may produce; left out: every category"),
    _field("applications.<name>", "token_sha256", "str", "64 hexadecimal digits, for who produces", "",
           '"9f86…0a08"', "SHA-256 of its token for AppendFact over HTTPS"),
    _field("applications.<name>", "nats_signer", "str", "the public key of an NKey of an account", "", '"AB3F…"',
           "the key that signed its NATS user; a consumer needs it, a producer this or `token_sha256`"),
    _field("console", "show_addresses", "bool", "true or false", True, "false", "show the addresses of the box"),
)  # fmt: skip

FIELDS: Final = {(field.table, field.name): field for field in _ALL}
"""Each field by table and name, in the order of the reference page."""


def names_of(table: str) -> list[str]:
    """The fields of a table, in their order."""
    return [field.name for field in _ALL if field.table == table]
