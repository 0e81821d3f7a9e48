# SPDX-License-Identifier: Apache-2.0
"""What an environment is: its ports, credentials and categories. They are chosen once and kept in ``env.json``.

``env.json`` is written for any program that wants to join in (``docs/cli.md`` lists its fields). Read back are only
the choices: ports, passwords, categories. Paths follow from where the folder is now.
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
from appliance.boundary.names import Category, ZoneId, parse_category, parse_zone
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.boundary.reasons import Reason
from appliance.dev.layout import ENTERPRISE, HOST, PLANT, ZONES, KeysChoice, Layout, ProcessName, process_names
from appliance.factlog.natslogin import CredentialsFile, client_options
from appliance.keys.keeper.config import SESSION_S, SESSION_S_RANGE

KIND: Final = "bsfg-dev-environment"
VERSION: Final = 2

PRODUCERS: Final = ("cli", "sensors", "orders", "app")
"""Local users that produce; each has NATS credentials and a token for HTTP."""
READERS: Final = ("app", "reader")
"""Local users that read."""
LOCAL_USERS: Final = tuple(dict.fromkeys((*PRODUCERS, *READERS)))

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
    HUB_TRUST = "hub trust listener"
    LINK_RPC = "simulated link to the hub RPC"
    LINK_LEAF = "simulated link to the hub leaf listener"
    LINK_TRUST = "simulated link to the hub trust listener"
    PLANT_TPM = "plant-a software TPM"
    PLANT_TPM_CONTROL = "plant-a software TPM, control channel"
    ENTERPRISE_TPM = "enterprise software TPM"
    ENTERPRISE_TPM_CONTROL = "enterprise software TPM, control channel"


FACTS_PORT: Final = {PLANT: PortName.PLANT_FACTS, ENTERPRISE: PortName.ENTERPRISE_FACTS}
CONTROL_PORT: Final = {PLANT: PortName.PLANT_CONTROL, ENTERPRISE: PortName.ENTERPRISE_CONTROL}
INTAKE_PORT: Final = {PLANT: PortName.PLANT_INTAKE, ENTERPRISE: PortName.ENTERPRISE_INTAKE}
TPM_PORT: Final = {PLANT: PortName.PLANT_TPM, ENTERPRISE: PortName.ENTERPRISE_TPM}
_BESIDE: Final = {
    PortName.PLANT_TPM: PortName.PLANT_TPM_CONTROL,
    PortName.ENTERPRISE_TPM: PortName.ENTERPRISE_TPM_CONTROL,
}
"""The TPM libraries look for the control channel of a software TPM one port above its commands."""


@dataclass(frozen=True, slots=True)
class ZoneCredentials:
    """Passwords by user of nats-control. The users of nats-facts have credentials files."""

    control_users: Mapping[str, str] = field(repr=False)

    @classmethod
    def generate(cls) -> ZoneCredentials:
        """New random ones."""
        return cls({name: secrets.token_urlsafe(24) for name in ("control", "sys")})


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment: where it is and what was chosen for it.

    :param session_s: seconds that a session certificate of a keeper is good for.
    :param zones: those that run here; a hub alone has its own. :param plants: those that the hub serves.
    """

    layout: Layout
    created_at_unix_ms: int
    ports: Mapping[PortName, int]
    credentials: Mapping[ZoneId, ZoneCredentials]
    categories: Mapping[Category, CategoryPolicy]
    keys: KeysChoice
    session_s: int = SESSION_S
    zones: tuple[ZoneId, ...] = ZONES
    plants: tuple[ZoneId, ...] = (PLANT,)

    @classmethod
    def generate(
        cls,
        layout: Layout,
        keys: KeysChoice,
        session_s: int = SESSION_S,
        zones: tuple[ZoneId, ...] = ZONES,
        plants: tuple[ZoneId, ...] = (PLANT,),
    ) -> Environment:
        """A new one, on ports that are free now."""
        return cls(
            layout,
            int(time.time() * 1000),
            choose_ports(port_names(keys, zones)),
            {zone: ZoneCredentials.generate() for zone in zones},
            CATEGORIES,
            keys,
            session_s,
            zones,
            plants,
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
                f"{layout.document} is of version {document.get('version')}, this program reads {VERSION}: another"
                " bsfg made it; end it with that one, or remove the folder and make a new one",
            )
        try:
            return _parse(layout, document)
        except (KeyError, TypeError, ValueError, AttributeError, RefusedError) as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{layout.document}: {error!r}") from error

    def facts_url(self, zone: ZoneId) -> str:
        """Where a NATS client finds the zone's facts."""
        return f"nats://{HOST}:{self.ports[FACTS_PORT[zone]]}"

    def facts_login(self, zone: ZoneId, user: str) -> dict[str, Any]:
        """What nats-py is told to connect to the zone's facts as a user; the file is read for each connection."""
        login = CredentialsFile(self.layout.zone(zone).user(user))
        return {"servers": self.facts_url(zone), **client_options(login)}

    def token(self, zone: ZoneId, producer: str) -> str:
        """A producer's token for AppendFact over HTTP. :raises UnavailableError: ``bad_environment``."""
        path = self.layout.zone(zone).token(producer)
        try:
            return path.read_text("ascii").strip()
        except OSError as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{path}: {error.strerror}") from error

    @property
    def processes(self) -> tuple[ProcessName, ...]:
        """The processes of this environment."""
        return process_names(self.keys, self.zones)

    def tcti(self, zone: ZoneId) -> str:
        """How the TPM libraries find the zone's software TPM."""
        return f"swtpm:host={HOST},port={self.ports[TPM_PORT[zone]]}"

    def session(self, zone: ZoneId, name: str = "agent") -> Path:
        """The session file of a zone's service: key, certificate and device CA certificate."""
        files = self.layout.zone(zone)
        return files.sessions / f"{name}.pem" if self.keys is KeysChoice.SWTPM else files.pki / "session.pem"


def _parse(layout: Layout, document: Mapping[str, Any]) -> Environment:
    zones, link = document["zones"], document["link"]
    ports = {
        PortName.HUB_RPC: zones[ENTERPRISE]["rpc"]["port"],
        PortName.HUB_LEAF: zones[ENTERPRISE]["leaf"]["port"],
        PortName.HUB_TRUST: zones[ENTERPRISE]["trust"]["port"],
        PortName.LINK_RPC: link["rpc"]["port"],
        PortName.LINK_LEAF: link["leaf"]["port"],
        PortName.LINK_TRUST: link["trust"]["port"],
    }
    keys = KeysChoice(document["keys"])
    here = tuple(zone for zone in ZONES if zone in zones)
    plants = tuple(parse_zone(name) for name in document.get("plants", [PLANT]))
    for table, part in ((FACTS_PORT, "facts_broker"), (CONTROL_PORT, "control_broker"), (INTAKE_PORT, "http_intake")):
        ports |= {table[zone]: zones[zone][part]["port"] for zone in here}
    if keys is KeysChoice.SWTPM:
        for zone in here:
            name = TPM_PORT[zone]
            ports[name] = zones[zone]["keys"]["tpm"]["port"]
            ports[_BESIDE[name]] = ports[name] + 1
    for name, port in ports.items():
        if type(port) is not int or not 0 < port < 65536:
            raise RefusedError(Reason.BAD_INPUT, f"{name}: port {port!r}")
    if len(set(ports.values())) != len(ports):
        raise RefusedError(Reason.BAD_INPUT, "two ports are the same")
    created = document["created_at_unix_ms"]
    if type(created) is not int:
        raise RefusedError(Reason.BAD_INPUT, "created_at_unix_ms must be an integer")
    session_s = document["session_s"]
    if type(session_s) is not int or session_s not in SESSION_S_RANGE:
        raise RefusedError(Reason.BAD_INPUT, f"session_s: {SESSION_S_RANGE[0]} to {SESSION_S_RANGE[-1]} seconds")
    return Environment(
        layout,
        created,
        ports,
        {zone: _parse_credentials(zones[zone]) for zone in here},
        {parse_category(name): _parse_category(entry) for name, entry in document["categories"].items()},
        keys,
        session_s,
        here,
        plants,
    )


def _parse_credentials(zone: Mapping[str, Any]) -> ZoneCredentials:
    expected = ZoneCredentials.generate()
    return ZoneCredentials(
        {name: str(zone["control_broker"]["users"][name]) for name in expected.control_users},
    )


def _parse_category(entry: Mapping[str, Any]) -> CategoryPolicy:
    return CategoryPolicy(WhenFull(entry["when_full"]), int(entry["max_bytes"]), int(entry["max_age_s"]))


def port_names(keys: KeysChoice, zones: Iterable[ZoneId] = ZONES) -> tuple[PortName, ...]:
    """The ports of an environment with such keys and these zones."""
    without: set[PortName] = set() if keys is KeysChoice.SWTPM else {*_BESIDE, *_BESIDE.values()}
    for zone in set(ZONES).difference(zones):
        without |= {table[zone] for table in (FACTS_PORT, CONTROL_PORT, INTAKE_PORT, TPM_PORT)}
        without.add(_BESIDE[TPM_PORT[zone]])
    return tuple(name for name in PortName if name not in without)


def choose_ports(names: Iterable[PortName] = PortName) -> dict[PortName, int]:
    """Free ports, one each; that of a TPM's control channel is the one above its commands.

    They are looked for below the range from which the kernel takes the near end of outgoing connections: inside it, any
    connection of any program could hold the port of a broker that is just being restarted.
    """
    floor = int(_EPHEMERAL_RANGE.read_text("ascii").split()[0])
    candidates = list(range(_PORT_FLOOR, floor)) if floor > _PORT_FLOOR + 1000 else list(range(32768, 61000))
    random.SystemRandom().shuffle(candidates)
    chosen: dict[PortName, int] = {}
    wanted = [name for name in names if name not in _BESIDE.values()]
    for port in candidates:
        if not wanted:
            return chosen
        needed = [port, port + 1] if wanted[0] in _BESIDE else [port]
        if any(number in chosen.values() or not port_is_free(number) for number in needed):
            continue
        name = wanted.pop(0)
        chosen |= dict(zip((name, _BESIDE.get(name, name)), (port, needed[-1]), strict=True))
    raise UnavailableError(Reason.PORT_TAKEN, "no free ports are left")


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
