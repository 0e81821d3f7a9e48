# SPDX-License-Identifier: Apache-2.0
"""When the hub last heard from each zone, also from before it was started; and since when a zone is silent.

A box in quarantine is dark: all that its hub sees of it is silence, and that its evidence grows stale. So the hub keeps
a small file beside its office, which ``bsfg hub boxes list`` reads too. It is a memory for people and decides nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.keys.files import PUBLIC, replace_file

SILENT_AFTER_MS: Final = 60_000
"""A box long-polls every few seconds; after so long it is called silent."""
SAVE_EVERY_S: Final = 5.0
RUNNING_MS: Final = 30_000
"""A file that is older was left by a hub that does not run."""
FORMAT: Final = "bsfg-fleet-1"

_log = logging.getLogger(__name__)


def wall_ms() -> int:
    """The hub's wall clock, which is boundary time, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of one zone. :param unix_ms: when it last called, or showed evidence; 0: never.

    :param attestation: ``fresh``, ``stale``, ``failed``; empty: not known.
    """

    unix_ms: int = 0
    attestation: str = ""

    def silent_since(self, now_ms: int) -> int:
        """Since when it is silent, in Unix milliseconds; 0: it is not, or it was never heard."""
        return self.unix_ms if self.unix_ms and now_ms - self.unix_ms > SILENT_AFTER_MS else 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the file says. :param running: whether its hub runs, so that it is of now."""

    zones: Mapping[ZoneId, Heard]
    running: bool

    @classmethod
    def read(cls, path: Path, now_ms: int) -> Fleet:
        """Read the file; one that is not there, or cannot be read, knows nothing."""
        try:
            values: Any = json.loads(path.read_bytes())
            if values["format"] != FORMAT:
                raise ValueError("another format")
            zones = {parse_zone(zone): _heard(each) for zone, each in values["zones"].items()}
            return cls(zones, abs(now_ms - int(values["written_unix_ms"])) <= RUNNING_MS)
        except FileNotFoundError:
            return cls({}, running=False)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, BsfgError) as error:
            _log.warning("%s: %s", path, error)
            return cls({}, running=False)


class FleetMemory:
    """The hub's memory of its fleet. :param path: ``None``: it is kept in memory alone.

    :param attestation: what is known of a zone now.
    """

    def __init__(
        self,
        path: Path | None,
        attestation: Callable[[ZoneId], str] = lambda _: "",
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._path = path
        self._attestation = attestation
        self._now_ms = now_ms
        known = Fleet.read(path, now_ms()).zones if path is not None else {}
        self._heard: dict[ZoneId, int] = {zone: each.unix_ms for zone, each in known.items()}

    def heard(self, zone: ZoneId) -> None:
        """A zone has proven itself just now."""
        self._heard[zone] = self._now_ms()

    def silent_since(self, zone: ZoneId) -> int:
        """Since when a zone is silent, in Unix milliseconds; 0: it is not, or was never heard."""
        return Heard(self._heard.get(zone, 0)).silent_since(self._now_ms())

    async def run(self) -> None:
        """Keep the file until cancelled."""
        while True:
            await trio.to_thread.run_sync(self.save)
            await trio.sleep(SAVE_EVERY_S)

    def save(self) -> None:
        """Write the file; a full disk stops the memory and nothing else. Blocking."""
        if self._path is None:
            return
        zones = {
            zone: {"heard_unix_ms": heard, "attestation": self._attestation(zone)}
            for zone, heard in sorted(self._heard.items())
        }
        document = {"format": FORMAT, "written_unix_ms": self._now_ms(), "zones": zones}
        try:
            replace_file(self._path, json.dumps(document, indent=1).encode() + b"\n", PUBLIC)
        except OSError as error:
            _log.warning("fleet: %s", error)


def _heard(values: Any) -> Heard:
    at, attestation = values["heard_unix_ms"], values["attestation"]
    if type(at) is not int or at < 0 or attestation not in {"", "fresh", "stale", "failed"}:
        raise ValueError("a zone that is none")
    return Heard(at, attestation)
