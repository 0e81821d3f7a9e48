# SPDX-License-Identifier: Apache-2.0
"""A quarantined box, its request and its operators, without a TPM: the attestation key is a key of this process."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.names import parse_zone
from appliance.keys.attestation.quote import qualified_name
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.release import Release, ReleaseRequest, add_signature, new_release
from appliance.keys.tpm.policy import BOUND_PCRS, BoundaryPolicy, DeviceRef, counter_public
from appliance.keys.tpm.public import ATTESTATION, BOUNDARY, Attestation, ecdsa_public_of, name_of, sha256, sized
from tests.tpm import image_key, people

ZONE = parse_zone("plant-a")
PCRS = {pcr: bytes([pcr]) * 32 for pcr in BOUND_PCRS}
EVIDENCE = sha256(b"evidence")


def statement(
    counter: int, evidence: bytes, kind: int = 0x8014, offset: int = 0, signer: bytes = b"\0\x0b" + bytes(32)
) -> bytes:
    """TPMS_ATTEST of NV_Certify, as part 2, 10.12.12 lays it out. :param signer: the qualified Name of the key."""
    head = struct.pack(">IH", 0xFF544347, kind) + sized(signer) + sized(evidence)
    return head + bytes(25) + sized(counter_public().written().name) + struct.pack(">HHQ", offset, 8, counter)


@dataclass(frozen=True)
class Case:
    """A quarantined box, its request, and the three who could release it."""

    keys: tuple[ec.EllipticCurvePrivateKey, ...]
    attestation_key: ec.EllipticCurvePrivateKey
    box: EnrolledBox
    request: ReleaseRequest

    def certified(self, text: bytes) -> Attestation:
        """A statement under the attestation key."""
        return Attestation(text, self.attestation_key.sign(text, ec.ECDSA(hashes.SHA256())))

    def release(self, *signers: int) -> Release:
        """Signed by these, in this order."""
        release = new_release(self.box, self.request)
        for signer in signers:
            release = add_signature(self.box, self.request, release, self.keys[signer])
        return release

    @classmethod
    def make(cls, operators: int = 3) -> Case:
        """Enrolled at counter 6, now at 7; PCRs as enrolled."""
        keys, them = people(operators)
        policy = BoundaryPolicy(DeviceRef(b"\x22" * 32), them, image_key().public_key())
        attestation_key = ec.generate_private_key(ec.SECP256R1())
        name = name_of(ecdsa_public_of(attestation_key.public_key(), ATTESTATION))
        text = statement(7, EVIDENCE, signer=qualified_name(name))
        certificate = Attestation(text, attestation_key.sign(text, ec.ECDSA(hashes.SHA256())))
        boundary = ec.generate_private_key(ec.SECP256R1()).public_key()
        public = ecdsa_public_of(boundary, BOUNDARY, policy.auth_policy(policy.x(6, PCRS)))
        box = EnrolledBox(ZONE, BirthPolicy(policy, 6, PCRS), public, attestation_key.public_key())
        return cls(keys, attestation_key, box, ReleaseRequest(ZONE, policy.device, 7, PCRS, EVIDENCE, certificate))
