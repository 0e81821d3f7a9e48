# SPDX-License-Identifier: Apache-2.0
"""What a hub keeps of a box since its enrolment to judge its attestations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.keys.tpm.policy import BoundaryPolicy
from appliance.keys.tpm.public import Name, name_of, p256_key


@dataclass(frozen=True, slots=True)
class EnrolledAttestation:
    """A box as it was when it was enrolled.

    :param ak_public: TPMT_PUBLIC of the attestation key that the enrolment proved to be in the box's TPM.
    :param pcrs: the PCRs of enrolment, those that the boundary key is bound to at least.
    :param image_key: the image builder's, from the policy of the boundary key.
    :param reset_count: the TPM's, as certified at enrolment; 0: not known.
    :param counter: the quarantine counter when the hub last let the box in; ``None``: it is not compared.
    :param policy: the boundary key's: whose release explains another counter.
    :param quarantined: its operators know it to be in quarantine; only a release for a higher counter ends that.
    """

    ak_public: bytes
    pcrs: Mapping[int, bytes]
    image_key: rsa.RSAPublicKey
    reset_count: int = 0
    counter: int | None = None
    policy: BoundaryPolicy | None = None
    quarantined: bool = False

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The attestation key. :raises RefusedError: ``bad_key``."""
        return p256_key(self.ak_public)

    @property
    def name(self) -> Name:
        """The attestation key's Name."""
        return name_of(self.ak_public)
