# SPDX-License-Identifier: Apache-2.0
"""Who may enrol for which zone: one pure decision over what the hub knows and what a box has proven.

A TPM serves one zone, and a zone has one TPM. A box that was in quarantine comes back only with a release, also with a
new key: its counter tells. What an operator has refused, revoked or replaced stays so until an operator says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.enrolment.hubside import ProvenBox, read_release
from appliance.keys.enrolment.voucher import Voucher, check_voucher


class BoxState(StrEnum):
    """What a hub has decided about a TPM."""

    ENROLLED = "enrolled"
    QUARANTINED = "quarantined"
    """It is known to be in quarantine; it comes back with a release."""
    DENIED = "denied"
    """An operator refused it before it was ever enrolled."""
    REVOKED = "revoked"
    REPLACED = "replaced"


_HOLDS: Final = frozenset({BoxState.ENROLLED, BoxState.QUARANTINED})


@dataclass(frozen=True, slots=True)
class Known:
    """What a hub knows of one TPM.

    :param counter, policy, boundary_public: of its last enrolment; ``None`` and empty: it never was.
    """

    fingerprint: str
    zone: ZoneId
    state: BoxState
    counter: int | None = None
    policy: BirthPolicy | None = None
    boundary_public: bytes = b""


class Knowledge(Protocol):
    """What the decision asks the hub."""

    def box(self, fingerprint: str) -> Known | None:
        """What is known of a TPM."""
        ...

    def holder(self, zone: ZoneId) -> str | None:
        """The fingerprint of the TPM that has a zone: enrolled or in quarantine."""
        ...

    def approved(self, fingerprint: str) -> ZoneId | None:
        """The zone that an operator approved this TPM for; good for one enrolment."""
        ...

    def certifying(self, zone: ZoneId, fingerprint: str) -> bytes | None:
        """The boundary key (TPMT_PUBLIC) that was let in for a zone and waits for its certificate."""
        ...

    def voucher_user(self, serial: str) -> str | None:
        """The fingerprint of the TPM that used a voucher."""
        ...

    def reference_user(self, device: bytes) -> str | None:
        """The fingerprint of the TPM that enrolled with this device reference."""
        ...


class Decision(StrEnum):
    """What is to be done with a box that proved itself."""

    GRANT_AGAIN = "grant_again"
    """It is enrolled with this very key."""
    ENROL = "enrol"
    """An operator approved it: its key is to be certified."""
    WAIT = "wait"
    """It was let in with this very key, which waits for its certificate."""
    ASK = "ask"
    """It needs a voucher, or an operator's approval."""


def check_claim(know: Knowledge, zone: ZoneId, fingerprint: str) -> None:
    """What can be refused before anything is proven, so that nobody waits for a challenge in vain.

    :raises DeniedError: ``box_denied``, ``box_revoked``, ``box_replaced``, ``box_of_other_zone``, ``zone_taken``.
    """
    known = know.box(fingerprint)
    if known is not None:
        _check_known(known, zone, approved=know.approved(fingerprint) == zone)
    holder = know.holder(zone)
    if holder not in {None, fingerprint}:
        raise DeniedError(Reason.ZONE_TAKEN, f"{zone} is TPM {str(holder)[:16]}…")


def decide(know: Knowledge, box: ProvenBox) -> Decision:
    """What to do with a box that proved itself; a voucher may still help one for whom the answer is ``ASK``.

    :raises DeniedError: as :func:`check_claim`; ``box_quarantined``, ``bad_release``; ``bad_proof``: another TPM
        enrolled with this device reference.
    """
    check_claim(know, box.zone, box.fingerprint)
    known = know.box(box.fingerprint)
    if known is not None:
        _check_counter(known, box)
    if know.reference_user(box.request.policy.policy.device) not in {None, box.fingerprint}:
        raise DeniedError(Reason.BAD_PROOF, "another box was enrolled with this device reference")
    same_key = known is not None and known.boundary_public == box.request.boundary_public
    if known is not None and same_key and known.state in _HOLDS and known.zone == box.zone:
        return Decision.GRANT_AGAIN
    if know.certifying(box.zone, box.fingerprint) == box.request.boundary_public:
        return Decision.WAIT
    return Decision.ENROL if know.approved(box.fingerprint) == box.zone else Decision.ASK


def takes_voucher(know: Knowledge, zone: ZoneId, fingerprint: str) -> bool:
    """Whether a voucher matters before anything is proven: the TPM was not let in for this zone yet."""
    known = know.box(fingerprint)
    enrolled = known is not None and known.zone == zone and known.state in _HOLDS
    waits = know.certifying(zone, fingerprint) is not None
    return not enrolled and not waits and know.approved(fingerprint) != zone


def admit(
    know: Knowledge,
    voucher: Voucher,
    operators: Sequence[ec.EllipticCurvePublicKey],
    zone: ZoneId,
    fingerprint: str,
    unix_ms: int,
) -> None:
    """A voucher lets this TPM in for this zone, now, and was never used.

    :raises DeniedError: ``bad_voucher``, ``voucher_foreign``, ``voucher_expired``, ``voucher_used``.
    """
    check_voucher(voucher, operators, zone, fingerprint, unix_ms)
    if know.voucher_user(voucher.serial) is not None:
        raise DeniedError(Reason.VOUCHER_USED, f"serial {voucher.serial[:8]}…")


def _check_known(known: Known, zone: ZoneId, *, approved: bool) -> None:
    if known.zone != zone and known.state in _HOLDS:
        raise DeniedError(Reason.BOX_OF_OTHER_ZONE, f"it is zone {known.zone}")
    if approved:
        return
    if known.state is BoxState.DENIED:
        raise DeniedError(Reason.BOX_DENIED, f"TPM {known.fingerprint[:16]}…")
    if known.state is BoxState.REVOKED:
        raise DeniedError(Reason.BOX_REVOKED, f"it was zone {known.zone}")
    if known.state is BoxState.REPLACED and known.zone == zone:
        raise DeniedError(Reason.BOX_REPLACED, f"zone {zone}")


def _check_counter(known: Known, box: ProvenBox) -> None:
    """A box that was enrolled stands where it stood, or shows a release of the box that it was then."""
    if known.counter is None or known.policy is None:
        return
    if known.state is not BoxState.QUARANTINED and box.counter == known.counter:
        return
    # A release for the counter that the hub knows is of an earlier quarantine; it does not end this one.
    if not box.request.release or box.counter <= known.counter:
        raise DeniedError(
            Reason.BOX_QUARANTINED, f"counter {box.counter}; when the hub last let it in it was {known.counter}"
        )
    read_release(box.request.release, known.policy.policy, box.counter)
