# SPDX-License-Identifier: Apache-2.0
"""What a hub keeps of a box it has proven: enough to enrol it later, to attest it, and to release it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from appliance.boundary.errors import BsfgError, IntegrityError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.documents import base64_bytes, base64_text, decimal_number, parse_document, render_document
from appliance.keys.enrolled_box import EnrolledBox, pcr_values
from appliance.keys.enrolment.documents import EnrolRequest
from appliance.keys.enrolment.hubside import ProvenBox
from appliance.keys.release import Release
from appliance.keys.tpm.policy import HELD_PCR
from appliance.keys.tpm.public import p256_key

RECORD_FORMAT: Final = "bsfg-hub-box-1"
RECORD_BYTES: Final = 131072
_FIELDS: Final = {"request": str, "vendor": str, "counter": str, "pcrs": dict, "reset_count": int}


@dataclass(frozen=True, slots=True)
class EnrolledRecord:
    """A proven box. :param request: as it came, without voucher and release: those have done their work.

    :param vendor: whose TPM it is. :param counter, pcrs, reset_count: as the TPM stated them.
    """

    request: EnrolRequest
    vendor: str
    counter: int
    pcrs: Mapping[int, bytes]
    reset_count: int

    @classmethod
    def of(cls, box: ProvenBox) -> Self:
        """What is to be kept of a proof. The PCR that a latch extends starts anew with the next boot: not kept."""
        pcrs = {pcr: value for pcr, value in box.pcrs.items() if pcr != HELD_PCR or box.released is None}
        request = replace(box.request, voucher=b"", release=b"")
        return cls(request, box.vendor, box.counter, pcrs, box.reset_count)

    def for_release(self) -> EnrolledBox:
        """What operators need to release the box; they keep it from enrolment on."""
        request = self.request
        return EnrolledBox(request.zone, request.policy, request.boundary_public, p256_key(request.ak_public))

    def for_attestation(self, *, quarantined: bool = False) -> EnrolledAttestation:
        """What the hub judges quotes with. :param quarantined: its operators know it to be in quarantine."""
        policy = self.request.policy.policy
        return EnrolledAttestation(
            self.request.ak_public,
            dict(self.pcrs),
            policy.image_key,
            self.reset_count,
            self.counter,
            policy,
            quarantined,
        )

    def released(self, release: Release) -> Self:
        """The same box after a release that two operators signed for it: another counter, and maybe other PCRs."""
        kept = {pcr: value for pcr, value in self.pcrs.items() if pcr != HELD_PCR}
        return replace(self, counter=release.counter, pcrs={**kept, **release.pcrs})

    def render(self) -> bytes:
        """As the store holds it."""
        return render_document(
            {
                "format": RECORD_FORMAT,
                "request": base64_text(self.request.render()),
                "vendor": self.vendor,
                "counter": str(self.counter),
                "pcrs": {str(pcr): value.hex() for pcr, value in self.pcrs.items()},
                "reset_count": self.reset_count,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read what the store holds. :raises IntegrityError: ``office_unusable``: it is damaged."""
        try:
            values = parse_document(data, RECORD_FORMAT, _FIELDS, RECORD_BYTES)
            return cls(
                EnrolRequest.parse(base64_bytes(values["request"])),
                values["vendor"],
                decimal_number(values["counter"]),
                pcr_values(values["pcrs"]),
                values["reset_count"],
            )
        except (ValueError, BsfgError) as error:
            raise IntegrityError(Reason.OFFICE_UNUSABLE, f"the hub's record of a box: {error}") from error
