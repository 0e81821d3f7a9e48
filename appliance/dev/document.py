# SPDX-License-Identifier: Apache-2.0
"""What ``env.json`` says of an environment, for any program that wants to join in (``docs/cli.md`` has the fields)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from appliance.boundary.names import ZoneId, identity_of
from appliance.dev.environment import (
    CONTROL_PORT,
    FACTS_PORT,
    INTAKE_PORT,
    KIND,
    LOCAL_USERS,
    PRODUCERS,
    TPM_PORT,
    VERSION,
    Environment,
    PortName,
)
from appliance.dev.folders import in_memory
from appliance.dev.layout import (
    CONTROL_BROKER,
    ENTERPRISE,
    FACTS_BROKER,
    HOST,
    KEEPER,
    NODE,
    TPM,
    ZONE_OF,
    KeysChoice,
)

_LINK: Final = {
    "rpc": (PortName.LINK_RPC, PortName.HUB_RPC),
    "leaf": (PortName.LINK_LEAF, PortName.HUB_LEAF),
    "trust": (PortName.LINK_TRUST, PortName.HUB_TRUST),
}


def environment_document(environment: Environment, pids: Mapping[str, int | None] | None = None) -> dict[str, Any]:
    """What stands in ``env.json``; ``pids`` of the processes that run."""
    layout, ports, running = environment.layout, environment.ports, pids or {}
    return {
        "kind": KIND,
        "version": VERSION,
        "about": "A BSFG development environment. Ports, categories and session_s may be edited while it is down.",
        "directory": str(layout.root),
        "created_at_unix_ms": environment.created_at_unix_ms,
        "control_socket": str(layout.socket),
        "keys": environment.keys,
        "session_s": environment.session_s,
        "offline_dir": str(layout.offline),
        "categories": {
            name: {"when_full": p.when_full, "max_bytes": p.max_bytes, "max_age_s": p.max_age_s}
            for name, p in environment.categories.items()
        },
        "plants": list(environment.plants),
        "zones": {zone: _zone(environment, zone) for zone in environment.zones},
        "link": {
            "simulated": True,
            **{
                name: {"host": HOST, "port": ports[port], "leads_to": ports[target]}
                for name, (port, target) in _LINK.items()
            },
        },
        "processes": {
            name: {"zone": ZONE_OF[name], "pid": running.get(name), "log": str(layout.log(name))}
            for name in environment.processes
        },
    }


def _zone(environment: Environment, zone: ZoneId) -> dict[str, Any]:
    files, credentials, ports = environment.layout.zone(zone), environment.credentials[zone], environment.ports
    document = {
        "identity": identity_of(zone),
        "node": NODE[zone],
        "node_config": str(files.node_config),
        "status_dir": str(files.status),
        "status_document": str(files.status_document),
        "state_dir": str(files.state),
        "facts_broker": {
            "process": FACTS_BROKER[zone],
            **_address("nats", ports[FACTS_PORT[zone]]),
            "users": {name: str(files.user(name)) for name in ("agent", "sys", *LOCAL_USERS)},
            "config": str(files.facts_config),
            "store_dir": str(files.facts_store),
        },
        "control_broker": {
            "process": CONTROL_BROKER[zone],
            **_address("nats", ports[CONTROL_PORT[zone]]),
            "users": dict(credentials.control_users),
            "config": str(files.control_config),
            "store_dir": str(files.control_store),
        },
        "http_intake": {
            **_address("http", ports[INTAKE_PORT[zone]]),
            "tokens": {name: str(files.token(name)) for name in PRODUCERS},
        },
        "pki": {
            "dir": str(files.pki),
            "ca": str(files.pki / "hub-ca.pem"),
            "certificate": str(environment.session(zone)),
            "key": str(environment.session(zone)),
        },
        "keys": _keys(environment, zone),
    }
    if zone == ENTERPRISE:
        document["rpc"] = {
            **_address("https", ports[PortName.HUB_RPC]),
            "tls_server_name": identity_of(ENTERPRISE),
        }
        document["leaf"] = _address("tls", ports[PortName.HUB_LEAF])
        document["trust"] = _address("https", ports[PortName.HUB_TRUST])
    return document


def _keys(environment: Environment, zone: ZoneId) -> dict[str, Any]:
    """What holds the zone's boundary key. Of the TPM and its vendor, nothing is real, and that is said."""
    files = environment.layout.zone(zone)
    if environment.keys is not KeysChoice.SWTPM:
        return {"kind": environment.keys, "about": environment.keys.about}
    port = environment.ports[TPM_PORT[zone]]
    return {
        "kind": environment.keys,
        "about": environment.keys.about,
        "tpm": {
            "process": TPM[zone],
            "simulated": True,
            "tcti": environment.tcti(zone),
            "host": HOST,
            "port": port,
            "control_port": port + 1,
            "state_dir": str(files.tpm_state),
        },
        "keeper": {
            "process": KEEPER[zone],
            "config": str(files.keeper_config),
            "socket": str(files.keeper_socket),
            "state_dir": str(files.keeper),
            "status_document": str(files.keeper_document),
            "session_dir": str(files.sessions),
            "session_dir_in_memory": in_memory(files.sessions),
        },
    }


def _address(scheme: str, port: int) -> dict[str, Any]:
    return {"url": f"{scheme}://{HOST}:{port}", "host": HOST, "port": port}
