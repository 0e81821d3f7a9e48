# SPDX-License-Identifier: Apache-2.0
"""The configuration of one keeper: one TOML document, parsed strictly. Relative paths are relative to the document.

Example::

    [keeper]
    zone = "plant-a"
    hub = "enterprise"                 # the zone of the hub; the same as zone: this is the hub's own keeper
    socket = "/run/bsfg/keeper.sock"
    state_dir = "/var/lib/bsfg/keeper" # key file, device CA certificate, sealed secrets
    run_dir = "/run/bsfg/keeper"       # tmpfs: what is good for this boot
    session_dir = "/run/bsfg/session"  # agent.pem and control.pem; with a TPM device it must be in a tmpfs
    status_dir = "/run/bsfg/status"
    pki_dir = "/var/lib/bsfg/pki"      # hub-ca.pem, zones/<zone>.pem
    session_s = 600                    # how long a session certificate is good for; optional

    [tpm]
    tcti = "device:/dev/tpmrm0"        # never guessed; a software TPM: "swtpm:host=127.0.0.1,port=2321"
    timeout_s = 15                     # one call's longest time; optional
    simulated_boot = false             # development on a software TPM alone; optional

    [trust]
    operators = "operators.pem"        # 2 or 3 public keys
    image_key = "image.pem"            # the public key that signs PCR 11
    image_signatures = "/run/systemd/tpm2-pcr-signature.json"
    built = "/usr/lib/bsfg/build-time" # Unix seconds; optional
    boot_log = "/sys/kernel/security/tpm0/binary_bios_measurements"  # optional
    runtime_log = "/run/log/systemd/tpm2-measure.log"                # optional

    [callers]                          # uid = roles
    0 = ["administrator"]
    990 = ["agent"]

    [groups]                           # optional: session = gid that may read its file
    control = 991
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.boundary.sections import Section
from appliance.keys.certificates import SESSION_VALIDITY
from appliance.keys.files import parse_toml
from appliance.keys.keeper.port import SESSION_NAMES
from appliance.keys.keeper.roles import Role

BOOT_LOG: Final = "/sys/kernel/security/tpm0/binary_bios_measurements"
RUNTIME_LOG: Final = "/run/log/systemd/tpm2-measure.log"
TIMEOUT_S: Final = 15.0
"""A TPM takes seconds at most for what a call needs."""
SESSION_S: Final = int(SESSION_VALIDITY.total_seconds())
SESSION_S_RANGE: Final = range(6, 86_401)
_TCTIS: Final = ("device:", "swtpm:")


@dataclass(frozen=True, slots=True)
class TpmConfig:
    """Which TPM, and how patient to be with it.

    :param simulated_boot: extend PCRs of a software TPM as if a machine had booted.
    """

    tcti: str
    timeout_s: float = TIMEOUT_S
    simulated_boot: bool = False

    @property
    def kind(self) -> str:
        """``tpm``, or ``swtpm`` for a software TPM, which protects nothing."""
        return "swtpm" if self.tcti.startswith("swtpm:") else "tpm"


@dataclass(frozen=True, slots=True)
class TrustConfig:
    """Files with public keys and logs; see the example."""

    operators: Path
    image_key: Path
    image_signatures: Path
    built: Path | None
    boot_log: Path
    runtime_log: Path


@dataclass(frozen=True, slots=True)
class KeeperConfig:
    """Everything one keeper is told.

    :param session_s: how long a session certificate is good for.
    :param callers: roles by uid. :param groups: by session name, the group that may read its file.
    """

    zone: ZoneId
    hub: ZoneId
    socket: Path
    state_dir: Path
    run_dir: Path
    session_dir: Path
    status_dir: Path
    pki_dir: Path
    tpm: TpmConfig
    trust: TrustConfig
    callers: Mapping[int, frozenset[Role]]
    groups: Mapping[str, int]
    session_s: int = SESSION_S

    @property
    def is_hub(self) -> bool:
        """Whether this keeper is the hub's own: its boundary time is its wall clock."""
        return self.zone == self.hub

    @classmethod
    def load(cls, path: Path) -> KeeperConfig:
        """Read and parse. :raises RefusedError: ``bad_input`` with file, table and field."""
        try:
            return parse_toml(path, lambda root: _parse(root, path.parent))
        except OSError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: {error.strerror}") from error


def _parse(root: Section, base: Path) -> KeeperConfig:
    keeper, tpm, trust, callers = (root.need(name) for name in ("keeper", "tpm", "trust", "callers"))
    groups = root.section("groups") or Section("groups", {})
    config = KeeperConfig(
        zone=keeper.zone(),
        hub=keeper.zone("hub"),
        socket=base / keeper.take("socket", str),
        state_dir=base / keeper.take("state_dir", str),
        run_dir=base / keeper.take("run_dir", str),
        session_dir=base / keeper.take("session_dir", str),
        status_dir=base / keeper.take("status_dir", str),
        pki_dir=base / keeper.take("pki_dir", str),
        session_s=keeper.take("session_s", int, SESSION_S),
        tpm=_tpm(tpm),
        trust=_trust(trust, base),
        callers=dict(_caller(callers, uid, roles) for uid, roles in callers.rest().items()),
        groups=dict(_group(groups, name, group) for name, group in groups.rest().items()),
    )
    for section in (keeper, tpm, trust, root):
        section.end()
    if not config.callers:
        raise callers.refuse("names nobody")
    if config.session_s not in SESSION_S_RANGE:
        raise keeper.refuse(f"session_s must be {SESSION_S_RANGE[0]} to {SESSION_S_RANGE[-1]}")
    return config


def _tpm(section: Section) -> TpmConfig:
    config = TpmConfig(
        section.take("tcti", str),
        section.take("timeout_s", float, TIMEOUT_S),
        section.take("simulated_boot", bool, False),
    )
    if not config.tcti.startswith(_TCTIS):
        raise section.refuse(f"tcti must begin with one of {', '.join(_TCTIS)}")
    if config.simulated_boot and config.kind != "swtpm":
        raise section.refuse(f"simulated_boot makes up PCRs: for a software TPM (swtpm:) alone, not {config.tcti}")
    if not 0.5 <= config.timeout_s <= 300:
        raise section.refuse("timeout_s must be 0.5 to 300")
    return config


def _trust(section: Section, base: Path) -> TrustConfig:
    operators, image_key, signatures = (
        base / section.take(field, str) for field in ("operators", "image_key", "image_signatures")
    )
    built = section.take("built", str, "")
    logs = (base / section.take("boot_log", str, BOOT_LOG), base / section.take("runtime_log", str, RUNTIME_LOG))
    return TrustConfig(operators, image_key, signatures, base / built if built else None, *logs)


def _caller(section: Section, uid: str, roles: Any) -> tuple[int, frozenset[Role]]:
    if not uid.isdecimal() or not isinstance(roles, list) or not roles:
        raise section.refuse(f"{uid}: a uid and a list of roles")
    try:
        return int(uid), frozenset(Role(role) for role in roles)
    except ValueError as error:
        raise section.refuse(f"{uid}: the roles are {', '.join(Role)}") from error


def _group(section: Section, name: str, group: Any) -> tuple[str, int]:
    if name not in SESSION_NAMES or type(group) is not int or group < 0:
        raise section.refuse(f"{name}: a session's name ({', '.join(SESSION_NAMES)}) and a group's number")
    return name, group
