# SPDX-License-Identifier: Apache-2.0
"""What the ladder calls: gathers a case's evidence, has it sealed, and keeps it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import BsfgError
from appliance.keys.keeper.port import KeeperPort, Latched
from appliance.keys.tpm.public import Digest
from appliance.watchdog.evidence.bundle import digest_of
from appliance.watchdog.evidence.collecting import collect
from appliance.watchdog.evidence.sources import Sources
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.quarantine.case import Case

FOLDER: Final = Path("/var/lib/bsfg/watchdog/evidence")
"""Where it is kept on a box."""
_log = logging.getLogger(__name__)


class KeptEvidence:
    """An :class:`~appliance.watchdog.quarantine.ports.EvidenceTaker` on the keeper, the sources and a folder.

    :param hook: called with the name of each durable step; tests end there.
    """

    def __init__(
        self,
        keeper: KeeperPort,
        sources: Sources,
        store: EvidenceStore,
        hook: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._keeper = keeper
        self._sources = sources
        self._store = store
        self._hook = hook

    def prepare(self) -> None:
        """Keep room on the disk for the next bundle; without it, evidence needs a disk that is not full. Blocking."""
        try:
            self._store.reserve()
        except OSError as error:
            _log.error("no room is kept for evidence: %s", error)

    async def take(self, case: Case, latched: Latched | None) -> Digest:
        """As the port says."""
        number, previous = await trio.to_thread.run_sync(self._place)
        bundle, seal = await collect(case, latched, self._keeper, self._sources, number=number, previous=previous)
        self._hook("collected")
        digest = await trio.to_thread.run_sync(self._store.add, bundle.render(), seal.render())
        self._hook("kept")
        await trio.to_thread.run_sync(self.prepare)
        _log.warning("evidence %d of %s: SHA-256 %s", number, case.code, digest.hex())
        return digest

    def _place(self) -> tuple[int, str]:
        """The next number, and the digest of the bundle before; one that cannot be read is not named."""
        latest = self._store.latest()
        try:
            previous = digest_of(latest.read()[0]).hex() if latest is not None else ""
        except (OSError, BsfgError) as error:
            _log.error("the evidence before: %s", error)
            previous = ""
        return self._store.next_number(), previous
