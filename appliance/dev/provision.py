# SPDX-License-Identifier: Apache-2.0
"""Make the files of an environment from what was chosen for it. Repeating it changes nothing that matters.

``env.json`` comes first: it holds every choice. All else is derived from it (configurations, secret files) or made once
and kept (keys); so it may be killed anywhere and called again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId, parse_producer
from appliance.boundary.reasons import Reason
from appliance.brokers.config import MIB, Limits, Local, LocalUser, Secrets, write_config
from appliance.brokers.control import ControlHub, ControlLeaf, HubAddress, TlsFiles
from appliance.brokers.facts import FactsBroker
from appliance.dev.environment import (
    CONTROL_PORT,
    FACTS_PORT,
    INTAKE_PORT,
    PRODUCERS,
    READERS,
    Environment,
    PortName,
    port_is_free,
)
from appliance.dev.layout import ENTERPRISE, HOST, PLANT, ZONES, Layout
from appliance.keys.devca import ensure_pki
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.software import PkiFolder

_FACTS_LIMITS: Final = Limits(max_file_store=64 * 1024 * MIB)
"""Room for the size limits of many epochs' streams together; the disk itself is not reserved."""
_CONTROL_LIMITS: Final = Limits(max_file_store=1024 * MIB)


def open_environment(layout: Layout) -> Environment:
    """The environment in a folder: loaded when it is there, else made.

    :raises UnavailableError: ``bad_environment``: the folder holds something else.
    """
    if layout.document.exists():
        return Environment.load(layout.root)
    try:
        layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The lock is taken and the supervisor's log opened before env.json exists.
        strangers = [path.name for path in layout.root.iterdir() if path not in (layout.run, layout.logs)]
    except OSError as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{layout.root}: {error.strerror}") from error
    if strangers:
        raise UnavailableError(
            Reason.BAD_ENVIRONMENT, f"{layout.root} is not empty and has no env.json; it holds {min(strangers)!r}"
        )
    return Environment.generate(layout)


def write_document(environment: Environment, pids: Mapping[str, int | None] | None = None) -> None:
    """Replace ``env.json``; only its owner can read it."""
    text = json.dumps(environment.to_document(pids), indent=2) + "\n"
    write_atomically(environment.layout.document, text.encode(), PRIVATE)


def provision(environment: Environment) -> None:
    """Write everything the processes need. Blocking; about a tenth of a second."""
    layout = environment.layout
    layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_document(environment)
    for folder in (layout.run, layout.logs):
        folder.mkdir(mode=0o700, exist_ok=True)
    for zone in ZONES:
        files = layout.zone(zone)
        for folder in (files.root, files.state, files.status, files.facts_store, files.control_store):
            folder.mkdir(mode=0o700, exist_ok=True)
    ensure_pki(layout.ca, {zone: layout.zone(zone).pki for zone in ZONES})
    for zone in ZONES:
        _write_zone(environment, zone)


def taken_ports(environment: Environment, names: Iterable[PortName] = PortName) -> dict[PortName, int]:
    """The ports that somebody else holds now."""
    return {name: environment.ports[name] for name in names if not port_is_free(environment.ports[name])}


def _write_zone(environment: Environment, zone: ZoneId) -> None:
    files, credentials = environment.layout.zone(zone), environment.credentials[zone]
    _write_json(files.broker_secrets, {name: credentials.facts_users[name] for name in ("agent", "sys")})
    digests = {hashlib.sha256(token.encode()).hexdigest(): name for name, token in credentials.tokens.items()}
    _write_json(files.producers, {digest: {"producer": name} for digest, name in digests.items()})
    write_atomically(files.node_config, node_config(environment, zone).encode(), PRIVATE)
    facts = FactsBroker(
        zone,
        Local(HOST, environment.ports[FACTS_PORT[zone]]),
        files.facts_store,
        Secrets(credentials.facts_users["agent"], credentials.facts_users["sys"]),
        _FACTS_LIMITS,
        _local_users(credentials.facts_users),
    )
    write_config(files.facts_config, facts.render())
    write_config(files.control_config, _control_config(environment, zone))


def _local_users(passwords: Mapping[str, str]) -> tuple[LocalUser, ...]:
    return tuple(
        LocalUser(parse_producer(name), passwords[name], produces=name in PRODUCERS, reads=name in READERS)
        for name in dict.fromkeys((*PRODUCERS, *READERS))
    )


def _control_config(environment: Environment, zone: ZoneId) -> str:
    files, ports = environment.layout.zone(zone), environment.ports
    users = environment.credentials[zone].control_users
    listen = Local(HOST, ports[CONTROL_PORT[zone]])
    secrets = Secrets(users["control"], users["sys"])
    pki = PkiFolder(files.pki)
    tls = TlsFiles(pki.session, pki.hub_ca)
    if zone == PLANT:
        hub = HubAddress(ENTERPRISE, HOST, ports[PortName.LINK_LEAF])
        return ControlLeaf(zone, listen, files.control_store, secrets, _CONTROL_LIMITS, tls, hub).render()
    leaf_port = ports[PortName.HUB_LEAF]
    return ControlHub(
        zone, listen, files.control_store, secrets, _CONTROL_LIMITS, tls, HOST, leaf_port, (PLANT,)
    ).render()


def node_config(environment: Environment, zone: ZoneId) -> str:
    """The TOML document of a zone's agent or hub."""
    ports, peer = environment.ports, ENTERPRISE if zone == PLANT else PLANT
    names = json.dumps(list(environment.categories))
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Generated; changes are overwritten.",
        "[node]",
        f'zone = "{zone}"',
        'state_dir = "state"',
        'status_dir = "status"',
        'pki_dir = "pki"',
        "[broker]",
        f'host = "{HOST}"',
        f"port = {ports[FACTS_PORT[zone]]}",
        'secrets = "broker-secrets.json"',
        "[intake]",
        f'host = "{HOST}"',
        f"port = {ports[INTAKE_PORT[zone]]}",
        'tokens = "producers.json"',
        f"[peers.{peer}]",
        f"fetch = {names}",
        f"append = {names}",
    ]
    for name, policy in environment.categories.items():
        lines += [
            f"[categories.{name}]",
            f'when_full = "{policy.when_full}"',
            f"max_bytes = {policy.max_bytes}",
            f"max_age_s = {policy.max_age_s}",
        ]
    if zone == PLANT:
        lines += ["[uplink]", f'zone = "{ENTERPRISE}"', f'host = "{HOST}"', f"port = {ports[PortName.LINK_RPC]}"]
    else:
        lines += ["[listen]", f'host = "{HOST}"', f"port = {ports[PortName.HUB_RPC]}"]
    return "\n".join(lines) + "\n"


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n", PRIVATE)
