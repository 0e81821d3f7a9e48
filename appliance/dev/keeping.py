# SPDX-License-Identifier: Apache-2.0
"""A zone's keeper as the environment sees it: its socket, and the status document that it writes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields
from pathlib import Path

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.dev.environment import Environment
from appliance.dev.layout import KeysChoice
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.port import KeeperPort, KeeperStatus
from appliance.keys.keeper.values import from_json


@dataclass(frozen=True, slots=True)
class KeeperDocument:
    """What a keeper says of itself. :param pid: of the keeper that wrote it."""

    pid: int
    updated_at_unix_ms: int
    status: KeeperStatus

    @classmethod
    def read(cls, path: Path) -> KeeperDocument:
        """Read and parse; fields nobody knows are left out. :raises UnavailableError: ``keeper_unavailable``."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = {field.name: values[field.name] for field in fields(KeeperStatus)}
            return cls(int(values["pid"]), int(values["updated_at_unix_ms"]), from_json(KeeperStatus, known))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UnavailableError(Reason.KEEPER_UNAVAILABLE, f"{path}: {error}") from error

    @property
    def age_s(self) -> float:
        """Seconds since it was written."""
        return max(0.0, time.time() - self.updated_at_unix_ms / 1000)


def keeper_of(environment: Environment, zone: ZoneId) -> KeeperPort:
    """The zone's keeper. :raises UnavailableError: ``bad_environment``: the keys are files, and nobody keeps them."""
    if environment.keys is not KeysChoice.SWTPM:
        raise UnavailableError(
            Reason.BAD_ENVIRONMENT, f"the keys of {environment.layout.root} are files; there is no TPM and no keeper"
        )
    return KeeperClient(environment.layout.zone(zone).keeper_socket)
