# SPDX-License-Identifier: Apache-2.0
"""The enrolment office inside the hub's process: it answers boxes through the network, and follows the operators.

Operators decide with ``bsfg hub`` in processes of their own; what they change is seen here within a second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import ZoneId
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.store import Quarantine
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.enrolment.rules import BoxState
from appliance.keys.release import Release

LOOK_EVERY_S: Final = 1.0

_log = logging.getLogger(__name__)


class EnrolmentService:
    """Four hooks of the hub's trust service: ``enrol``, ``enrolled``, ``released`` and ``quarantined``."""

    def __init__(self, office: EnrolmentOffice) -> None:
        self._office = office
        self._one = trio.CapacityLimiter(1)
        self._enrolled: Mapping[ZoneId, EnrolledAttestation] = {}
        self._quarantines: Mapping[ZoneId, Quarantine] = {}
        self._stamp = (0, 0)

    async def enrol(self, document: bytes) -> bytes:
        """One step of the dialogue. :raises UnavailableError: ``busy``, ``office_unusable``."""
        return await trio.to_thread.run_sync(self._office.answer, document, limiter=self._one)

    def enrolled(self, zone: ZoneId) -> EnrolledAttestation | None:
        """What is kept of a zone's box since its enrolment; ``None``: there is none, or it counts no more."""
        return self._enrolled.get(zone)

    def quarantine(self, zone: ZoneId) -> Quarantine | None:
        """The last quarantine of a zone's box; ``None``: it had none that is known here."""
        return self._quarantines.get(zone)

    async def released(self, zone: ZoneId, release: Release) -> None:
        """A zone's box has shown a release; it counts when this returns. :raises BsfgError: as the office says."""
        await trio.to_thread.run_sync(self._office.released, zone, release, limiter=self._one)
        await trio.to_thread.run_sync(self.refresh, limiter=self._one)

    async def quarantined(self, zone: ZoneId, counter: int) -> None:
        """A zone's TPM has said that its key was locked. :raises BsfgError: as the office says."""
        await trio.to_thread.run_sync(self._office.quarantine, zone, counter, limiter=self._one)
        await trio.to_thread.run_sync(self.refresh, limiter=self._one)

    async def run(self) -> None:
        """Finish what was begun before, and follow the office until cancelled."""
        try:
            await trio.to_thread.run_sync(self._office.settle, limiter=self._one)
        except BsfgError as error:
            _log.error("enrolment: %s", error)
        while True:
            await trio.to_thread.run_sync(self.refresh, limiter=self._one)
            await trio.sleep(LOOK_EVERY_S)

    def refresh(self) -> None:
        """Look at the office's file, if it changed. Blocking."""
        try:
            stamp = self._stamp_now()
            if stamp == self._stamp:
                return
            boxes, known = self._office.boxes(), self._office.quarantines()
        except (BsfgError, OSError) as error:
            _log.error("enrolment: %s", error)
            return
        counting = {BoxState.ENROLLED, BoxState.QUARANTINED}
        self._enrolled = {
            box.zone: box.record.for_attestation(quarantined=box.state is BoxState.QUARANTINED)
            for box in boxes
            if box.state in counting and box.record is not None
        }
        self._quarantines = {
            box.zone: known[box.fingerprint] for box in boxes if box.state in counting and box.fingerprint in known
        }
        self._stamp = stamp

    def _stamp_now(self) -> tuple[int, int]:
        """What tells that the file changed."""
        state = self._office.folder.database.stat()
        return state.st_mtime_ns, state.st_size
