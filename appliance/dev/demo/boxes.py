# SPDX-License-Identifier: Apache-2.0
"""What the demo shows of keys: how they are held, who was refused, and that a latched box falls silent and comes back.

Nothing is taken from the demo's own memory: what the hub proved stands in the hub's record of enrolment, and what
became of sessions and handshakes in the status documents of those who count them.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.dev.boxes import enrolled_record
from appliance.dev.environment import Environment
from appliance.dev.keeping import KeeperDocument
from appliance.dev.layout import ENTERPRISE, PLANT, ZONES
from appliance.node.status import StatusDocument


@dataclass(frozen=True, slots=True)
class ZoneKeys:
    """How one zone's boundary key is held, and what was seen of it.

    :param held_by: what the keeper says: ``swtpm``. :param vendor: who certified the TPM's endorsement key; from the
        hub's record. :param certified: the hub has on record that the TPM's attestation key certified the key.
    :param renewals: session certificates that followed a first one. :param accepted, refused: handshakes.
    """

    zone: ZoneId
    held_by: str
    vendor: str
    certified: bool
    counter: int
    renewals: int
    accepted: int
    refused: int

    @property
    def proven(self) -> bool:
        """Whether the key is in a TPM, as far as the hub could check, and its sessions were renewed."""
        return self.certified and bool(self.vendor) and self.renewals > 0


@dataclass(frozen=True, slots=True)
class LatchAct:
    """The plant's key was locked and released.

    :param counter: of the TPM, while it was locked. :param silent_s: from the latch to the end of the last connection.
    :param stored: facts that the plant's producers stored meanwhile. :param back_s: from the release to a drained
        backlog.
    """

    counter: int = 0
    silent_s: float = 0.0
    stored: int = 0
    back_s: float = 0.0

    @property
    def held(self) -> bool:
        """Whether the box fell silent, worked locally, and came back."""
        return self.counter > 0 and self.silent_s > 0 and self.stored > 0 and self.back_s > 0


@dataclass(slots=True)
class Sightings:
    """What status documents said while the demo ran; they begin anew when a process is killed, so it is summed up."""

    environment: Environment
    _sessions: defaultdict[ZoneId, set[str]] = field(default_factory=lambda: defaultdict(set))
    _handshakes: dict[tuple[ZoneId, int], tuple[int, int]] = field(default_factory=dict)
    _kinds: dict[ZoneId, str] = field(default_factory=dict)

    def look(self) -> None:
        """Read all documents now."""
        for zone in ZONES:
            files = self.environment.layout.zone(zone)
            with suppress(UnavailableError):
                status = KeeperDocument.read(files.keeper_document).status
                self._kinds[zone] = status.kind
                self._sessions[zone] |= {session.serial for session in status.sessions.values()}
            with suppress(UnavailableError):
                document = StatusDocument.read(files.status_document)
                seen = document.boundary
                self._handshakes[zone, document.pid] = (seen.handshakes_accepted, sum(seen.handshakes_refused.values()))

    def zones(self) -> tuple[ZoneKeys, ...]:
        """What is to be told at the end."""
        return tuple(self._zone(zone) for zone in (PLANT, ENTERPRISE))

    def _zone(self, zone: ZoneId) -> ZoneKeys:
        record = enrolled_record(self.environment, zone)
        counts = [seen for (at, _), seen in self._handshakes.items() if at == zone]
        return ZoneKeys(
            zone,
            self._kinds.get(zone, ""),
            record.vendor,
            certified=record.request.policy.is_of(record.request.boundary_public),
            counter=record.counter,
            renewals=max(0, len(self._sessions[zone]) - 2),
            accepted=sum(accepted for accepted, _ in counts),
            refused=sum(refused for _, refused in counts),
        )
