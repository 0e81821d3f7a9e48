# SPDX-License-Identifier: Apache-2.0
"""The proof behind one connection: made at the handshake, asked for again while the connection lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.peer.handshakes import HandshakeCounts
from appliance.peer.identity import LONGEST_SESSION_S, PeerIdentity, PeerRegistry, prove_identity, recheck

RECHECK_S: Final = 0.5
"""How often a living connection is asked whether its proof still holds."""


@dataclass(frozen=True, slots=True)
class Prover:
    """What one connection is judged by.

    :param now: boundary time. :param own_ends_at: when the certificate ends that we proved ourselves with.
    """

    registry: PeerRegistry
    now: Callable[[], float]
    own_ends_at: float
    counts: HandshakeCounts
    longest_session_s: float = LONGEST_SESSION_S

    def prove(self, certificate: bytes, expected: ZoneId | None = None) -> PeerIdentity:
        """Who is at the other end; counted. :raises DeniedError: as :func:`prove_identity`, or somebody unexpected."""
        try:
            identity = prove_identity(certificate, self.registry, self.now(), self.longest_session_s)
            if expected is not None and identity.zone != expected:
                raise DeniedError(Reason.BAD_CERTIFICATE, f"{identity.zone} answers for {expected}")
        except DeniedError as denied:
            self.counts.refuse(denied)
            raise
        self.counts.accepted += 1
        return identity

    def ends_at(self, identity: PeerIdentity) -> float:
        """When the first certificate of either side ends."""
        return min(identity.ends_at, self.own_ends_at)

    async def ended(self, identity: PeerIdentity) -> DeniedError:
        """Wait until the proof no longer holds, for either side; why."""
        while True:
            try:
                recheck(identity, self.registry, self.now())
            except DeniedError as denied:
                return denied
            left_s = self.ends_at(identity) - self.now()
            if left_s <= 0:
                return DeniedError(Reason.BAD_CERTIFICATE, "our own certificate has ended")
            await trio.sleep(min(left_s, RECHECK_S))
