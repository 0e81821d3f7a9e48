# SPDX-License-Identifier: Apache-2.0
"""What a newcomer starts with: a commented document made from a few answers, or an example with its keys filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.site.values import ca_certificate, public_key

MARKER: Final = re.compile(r"@(HUB_CA|OPERATOR_[1-3]|SITE_CA)@")
"""Where a PEM text belongs in an example."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a template is made from. :param port: such as ``mac = "00:00:5e:00:53:01"``."""

    zone: ZoneId
    hub: ZoneId
    host: str
    port: str
    dns: Sequence[str]


def new_site(answers: Answers) -> str:
    """A document with markers for keys, DHCP on the uplink, and everything else as comments."""
    servers = ", ".join(f'"{server}"' for server in answers.dns)
    dns = f"[dns]\nservers = [{servers}]\n" if servers else '# [dns]\n# servers = ["192.0.2.53"]\n'
    return _TEMPLATE.format(zone=answers.zone, hub=answers.hub, host=answers.host, port=answers.port, dns=dns)


def fill(text: str, pems: dict[str, str]) -> str:
    """A document with each marker replaced.

    :param pems: PEM text by marker name, such as ``HUB_CA`` and ``OPERATOR_1``.
    :raises RefusedError: ``bad_input``: a marker has no text, or the text is no such key or certificate.
    """

    def put(match: re.Match[str]) -> str:
        pem, name = pems.get(match[1]), match[1]
        if pem is None:
            raise RefusedError(Reason.BAD_INPUT, f"the document has @{name}@, and no file is given for it")
        try:
            return "\n" + (ca_certificate(pem) if name.endswith("_CA") else public_key(pem))
        except ValueError as error:
            raise RefusedError(Reason.BAD_INPUT, f"for @{name}@: {error}") from error

    return MARKER.sub(put, text)


_TEMPLATE: Final = '''\
# The site configuration of {zone}. Every field: docs/reference/site.md
# Check it with 'bsfg site check', sign it with 'bsfg site sign'.

[site]
format = 1
version = 1                        # raise it with every change
zone = "{zone}"
name = ""                          # for people

[hub]
zone = "{hub}"
host = "{host}"
# rpc_port = 8443
# trust_port = 8444
# leaf_port = 7422

[trust]
hub_ca = """@HUB_CA@"""
operators = ["""@OPERATOR_1@""", """@OPERATOR_2@"""]

[interfaces.uplink]
{port}
# vlan = 20
# mtu = 1500

[interfaces.uplink.ipv4]
mode = "dhcp"                      # or:
# mode = "static"
# addresses = ["192.0.2.20/24"]
# gateway = "192.0.2.1"

# [interfaces.uplink.ipv6]
# mode = "slaac"

{dns}
# [time]
# nts = ["nts.example.com"]
# ntp = ["192.0.2.123"]

# [proxy]                          # the hub is reached through it
# host = "proxy.example.com"
# port = 3128

# [interfaces.plant]               # towards the machines
# mac = "00:00:5e:00:53:02"
# ipv4 = {{ mode = "static", addresses = ["192.168.10.5/24"] }}

# [plant]                          # where they reach the box
# address = "192.168.10.5"

[categories.operational]
when_full = "reject"
max_bytes = 4294967296

[categories.audit]
when_full = "reject"
max_bytes = 1073741824

[categories.telemetry]
when_full = "drop-oldest"
max_bytes = 2147483648

[peers.{hub}]                      # what the hub may have from here, and send here
fetch = ["operational", "audit", "telemetry"]
append = ["operational"]

# [applications.press-4]           # who may send and read: 'bsfg site application' makes such tables
# role = "producer"
# token_sha256 = "…"
'''
