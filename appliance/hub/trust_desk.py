# SPDX-License-Identifier: Apache-2.0
"""The hub's trust service in its process: enrolment office, time and attestation behind one listener.

It listens as soon as the hub has a session; until the office's folder is there, and whenever it is unusable, the status
says so, and facts go on crossing for boxes that are enrolled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.service import EnrolmentService
from appliance.hub.measurements import MeasurementsFile
from appliance.hub.trust import AttestationBook, AttestationPolicy, TrustHooks, TrustService, boottime_s
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.node.config import Endpoint, OfficeConfig
from appliance.node.keys import NodeKeys
from appliance.peer.trust_server import TrustServerConfig, serve_trust, trust_server_context

_log = logging.getLogger(__name__)

OPEN_AGAIN_S: Final = 1.0


class TrustDesk:
    """Everything behind the hub's ``[trust]``.

    :param session: the hub's session file.
    """

    def __init__(self, zone: ZoneId, listen: Endpoint, office: OfficeConfig, session: Path, keys: NodeKeys) -> None:
        self._zone, self._listen, self._office, self._session, self._keys = zone, listen, office, session, keys
        self._book = AttestationBook(AttestationPolicy(office.attestation.value))
        self._enrolment: EnrolmentService | None = None
        self._measurements: MeasurementsFile | None = None
        self._problem: BsfgError | None = None

    def refusal(self, zone: ZoneId) -> BsfgError | None:
        """Why a proven zone may not call now: its box does not attest, and must."""
        now = boottime_s()
        self._book.follow(zone, self._enrolled(zone))
        return self._book.problem(zone, now) if self._book.admits(zone, now) is not None else None

    def state(self, zone: ZoneId) -> str:
        """``fresh``, ``stale`` or ``failed``; empty for a zone without an enrolled TPM."""
        return str(self._book.state(zone, boottime_s())) if self._attests(zone) else ""

    def problems(self) -> Iterator[tuple[str, BsfgError]]:
        """What is wrong now, and where."""
        if self._problem is not None:
            yield "trust", self._problem
        if self._measurements is not None and self._measurements.problem is not None:
            yield "measurements", self._measurements.problem
        for zone in self._keys.standing.registry.zones():
            if self._attests(zone) and (error := self._book.problem(zone, boottime_s())) is not None:
                yield f"attestation of {zone}", error

    async def run(self) -> None:
        """Serve until cancelled."""
        office = await self._open_office()
        self._enrolment = EnrolmentService(office)
        self._measurements = MeasurementsFile(office.folder.measurements, partial(_image_keys, office))
        await self._keys.standing.ready()
        hooks = TrustHooks(self._keys.port.sign, self._enrol, self._enrolment.enrolled, self._measurements.current)
        service = TrustService(self._zone, hooks, self._book)
        config = TrustServerConfig(self._listen.host, self._listen.port, partial(trust_server_context, self._session))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._enrolment.run)
            nursery.start_soon(partial(serve_trust, service, config))

    async def _enrol(self, document: bytes) -> bytes:
        """A box that was just enrolled dials at once, and must be known by then."""
        if self._enrolment is None:
            raise UnavailableError(Reason.NOT_READY, "the enrolment office is not open yet")
        answer = await self._enrolment.enrol(document)
        await self._keys.standing.registry.look()
        return answer

    def _attests(self, zone: ZoneId) -> bool:
        return zone != self._zone and self._enrolled(zone) is not None

    def _enrolled(self, zone: ZoneId) -> EnrolledAttestation | None:
        return None if self._enrolment is None else self._enrolment.enrolled(zone)

    async def _open_office(self) -> EnrolmentOffice:
        while True:
            try:
                office = await trio.to_thread.run_sync(EnrolmentOffice, self._office.folder)
            except BsfgError as error:
                if str(error) != str(self._problem):
                    _log.error("enrolment office: %s", error)
                self._problem = error
                await trio.sleep(OPEN_AGAIN_S)
            else:
                self._problem = None
                return office


def _image_keys(office: EnrolmentOffice) -> Sequence[rsa.RSAPublicKey]:
    return office.folder.demands().image_keys
