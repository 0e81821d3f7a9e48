# SPDX-License-Identifier: Apache-2.0
"""A request for release as a short text, for QR codes that fit a text console, and for whoever types or pastes it.

The request as a file is 1 kB. Most of that the operators have already, in the box file of the enrolment: zone, device,
PCRs, and the attestation key, whose Name the TPM repeats in what it certifies. The text carries what is left, and
enough of the rest to say that it does not fit. It is read **with the box file**, and gives the very request that the
box's attestation key has certified; :func:`appliance.keys.release.check_request` judges that one as it judges a file.

The letters of the text stand in :mod:`appliance.keys.code_parts`. Its bytes: device (first 4), SHA-256 over the bound
PCRs (first 4), evidence (32), clockInfo and firmwareVersion of the TPMS_ATTEST (17 + 8; TPM 2.0 part 2, 10.12.12),
ECDSA signature (r and s, 32 each), counter (1 to 8, big endian), CRC-32 of all that. Device, PCRs and CRC protect from
mistakes only; the signature protects from forgery.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.quote import qualified_name
from appliance.keys.code_parts import PREFIX, joined, not_whole
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.release import ReleaseRequest, certified_counter
from appliance.keys.tpm.policy import BOUND_PCRS, counter_public
from appliance.keys.tpm.public import ATTESTATION, Attestation, Digest, ecdsa_public_of, name_of, sha256, sized

_HEAD: Final = ">4s4s32s25s32s32s"
_HEAD_BYTES: Final = struct.calcsize(_HEAD)
_BEFORE: Final = 4 + 2 + (2 + 34) + (2 + 32)
_CLOCK: Final = slice(_BEFORE, _BEFORE + 25)
"""Where clockInfo and firmwareVersion stand: after magic, type, the signer's Name, and the evidence."""


@dataclass(frozen=True, slots=True)
class ReleaseCode:
    """What the text says.

    :param device: the first bytes of the device. :param pcrs: the first bytes of the digest over its PCRs.
    :param clock: clockInfo and firmwareVersion of what the TPM certified. :param signature: r and s.
    """

    device: bytes
    pcrs: bytes
    evidence: Digest
    clock: bytes
    signature: tuple[int, int]
    counter: int

    @classmethod
    def of(cls, request: ReleaseRequest) -> Self:
        """The short form of a request.

        :raises DeniedError: ``bad_evidence``: its certificate is not one of a counter over its evidence.
        """
        statement = request.certificate.statement
        if certified_counter(statement, request.evidence) != request.counter or len(statement) != _statement_bytes():
            raise DeniedError(Reason.BAD_EVIDENCE, "the certificate does not say this counter")
        try:
            signature = decode_dss_signature(request.certificate.signature)
        except ValueError as error:
            raise DeniedError(Reason.BAD_EVIDENCE, "the certificate has no signature") from error
        return cls(
            request.device[:4],
            _pcrs(request.pcrs),
            request.evidence,
            statement[_CLOCK],
            signature,
            request.counter,
        )

    def render(self) -> str:
        """The one text of it."""
        r, s = (number.to_bytes(32) for number in self.signature)
        data = struct.pack(_HEAD, self.device, self.pcrs, self.evidence, self.clock, r, s)
        data += self.counter.to_bytes(max(1, (self.counter.bit_length() + 7) // 8))
        data += zlib.crc32(data).to_bytes(4)
        return PREFIX + base64.b32encode(data).decode("ascii").rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it: whole, or all parts in any order; blanks and the case of letters do not matter.

        :raises RefusedError: ``bad_document``: it is none, a part is missing, or something was read wrongly.
        """
        body = joined(text)
        try:
            data = base64.b32decode(body + "=" * (-len(body) % 8))
        except ValueError as error:
            raise not_whole("it was not read whole") from error
        if not _HEAD_BYTES + 5 <= len(data) <= _HEAD_BYTES + 12 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:]):
            raise not_whole("it was not read whole, or parts are of different requests")
        device, pcrs, evidence, clock, r, s = struct.unpack_from(_HEAD, data)
        counter = int.from_bytes(data[_HEAD_BYTES:-4])
        code = cls(device, pcrs, Digest(evidence), clock, (int.from_bytes(r), int.from_bytes(s)), counter)
        if code.render() != PREFIX + body:
            raise not_whole("not in its one form")
        return code

    def request(self, box: EnrolledBox) -> ReleaseRequest:
        """The request that the box made, if its PCRs are those of its enrolment. Its certificate is not checked yet.

        :raises DeniedError: ``bad_evidence``: it is another box's, or PCRs have changed.
        """
        if self.device != box.policy.device[:4]:
            raise DeniedError(Reason.BAD_EVIDENCE, "the request is another box's, or of a former key of this one")
        if self.pcrs != _pcrs(box.pcrs):
            raise DeniedError(
                Reason.BAD_EVIDENCE, "PCRs changed since enrolment; which ones, only the request as a file says"
            )
        name = qualified_name(name_of(ecdsa_public_of(box.attestation_key, ATTESTATION)))
        signature = encode_dss_signature(*self.signature)
        certificate = Attestation(_statement(name, self), signature)
        return ReleaseRequest(box.zone, box.policy.device, self.counter, dict(box.pcrs), self.evidence, certificate)


def _statement(signer: bytes, code: ReleaseCode) -> bytes:
    """TPMS_ATTEST of NV_Certify of the quarantine counter (TPM 2.0 part 2, 10.12.12)."""
    head = struct.pack(">IH", 0xFF544347, 0x8014) + sized(signer) + sized(code.evidence) + code.clock
    return head + sized(counter_public().written().name) + struct.pack(">HHQ", 0, 8, code.counter)


def _statement_bytes() -> int:
    return _BEFORE + 25 + len(sized(counter_public().written().name)) + struct.calcsize(">HHQ")


def _pcrs(pcrs: Mapping[int, bytes]) -> bytes:
    return sha256(b"".join(pcrs.get(pcr, b"") for pcr in BOUND_PCRS))[:4]
