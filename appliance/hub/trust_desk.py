# SPDX-License-Identifier: Apache-2.0
"""The hub's trust service in its process: enrolment office, time and attestation behind one listener.

It listens as soon as the hub has a session; until the office's folder is there, and whenever it is unusable, the status
says so, and facts go on crossing for boxes that are enrolled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import trio
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.service import EnrolmentService
from appliance.hub.measurements import MeasurementsFile
from appliance.hub.trust import AttestationBook, AttestationPolicy, TrustHooks, TrustService, boottime_s
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.node.config import Endpoint, OfficeConfig
from appliance.node.keys import NodeKeys
from appliance.node.status import PeerStatus
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
        self.heard: Callable[[ZoneId], None] = lambda _zone: None
        """Called when a zone's box has shown evidence that is its own."""

    def refusal(self, zone: ZoneId) -> BsfgError | None:
        """Why a proven zone may not call now: it is in quarantine, or its box does not attest, and must."""
        now, enrolled = boottime_s(), self._enrolled(zone)
        if enrolled is not None and enrolled.quarantined:  # whatever it says of itself, and whatever the policy is
            return DeniedError(Reason.BOX_QUARANTINED, f"{zone}: {self._why(zone)}")
        self._book.follow(zone, enrolled)
        return self._book.problem(zone, now) if self._book.admits(zone, now) is not None else None

    def state(self, zone: ZoneId) -> str:
        """``fresh``, ``stale`` or ``failed``; empty for a zone without an enrolled TPM."""
        return str(self._book.state(zone, boottime_s())) if self._attests(zone) else ""

    def describe(self, peer: PeerStatus) -> PeerStatus:
        """A peer's status with what the hub knows of its box."""
        zone, now = ZoneId(peer.zone), boottime_s()
        if not self._attests(zone) or self._enrolment is None:
            return peer
        last, quarantine = self._book.last(zone), self._enrolment.quarantine(zone)
        described = replace(
            peer,
            attestation=self.state(zone),
            attested_s_ago=None if last is None else int(now - last.at_s),
        )
        if quarantine is None:
            return described
        enrolled = self._enrolled(zone)
        return replace(
            described,
            quarantine="quarantined" if enrolled is not None and enrolled.quarantined else "released",
            quarantine_code=quarantine.code,
            evidence=quarantine.evidence,
        )

    def _why(self, zone: ZoneId) -> str:
        """What is known of a quarantine, in words."""
        found = None if self._enrolment is None else self._enrolment.quarantine(zone)
        if found is None or not found.code:
            return "its TPM says so; its evidence was not imported yet"
        return f"{found.code}, evidence {found.evidence[:16]}"

    def problems(self) -> Iterator[tuple[str, BsfgError]]:
        """What is wrong now, and where."""
        if self._problem is not None:
            yield "trust", self._problem
        if self._measurements is not None and self._measurements.problem is not None:
            yield "measurements", self._measurements.problem
        for zone in self._keys.standing.registry.zones():
            enrolled = self._enrolled(zone) if self._attests(zone) else None
            if enrolled is not None and enrolled.quarantined:
                yield f"box of {zone}", DeniedError(Reason.BOX_QUARANTINED, self._why(zone))
            if enrolled is not None and (error := self._book.problem(zone, boottime_s())) is not None:
                yield f"attestation of {zone}", error

    async def run(self) -> None:
        """Serve until cancelled."""
        office = await self._open_office()
        self._enrolment = EnrolmentService(office)
        self._measurements = MeasurementsFile(office.folder.measurements, partial(_image_keys, office))
        await self._keys.standing.ready()
        hooks = TrustHooks(
            self._keys.port.sign,
            self._enrol,
            self._enrolment.enrolled,
            self._measurements.current,
            changed=self.heard,
            released=self._enrolment.released,
            quarantined=self._enrolment.quarantined,
        )
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
