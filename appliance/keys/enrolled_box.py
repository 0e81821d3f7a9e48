# SPDX-License-Identifier: Apache-2.0
"""What an operator keeps of a box since its enrolment: enough to judge a request for release, without a hub or a TPM.

The hub exports it (``bsfg hub boxes export ZONE``), and an operator keeps it beside their key from then on. Whoever
could change it could make an operator sign for another TPM; so it comes at enrolment, and not with a request.

Like a release, it is read in one form only. A box file whose key has not the policy that the file says is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.documents import decimal_number, hex_bytes, parse_document, render_document
from appliance.keys.enrolment.birth import POLICY_FORMAT, BirthPolicy
from appliance.keys.tpm.identity import load_p256, spki_pem
from appliance.keys.tpm.policy import BoundaryPolicy
from appliance.keys.tpm.public import p256_key, sha256

BOX_FORMAT: Final = "bsfg-enrolled-box-1"
BOX_BYTES: Final = 8192
_POLICY_FIELDS: Final = {
    "device": str,
    "operators": list,
    "image_key": str,
    "release_index": str,
    "birth_counter": str,
    "birth_pcrs": dict,
}
_FIELDS: Final = {"zone": str, **_POLICY_FIELDS, "boundary_key": str, "attestation_key": str}


@dataclass(frozen=True, slots=True)
class EnrolledBox:
    """A box as it was when it was enrolled.

    :param birth: the policy of its boundary key, with counter and PCRs of its birth.
    :param boundary_public: TPMT_PUBLIC of the boundary key. :param attestation_key: from the enrolment, not a request.
    """

    zone: ZoneId
    birth: BirthPolicy
    boundary_public: bytes
    attestation_key: ec.EllipticCurvePublicKey

    @property
    def policy(self) -> BoundaryPolicy:
        """What decides about the boundary key."""
        return self.birth.policy

    @property
    def birth_counter(self) -> int:
        """The quarantine counter at the boundary key's birth."""
        return self.birth.counter

    @property
    def pcrs(self) -> Mapping[int, bytes]:
        """The PCRs that the boundary key was born under."""
        return self.birth.pcrs

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The boundary key's public half. :raises RefusedError: ``bad_key``."""
        return p256_key(self.boundary_public)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the box file: what operators compare by voice."""
        return sha256(self.render()).hex()

    def render(self) -> bytes:
        """The one form of this box file."""
        values = parse_document(self.birth.render(), POLICY_FORMAT, _POLICY_FIELDS)
        return render_document(
            {
                **values,
                "format": BOX_FORMAT,
                "zone": self.zone,
                "boundary_key": self.boundary_public.hex(),
                "attestation_key": spki_pem(self.attestation_key),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a box file. :raises RefusedError: ``bad_document``: not one, or it contradicts itself."""
        values = parse_document(data, BOX_FORMAT, _FIELDS, BOX_BYTES)
        birth = BirthPolicy.parse(
            render_document({"format": POLICY_FORMAT, **{name: values[name] for name in _POLICY_FIELDS}})
        )
        try:
            public = hex_bytes(values["boundary_key"])
            box = cls(parse_zone(values["zone"]), birth, public, load_p256(values["attestation_key"]))
            if not birth.is_of(public):
                raise ValueError("the boundary key has not the policy that the file says")
            _ = box.public_key
        except (ValueError, BsfgError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"box file: {error}") from error
        if box.render() != data:
            raise RefusedError(Reason.BAD_DOCUMENT, "box file: not in its one form")
        return box


def pcr_values(values: dict[str, Any]) -> dict[int, bytes]:
    """PCRs as they stand in a document. :raises ValueError: another form."""
    return {decimal_number(pcr, 8): hex_bytes(value, 32) for pcr, value in values.items()}
