# SPDX-License-Identifier: Apache-2.0
"""Where a box stands: its quarantine counter, certified by its TPM, and the release that explains it. Pure.

A box that was locked and started anew has the PCRs of a good boot again. Its counter tells all the same: the TPM
counts up at each lock and never down, and only a release of both operators explains another value than the hub knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.enrolment.attested import AttestedKind, certified_number, open_attestation
from appliance.keys.release import Release, verify
from appliance.keys.tpm.policy import counter_public
from appliance.keys.tpm.public import Attestation


@dataclass(frozen=True, slots=True)
class Standing:
    """What a box shows of it. :param counter: its certificate, over the hub's nonce.

    :param release: the last release that the box took, or empty; counts only for the counter it was signed for.
    """

    counter: Attestation
    release: bytes = b""


@dataclass(frozen=True, slots=True)
class Stood:
    """What is proven. :param counter: ``None``: the hub knows none of this box and asks for none.

    :param problem: why the box may not come in, in words; empty: it may.
    :param ahead: it was locked since the hub last let it in, and no release explains that.
    :param release: what explains another counter than the hub knows.
    """

    counter: int | None = None
    problem: str = ""
    ahead: bool = False
    release: Release | None = None


def judge_standing(enrolled: EnrolledAttestation, shown: Standing | None, nonce: bytes) -> Stood:
    """Compare a box's counter with what the hub knows.

    :raises DeniedError: ``bad_evidence``: the certificate is not this box's over this nonce.
    """
    if enrolled.counter is None or enrolled.policy is None:
        return Stood()
    if shown is None:
        return Stood(problem="the quarantine counter was not shown")
    try:
        body = open_attestation(enrolled.key, AttestedKind.NV, nonce, shown.counter)
        counter = certified_number(body, counter_public().written())
    except DeniedError as error:
        raise DeniedError(Reason.BAD_EVIDENCE, f"the counter: {error.detail}") from error
    if counter < enrolled.counter:
        return Stood(counter, f"the quarantine counter is {counter}, and was {enrolled.counter}: it never goes back")
    if counter == enrolled.counter:
        known = "its evidence is known here: the box is in quarantine" if enrolled.quarantined else ""
        return Stood(counter, known)
    release, why = _explaining(enrolled, shown.release, counter)
    if release is None:
        text = f"the quarantine counter is {counter}, and was {enrolled.counter}: the box was in quarantine, and {why}"
        return Stood(counter, text, ahead=True)
    return Stood(counter, release=release)


def _explaining(enrolled: EnrolledAttestation, data: bytes, counter: int) -> tuple[Release | None, str]:
    """The release of both operators for this counter, or why there is none."""
    if not data or enrolled.policy is None:
        return None, "shows no release"
    try:
        release = Release.parse(data)
        verify(enrolled.policy, release)
    except BsfgError as error:
        return None, f"its release is none: {error.detail or error.reason}"
    if release.counter != counter:
        return None, f"its release is for counter {release.counter}"
    return release, ""
