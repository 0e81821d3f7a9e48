# SPDX-License-Identifier: Apache-2.0
"""The names and paths of an environment: which zones, which processes, where each of their files lies in its folder."""

from __future__ import annotations

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


class ProcessName(StrEnum):
    """The processes of an environment, as ``bsfg dev fault kill`` names them."""

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
ZONE_OF: Final = {process: zone for table in (NODE, FACTS_BROKER, CONTROL_BROKER) for zone, process in table.items()}
"""The zone each process belongs to."""


@dataclass(frozen=True, slots=True)
class ZoneLayout:
    """The files of one zone, in a folder of its own."""

    zone: ZoneId
    root: Path

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
    def broker_secrets(self) -> Path:
        """The node's passwords for nats-facts."""
        return self.root / "broker-secrets.json"

    @property
    def producers(self) -> Path:
        """The digests of the producers' tokens."""
        return self.root / "producers.json"

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
        return ZoneLayout(zone, self.root / zone)
