# SPDX-License-Identifier: Apache-2.0
"""The names and paths of an environment: which zones, which processes, where each of their files lies in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from appliance.boundary.names import ZoneId

PLANT: Final = ZoneId("plant-a")
ENTERPRISE: Final = ZoneId("enterprise")
ZONES: Final = (PLANT, ENTERPRISE)

HOST: Final = "127.0.0.1"
"""Where everything listens: an environment is for this machine alone."""


class KeysChoice(StrEnum):
    """What holds the boundary keys of an environment."""

    SWTPM = "swtpm"
    """A software TPM for each zone: the box's own way of doing it, on a TPM that protects nothing."""
    SOFTWARE = "software"
    """Files."""

    @property
    def about(self) -> str:
        """What that is worth, for people."""
        return _WORTH[self]


_WORTH: Final = {
    KeysChoice.SWTPM: "swtpm (software TPM: development only)",
    KeysChoice.SOFTWARE: "software (files: development only)",
}


class StepName(StrEnum):
    """What is done once when an environment comes up, and then is done."""

    ENTERPRISE_ENROL = "enterprise-enrol"
    PLANT_ENROL = "plant-enrol"


class ProcessName(StrEnum):
    """The processes of an environment, as ``bsfg dev fault kill`` names them; TPMs and keepers only with swtpm."""

    PLANT_TPM = "plant-tpm"
    ENTERPRISE_TPM = "enterprise-tpm"
    PLANT_KEEPER = "plant-keeper"
    ENTERPRISE_KEEPER = "enterprise-keeper"
    PLANT_NATS = "plant-nats"
    ENTERPRISE_NATS = "enterprise-nats"
    PLANT_CONTROL = "plant-control"
    ENTERPRISE_CONTROL = "enterprise-control"
    AGENT = "agent"
    HUB = "hub"


NODE: Final = {PLANT: ProcessName.AGENT, ENTERPRISE: ProcessName.HUB}
"""The node process of each zone."""
FACTS_BROKER: Final = {PLANT: ProcessName.PLANT_NATS, ENTERPRISE: ProcessName.ENTERPRISE_NATS}
CONTROL_BROKER: Final = {PLANT: ProcessName.PLANT_CONTROL, ENTERPRISE: ProcessName.ENTERPRISE_CONTROL}
TPM: Final = {PLANT: ProcessName.PLANT_TPM, ENTERPRISE: ProcessName.ENTERPRISE_TPM}
KEEPER: Final = {PLANT: ProcessName.PLANT_KEEPER, ENTERPRISE: ProcessName.ENTERPRISE_KEEPER}
ENROL: Final = {PLANT: StepName.PLANT_ENROL, ENTERPRISE: StepName.ENTERPRISE_ENROL}
ZONE_OF: Final = {
    process: zone for table in (TPM, KEEPER, FACTS_BROKER, CONTROL_BROKER, NODE) for zone, process in table.items()
}
"""The zone each process belongs to."""


def process_names(keys: KeysChoice, zones: Sequence[ZoneId] = ZONES) -> tuple[ProcessName, ...]:
    """The processes of an environment with such keys and these zones."""
    without = () if keys is KeysChoice.SWTPM else (*TPM.values(), *KEEPER.values())
    return tuple(name for name in ProcessName if name not in without and ZONE_OF[name] in zones)


@dataclass(frozen=True, slots=True)
class ZoneLayout:
    """The files of one zone, in a folder of its own."""

    zone: ZoneId
    root: Path
    run: Path

    @property
    def node_config(self) -> Path:
        """The configuration of agent or hub."""
        return self.root / f"{NODE[self.zone]}.toml"

    @property
    def pki(self) -> Path:
        """Keys and certificates of the node."""
        return self.root / "pki"

    @property
    def state(self) -> Path:
        """The ledger."""
        return self.root / "state"

    @property
    def status(self) -> Path:
        """Status documents."""
        return self.root / "status"

    @property
    def status_document(self) -> Path:
        """The status document of agent or hub."""
        return self.status / f"{NODE[self.zone]}.json"

    @property
    def local(self) -> Path:
        """The local keys: who may speak to nats-facts and to the intake."""
        return self.root / "local"

    def user(self, name: str) -> Path:
        """The credentials file of a user of nats-facts."""
        return (self.local if name in ("agent", "sys") else self.local / "issued") / f"{name}.creds"

    def token(self, name: str) -> Path:
        """The file with a producer's token for AppendFact over HTTP."""
        return self.local / "issued" / f"{name}.token"

    @property
    def control_secrets(self) -> Path:
        """The hub's password for nats-control: it ends leaf connections of whoever is denied."""
        return self.root / "control-secrets.json"

    @property
    def control_authorities(self) -> Path:
        """The device CAs that the hub's nats-control accepts; the hub writes them."""
        return self.root / "control" / "authorities.pem"

    @property
    def facts_config(self) -> Path:
        """The configuration of nats-facts."""
        return self.root / "nats-facts.conf"

    @property
    def facts_store(self) -> Path:
        """The facts: JetStream's files of nats-facts."""
        return self.root / "nats-facts"

    @property
    def control_config(self) -> Path:
        """The configuration of nats-control."""
        return self.root / "nats-control.conf"

    @property
    def control_store(self) -> Path:
        """JetStream's files of nats-control."""
        return self.root / "nats-control"

    @property
    def tpm(self) -> Path:
        """The software TPM."""
        return self.root / "tpm"

    @property
    def tpm_state(self) -> Path:
        """The software TPM's state: as secret as every key in it."""
        return self.tpm / "state"

    @property
    def boot(self) -> Path:
        """What the *simulated* boot measures into the software TPM."""
        return self.root / "boot"

    @property
    def keeper(self) -> Path:
        """The keeper's own files."""
        return self.root / "keeper"

    @property
    def keeper_config(self) -> Path:
        """The configuration of the keeper."""
        return self.root / "keeper.toml"

    @property
    def keeper_run(self) -> Path:
        """The keeper's files of one boot."""
        return self.run / "keeper"

    @property
    def keeper_socket(self) -> Path:
        """Where the keeper is asked."""
        return self.run / "keeper.sock"

    @property
    def office(self) -> Path:
        """The hub's enrolment office."""
        return self.root / "enrolment"

    @property
    def evidence(self) -> Path:
        """What the last latch on purpose said of itself; two operators sign a release over it."""
        return self.root / "evidence.txt"

    @property
    def keeper_document(self) -> Path:
        """The keeper's status document."""
        return self.status / "keeper.json"

    @property
    def sessions(self) -> Path:
        """Session keys and certificates, written by the keeper."""
        return self.run / "session"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of an environment."""

    root: Path

    @classmethod
    def at(cls, folder: Path) -> Layout:
        """The layout in a folder, which need not be there yet."""
        return cls(folder.absolute())

    @property
    def document(self) -> Path:
        """``env.json``: what the environment is, for programs; its presence marks the folder as an environment."""
        return self.root / "env.json"

    @property
    def ca(self) -> Path:
        """The development CA; no node reads it."""
        return self.root / "ca"

    @property
    def offline(self) -> Path:
        """What nobody keeps on a machine that runs: operators' keys, image key, the simulated TPM vendor's key."""
        return self.root / "offline"

    @property
    def run(self) -> Path:
        """What exists only while it runs."""
        return self.root / "run"

    @property
    def lock(self) -> Path:
        """Locked by the supervisor as long as it lives."""
        return self.run / "lock"

    @property
    def socket(self) -> Path:
        """The supervisor's control socket."""
        return self.run / "supervisor.sock"

    @property
    def pids(self) -> Path:
        """Which processes the supervisor started."""
        return self.run / "processes.json"

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.root / "log"

    @property
    def supervisor_log(self) -> Path:
        """The supervisor's own log."""
        return self.logs / "supervisor.log"

    def log(self, process: str) -> Path:
        """The log of a process."""
        return self.logs / f"{process}.log"

    def zone(self, zone: ZoneId) -> ZoneLayout:
        """The files of a zone."""
        return ZoneLayout(zone, self.root / zone, self.run / zone)
