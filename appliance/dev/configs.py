# SPDX-License-Identifier: Apache-2.0
"""The configuration documents of an environment's processes, made from what was chosen for it. Pure."""

from __future__ import annotations

import json
import os
from typing import Final

from appliance.boundary.names import ZoneId
from appliance.dev.environment import CONTROL_PORT, FACTS_PORT, INTAKE_PORT, Environment, PortName
from appliance.dev.layout import ENTERPRISE, HOST, PLANT, KeysChoice
from appliance.keys.keeper.roles import Role

ROLES: Final = {
    PLANT: (Role.AGENT, Role.CONTROL, Role.WATCHDOG, Role.ADMINISTRATOR),
    ENTERPRISE: (Role.HUB, Role.CONTROL, Role.WATCHDOG, Role.ADMINISTRATOR),
}
"""All processes of an environment run as one user, who so has all roles; on a box each has a user of its own."""
_HEAD: Final = ["# SPDX-License-Identifier: Apache-2.0", "# Generated; changes are overwritten."]


def keeper_config(environment: Environment, zone: ZoneId) -> str:
    """The TOML document of a zone's keeper."""
    files = environment.layout.zone(zone)
    return _document(
        "# A software TPM, and a boot that is simulated: development only.",
        "[keeper]",
        f'zone = "{zone}"',
        f'hub = "{ENTERPRISE}"',
        f"socket = {_text(files.keeper_socket)}",
        'state_dir = "keeper"',
        f"run_dir = {_text(files.keeper_run)}",
        f"session_dir = {_text(files.sessions)}",
        'status_dir = "status"',
        'pki_dir = "pki"',
        f"session_s = {environment.session_s}",
        "[tpm]",
        f"tcti = {_text(environment.tcti(zone))}",
        "simulated_boot = true",
        "[trust]",
        'operators = "boot/operators.pem"',
        'image_key = "boot/image.pem"',
        'image_signatures = "boot/tpm2-pcr-signature.json"',
        'built = "boot/build-time"',
        'boot_log = "boot/firmware-log"',
        'runtime_log = "boot/runtime-log"',
        "[callers]",
        f"{os.getuid()} = {json.dumps(ROLES[zone])}",
    )


def node_config(environment: Environment, zone: ZoneId) -> str:
    """The TOML document of a zone's agent or hub."""
    ports, peers = environment.ports, (ENTERPRISE,) if zone == PLANT else environment.plants
    names = json.dumps(list(environment.categories))
    lines = [
        "[node]",
        f'zone = "{zone}"',
        'state_dir = "state"',
        'status_dir = "status"',
        *_keys(environment, zone),
        "[broker]",
        f'host = "{HOST}"',
        f"port = {ports[FACTS_PORT[zone]]}",
        'credentials = "local"',
        "[intake]",
        f'host = "{HOST}"',
        f"port = {ports[INTAKE_PORT[zone]]}",
        'tokens = "local/tokens.json"',
        'conflicts = "refuse"',  # here ids are played with, and nobody is there to lift a suspension
    ]
    for peer in peers:
        lines += [f"[peers.{peer}]", f"fetch = {names}", f"append = {names}"]
    for name, policy in environment.categories.items():
        lines += [
            f"[categories.{name}]",
            f'when_full = "{policy.when_full}"',
            f"max_bytes = {policy.max_bytes}",
            f"max_age_s = {policy.max_age_s}",
        ]
    return _document(*lines, *(_uplink(environment) if zone == PLANT else _listen(environment)))


def _keys(environment: Environment, zone: ZoneId) -> list[str]:
    if environment.keys is not KeysChoice.SWTPM:
        return ["[keys]", 'kind = "software"', 'pki_dir = "pki"']
    return [
        "[keys]",
        'kind = "keeper"',
        'pki_dir = "pki"',
        f"socket = {_text(environment.layout.zone(zone).keeper_socket)}",
        f"session = {_text(environment.session(zone))}",
    ]


def _uplink(environment: Environment) -> list[str]:
    ports = environment.ports
    lines = ["[uplink]", f'zone = "{ENTERPRISE}"', f'host = "{HOST}"', f"port = {ports[PortName.LINK_RPC]}"]
    if environment.keys is KeysChoice.SWTPM:
        lines += ["[trust]", f'host = "{HOST}"', f"port = {ports[PortName.LINK_TRUST]}"]
    return lines


def _listen(environment: Environment) -> list[str]:
    ports = environment.ports
    lines = ["[listen]", f'host = "{HOST}"', f"port = {ports[PortName.HUB_RPC]}"]
    if environment.keys is KeysChoice.SWTPM:
        lines += ["[trust]", f'host = "{HOST}"', f"port = {ports[PortName.HUB_TRUST]}"]
        lines += ['enrolment = "enrolment"', 'attestation = "required"']
    return [
        *lines,
        "[control]",
        f'host = "{HOST}"',
        f"port = {ports[CONTROL_PORT[ENTERPRISE]]}",
        'secrets = "control-secrets.json"',
        'authorities = "control/authorities.pem"',
    ]


def _text(value: object) -> str:
    """A string in TOML: a JSON string is one."""
    return json.dumps(str(value))


def _document(*lines: str) -> str:
    return "\n".join((*_HEAD, *lines)) + "\n"
