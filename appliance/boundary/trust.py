# SPDX-License-Identifier: Apache-2.0
"""What a box asks its hub before the hub knows it, or beside the facts: time, enrolment, attestation.

Documents are opaque here: each carries its own signatures, so whoever carries them need not be trusted. The same
documents travel as files on a stick. On the wire this is ``bsfg.v1.TrustService`` (``docs/protocol.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from appliance.boundary.names import ZoneId


@dataclass(frozen=True, slots=True)
class AttestationAnswer:
    """What the hub found in a box's evidence.

    :param accepted: whether it is as the hub expects. :param findings: what is not, in words; also when it is accepted
        by a hub that only observes. :param valid_for_s: how long the hub counts it as fresh.
    """

    accepted: bool
    findings: tuple[str, ...] = ()
    valid_for_s: int = 0


class TrustPort(Protocol):
    """A hub, as a box sees it that may have no certificate yet.

    Every call may raise :class:`~appliance.boundary.errors.UnavailableError` (``link_down``, ``peer_timeout``,
    ``peer_fault``, ``busy``, ``not_ready``) and :class:`~appliance.boundary.errors.DeniedError` (``bad_certificate``:
    somebody else answers for the hub).
    """

    async def get_time(self, nonce: bytes) -> bytes:
        """A time token over our nonce (16 to 32 bytes)."""
        ...

    async def enrol(self, document: bytes) -> bytes:
        """One step of the enrolment dialogue: our document, the hub's answer.

        :raises BsfgError: the reasons of enrolment.
        """
        ...

    async def begin_attestation(self, zone: ZoneId) -> bytes:
        """A nonce (32 bytes) for the next quote of this zone's box; good once and for a short time.

        :raises DeniedError: ``unknown_peer``: no such box is enrolled.
        """
        ...

    async def attest(self, zone: ZoneId, evidence: bytes) -> AttestationAnswer:
        """Show a quote over the hub's nonce, with what it needs to be checked.

        :raises RefusedError: ``bad_document``.
        :raises DeniedError: ``unknown_peer``; ``bad_evidence``: not a quote of this box over a nonce of this hub.
        """
        ...
