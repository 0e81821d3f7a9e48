# SPDX-License-Identifier: Apache-2.0
"""Make the files of an environment from what was chosen for it. Repeating it changes nothing that matters.

``env.json`` comes first: it holds every choice. All else is derived from it (configurations, secret files) or made once
and kept (keys); so it may be killed anywhere and called again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, parse_producer
from appliance.boundary.reasons import Reason
from appliance.brokers.config import MIB, Limits, Local, Secrets, write_config
from appliance.brokers.control import ControlHub, ControlLeaf, HubAddress, TlsFiles
from appliance.dev.boxes import make_boxes
from appliance.dev.configs import node_config
from appliance.dev.document import environment_document
from appliance.dev.environment import (
    CONTROL_PORT,
    FACTS_PORT,
    LOCAL_USERS,
    PRODUCERS,
    READERS,
    Environment,
    PortName,
    port_is_free,
)
from appliance.dev.layout import ENTERPRISE, HOST, PLANT, KeysChoice, Layout
from appliance.keys.devca import ensure_pki
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.config import SESSION_S
from appliance.keys.local.applications import Role
from appliance.keys.local.store import LocalKeys
from appliance.node.local import facts_broker

_FACTS_LIMITS: Final = Limits(max_file_store=64 * 1024 * MIB)
"""Room for the size limits of many epochs' streams together; the disk itself is not reserved."""
_CONTROL_LIMITS: Final = Limits(max_file_store=1024 * MIB)


def open_environment(layout: Layout, keys: KeysChoice | None = None, session_s: int | None = None) -> Environment:
    """The environment in a folder: loaded when it is there, else made.

    :param keys: what shall hold the keys; a new environment has software TPMs unless told otherwise.
    :param session_s: of a new environment.
    :raises UnavailableError: ``bad_environment``: the folder holds something else.
    :raises RefusedError: ``bad_input``: an environment that was made with other keys.
    """
    if layout.document.exists():
        environment = Environment.load(layout.root)
        if keys not in (None, environment.keys):
            raise RefusedError(Reason.BAD_INPUT, f"{layout.root} was made with {environment.keys} keys and keeps them")
        return environment
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
    return Environment.generate(layout, keys or KeysChoice.SWTPM, session_s or SESSION_S)


def write_document(environment: Environment, pids: Mapping[str, int | None] | None = None) -> None:
    """Replace ``env.json``; only its owner can read it."""
    text = json.dumps(environment_document(environment, pids), indent=2) + "\n"
    write_atomically(environment.layout.document, text.encode(), PRIVATE)


def provision(environment: Environment) -> None:
    """Write everything the processes need. Blocking: a tenth of a second, and the first time with TPMs two seconds."""
    layout = environment.layout
    layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_document(environment)
    for folder in (layout.run, layout.logs):
        folder.mkdir(mode=0o700, exist_ok=True)
    for zone in environment.zones:
        files = layout.zone(zone)
        for folder in (files.root, files.state, files.status, files.facts_store, files.control_store):
            folder.mkdir(mode=0o700, exist_ok=True)
    if environment.keys is KeysChoice.SWTPM:
        make_boxes(environment)
    else:
        ensure_pki(layout.ca, {zone: layout.zone(zone).pki for zone in environment.zones})
    for zone in environment.zones:
        _write_zone(environment, zone)


def taken_ports(environment: Environment) -> dict[PortName, int]:
    """The ports that somebody else holds now."""
    return {name: port for name, port in environment.ports.items() if not port_is_free(port)}


def _write_zone(environment: Environment, zone: ZoneId) -> None:
    files, credentials = environment.layout.zone(zone), environment.credentials[zone]
    _write_json(files.control_secrets, {"sys": credentials.control_users["sys"]})
    write_atomically(files.node_config, node_config(environment, zone).encode(), PRIVATE)
    write_facts_config(environment, zone, _local_keys(environment, zone))
    write_config(files.control_config, _control_config(environment, zone))


def write_facts_config(environment: Environment, zone: ZoneId, keys: LocalKeys) -> None:
    """The configuration of a zone's nats-facts, from what the local keys say now."""
    files = environment.layout.zone(zone)
    listen = Local(HOST, environment.ports[FACTS_PORT[zone]])
    write_config(files.facts_config, facts_broker(keys, listen, files.facts_store, _FACTS_LIMITS).render())


def _local_keys(environment: Environment, zone: ZoneId) -> LocalKeys:
    """The zone's local keys, with the local users that every environment has; one that was revoked stays so."""
    files = environment.layout.zone(zone)
    keys = LocalKeys.open(files.local, zone)
    for name in LOCAL_USERS:
        role = {(True, True): Role.SERVICE, (True, False): Role.PRODUCER, (False, True): Role.CONSUMER}
        keys.ensure(parse_producer(name), role[name in PRODUCERS, name in READERS], files.user(name).parent)
    return keys


def _control_config(environment: Environment, zone: ZoneId) -> str:
    files, ports = environment.layout.zone(zone), environment.ports
    users = environment.credentials[zone].control_users
    listen = Local(HOST, ports[CONTROL_PORT[zone]])
    secrets = Secrets(users["control"], users["sys"])
    tls = TlsFiles(environment.session(zone, "control"), PkiFolder(files.pki).hub_ca)
    if zone == PLANT:
        hub = HubAddress(ENTERPRISE, HOST, ports[PortName.LINK_LEAF])
        return ControlLeaf(zone, listen, files.control_store, secrets, _CONTROL_LIMITS, tls, hub).render()
    leaf_port = ports[PortName.HUB_LEAF]
    return ControlHub(
        zone,
        listen,
        files.control_store,
        secrets,
        _CONTROL_LIMITS,
        tls,
        HOST,
        leaf_port,
        environment.plants,
        files.control_authorities,
    ).render()


def _write_json(path: Path, document: Mapping[str, object]) -> None:
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n", PRIVATE)
