# SPDX-License-Identifier: Apache-2.0
"""What an environment is: its ports, credentials and categories. They are chosen once and kept in ``env.json``.

``env.json`` is written for any program that wants to join in (``docs/cli.md`` lists its fields). Read back are only
the choices: ports, passwords, tokens, categories. Paths follow from where the folder is now.
"""

from __future__ import annotations

import json
import random
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import Category, ZoneId, identity_of, parse_category
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.boundary.reasons import Reason
from appliance.dev.layout import (
    CONTROL_BROKER,
    ENTERPRISE,
    FACTS_BROKER,
    HOST,
    NODE,
    PLANT,
    ZONE_OF,
    ZONES,
    Layout,
    ProcessName,
)

KIND: Final = "bsfg-dev-environment"
VERSION: Final = 1

PRODUCERS: Final = ("cli", "sensors", "orders", "app")
"""Local users that produce; each has a NATS password and a token for HTTP."""
READERS: Final = ("app", "reader")
"""Local users that read."""

CATEGORIES: Final = {
    Category("operational"): CategoryPolicy(WhenFull.REJECT),
    Category("audit"): CategoryPolicy(WhenFull.REJECT),
    Category("telemetry"): CategoryPolicy(WhenFull.DROP_OLDEST, max_bytes=256 * 1024**2),
}

_PORT_FLOOR: Final = 15_000
_EPHEMERAL_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class PortName(StrEnum):
    """Every port of an environment, by what listens there."""

    PLANT_FACTS = "plant-a facts broker"
    PLANT_CONTROL = "plant-a control broker"
    PLANT_INTAKE = "plant-a HTTP intake"
    ENTERPRISE_FACTS = "enterprise facts broker"
    ENTERPRISE_CONTROL = "enterprise control broker"
    ENTERPRISE_INTAKE = "enterprise HTTP intake"
    HUB_RPC = "hub RPC"
    HUB_LEAF = "hub leaf listener"
    LINK_RPC = "simulated link to the hub RPC"
    LINK_LEAF = "simulated link to the hub leaf listener"


FACTS_PORT: Final = {PLANT: PortName.PLANT_FACTS, ENTERPRISE: PortName.ENTERPRISE_FACTS}
CONTROL_PORT: Final = {PLANT: PortName.PLANT_CONTROL, ENTERPRISE: PortName.ENTERPRISE_CONTROL}
INTAKE_PORT: Final = {PLANT: PortName.PLANT_INTAKE, ENTERPRISE: PortName.ENTERPRISE_INTAKE}


@dataclass(frozen=True, slots=True)
class ZoneCredentials:
    """Passwords by user of both brokers, and HTTP tokens by producer."""

    facts_users: Mapping[str, str] = field(repr=False)
    control_users: Mapping[str, str] = field(repr=False)
    tokens: Mapping[str, str] = field(repr=False)

    @classmethod
    def generate(cls) -> ZoneCredentials:
        """New random ones."""

        def of(names: Iterable[str]) -> dict[str, str]:
            return {name: secrets.token_urlsafe(24) for name in names}

        users = dict.fromkeys(("agent", "sys", *PRODUCERS, *READERS))
        return cls(of(users), of(("control", "sys")), of(PRODUCERS))


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment: where it is and what was chosen for it."""

    layout: Layout
    created_at_unix_ms: int
    ports: Mapping[PortName, int]
    credentials: Mapping[ZoneId, ZoneCredentials]
    categories: Mapping[Category, CategoryPolicy]

    @classmethod
    def generate(cls, layout: Layout) -> Environment:
        """A new one, on ports that are free now."""
        return cls(
            layout,
            int(time.time() * 1000),
            choose_ports(),
            {zone: ZoneCredentials.generate() for zone in ZONES},
            CATEGORIES,
        )

    @classmethod
    def load(cls, folder: Path) -> Environment:
        """The environment in a folder. :raises UnavailableError: ``bad_environment``."""
        layout = Layout.at(folder)
        try:
            document = json.loads(layout.document.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{folder} has no env.json") from error
        except (OSError, ValueError) as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{layout.document}: {error}") from error
        if not isinstance(document, dict) or document.get("kind") != KIND:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{layout.document} was not written by this program")
        if document.get("version") != VERSION:
            raise UnavailableError(
                Reason.BAD_ENVIRONMENT,
                f"{layout.document} is of version {document.get('version')}, this program reads {VERSION}",
            )
        try:
            return _parse(layout, document)
        except (KeyError, TypeError, ValueError, AttributeError, RefusedError) as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{layout.document}: {error!r}") from error

    def facts_url(self, zone: ZoneId, user: str) -> str:
        """Where a NATS client finds the zone's facts, with its credentials."""
        password = self.credentials[zone].facts_users[user]
        return f"nats://{user}:{password}@{HOST}:{self.ports[FACTS_PORT[zone]]}"

    def to_document(self, pids: Mapping[str, int | None] | None = None) -> dict[str, Any]:
        """What stands in ``env.json``; ``pids`` of the processes that run."""
        ports, running = self.ports, pids or {}
        return {
            "kind": KIND,
            "version": VERSION,
            "about": "A BSFG development environment. Ports and categories may be edited while it is down.",
            "directory": str(self.layout.root),
            "created_at_unix_ms": self.created_at_unix_ms,
            "control_socket": str(self.layout.socket),
            "categories": {
                name: {"when_full": p.when_full, "max_bytes": p.max_bytes, "max_age_s": p.max_age_s}
                for name, p in self.categories.items()
            },
            "zones": {zone: self._zone_document(zone) for zone in ZONES},
            "link": {
                "simulated": True,
                "rpc": {"host": HOST, "port": ports[PortName.LINK_RPC], "leads_to": ports[PortName.HUB_RPC]},
                "leaf": {"host": HOST, "port": ports[PortName.LINK_LEAF], "leads_to": ports[PortName.HUB_LEAF]},
            },
            "processes": {
                name: {"zone": ZONE_OF[name], "pid": running.get(name), "log": str(self.layout.log(name))}
                for name in ProcessName
            },
        }

    def _zone_document(self, zone: ZoneId) -> dict[str, Any]:
        files, credentials = self.layout.zone(zone), self.credentials[zone]
        document = {
            "identity": identity_of(zone),
            "node": NODE[zone],
            "node_config": str(files.node_config),
            "status_dir": str(files.status),
            "status_document": str(files.status_document),
            "state_dir": str(files.state),
            "facts_broker": {
                "process": FACTS_BROKER[zone],
                **_address("nats", self.ports[FACTS_PORT[zone]]),
                "users": dict(credentials.facts_users),
                "config": str(files.facts_config),
                "store_dir": str(files.facts_store),
            },
            "control_broker": {
                "process": CONTROL_BROKER[zone],
                **_address("nats", self.ports[CONTROL_PORT[zone]]),
                "users": dict(credentials.control_users),
                "config": str(files.control_config),
                "store_dir": str(files.control_store),
            },
            "http_intake": {
                **_address("http", self.ports[INTAKE_PORT[zone]]),
                "tokens": dict(credentials.tokens),
            },
            "pki": {
                "dir": str(files.pki),
                "ca": str(files.pki / "hub-ca.pem"),
                "certificate": str(files.pki / "session.pem"),
                "key": str(files.pki / "session.pem"),
            },
        }
        if zone == ENTERPRISE:
            document["rpc"] = {
                **_address("https", self.ports[PortName.HUB_RPC]),
                "tls_server_name": identity_of(ENTERPRISE),
            }
            document["leaf"] = _address("tls", self.ports[PortName.HUB_LEAF])
        return document


def _address(scheme: str, port: int) -> dict[str, Any]:
    return {"url": f"{scheme}://{HOST}:{port}", "host": HOST, "port": port}


def _parse(layout: Layout, document: Mapping[str, Any]) -> Environment:
    zones, link = document["zones"], document["link"]
    ports = {
        PortName.HUB_RPC: zones[ENTERPRISE]["rpc"]["port"],
        PortName.HUB_LEAF: zones[ENTERPRISE]["leaf"]["port"],
        PortName.LINK_RPC: link["rpc"]["port"],
        PortName.LINK_LEAF: link["leaf"]["port"],
    }
    for table, part in ((FACTS_PORT, "facts_broker"), (CONTROL_PORT, "control_broker"), (INTAKE_PORT, "http_intake")):
        ports |= {table[zone]: zones[zone][part]["port"] for zone in ZONES}
    for name, port in ports.items():
        if type(port) is not int or not 0 < port < 65536:
            raise RefusedError(Reason.BAD_INPUT, f"{name}: port {port!r}")
    if len(set(ports.values())) != len(ports):
        raise RefusedError(Reason.BAD_INPUT, "two ports are the same")
    created = document["created_at_unix_ms"]
    if type(created) is not int:
        raise RefusedError(Reason.BAD_INPUT, "created_at_unix_ms must be an integer")
    return Environment(
        layout,
        created,
        ports,
        {zone: _parse_credentials(zones[zone]) for zone in ZONES},
        {parse_category(name): _parse_category(entry) for name, entry in document["categories"].items()},
    )


def _parse_credentials(zone: Mapping[str, Any]) -> ZoneCredentials:
    expected = ZoneCredentials.generate()
    return ZoneCredentials(
        {name: str(zone["facts_broker"]["users"][name]) for name in expected.facts_users},
        {name: str(zone["control_broker"]["users"][name]) for name in expected.control_users},
        {name: str(zone["http_intake"]["tokens"][name]) for name in expected.tokens},
    )


def _parse_category(entry: Mapping[str, Any]) -> CategoryPolicy:
    return CategoryPolicy(WhenFull(entry["when_full"]), int(entry["max_bytes"]), int(entry["max_age_s"]))


def choose_ports(names: Iterable[PortName] = PortName) -> dict[PortName, int]:
    """Free ports, one each.

    They are looked for below the range from which the kernel takes the near end of outgoing connections: inside it, any
    connection of any program could hold the port of a broker that is just being restarted.
    """
    floor = int(_EPHEMERAL_RANGE.read_text("ascii").split()[0])
    candidates = list(range(_PORT_FLOOR, floor)) if floor > _PORT_FLOOR + 1000 else list(range(32768, 61000))
    random.SystemRandom().shuffle(candidates)
    free = (port for port in candidates if port_is_free(port))
    try:
        return {name: next(free) for name in names}
    except RuntimeError as error:  # what a StopIteration becomes inside the comprehension
        raise UnavailableError(Reason.PORT_TAKEN, "no free ports are left") from error


def port_is_free(port: int) -> bool:
    """Whether we could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True
