# SPDX-License-Identifier: Apache-2.0
"""The release of a box from quarantine: what its operators sign, on a machine without a TPM and without a network.

A **request** comes from the box: its counter as certified by its attestation key over the evidence's digest, and its
PCRs. A **release** answers it with two operators' signatures. Each signs three things: the write of the release index
in both its states (the TPM checks one of them), and the whole document with the evidence's digest (which no TPM
checks, so :func:`verify` does).

A release is read in one form only, canonical JSON (RFC 8785) and a newline: no second text means the same.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.documents import (
    base64_bytes,
    base64_text,
    decimal_number,
    document_statement,
    hex_bytes,
    is_signed,
    parse_document,
    render_document,
    sign_document,
)
from appliance.keys.enrolled_box import EnrolledBox, pcr_values
from appliance.keys.operators import sign, verifies
from appliance.keys.tpm.policy import BOUND_PCRS, BoundaryPolicy, PairSignatures, counter_public
from appliance.keys.tpm.public import Attestation, Digest, sized

FORMAT: Final = "bsfg-release-1"
REQUEST_FORMAT: Final = "bsfg-release-request-1"
MAXIMUM_BYTES: Final = 8192
"""More is neither a release nor a request."""
QR_BYTES: Final = 2331
"""What the largest QR code (version 40) holds with error correction M (ISO/IEC 18004, table 7). Both documents fit."""
_MAGIC: Final = 0xFF544347
_ATTEST_NV: Final = 0x8014
_KIND: Final = "release"
_FIELDS: Final = {"device": str, "counter": str, "pcrs": dict, "evidence": str, "signatures": list}
_REQUEST_FIELDS: Final = {
    "zone": str,
    "device": str,
    "counter": str,
    "pcrs": dict,
    "evidence": str,
    "statement": str,
    "signature": str,
}


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """What a quarantined box asks for.

    :param evidence: the digest of its signed evidence, which the operators read.
    :param certificate: the attestation key's, of the counter over ``evidence``; all else here is the box's word alone.
    """

    zone: ZoneId
    device: bytes
    counter: int
    pcrs: Mapping[int, bytes]
    evidence: Digest
    certificate: Attestation

    def render(self) -> bytes:
        """The one form of this request."""
        return render_document(
            {
                "format": REQUEST_FORMAT,
                "zone": self.zone,
                "device": self.device.hex(),
                "counter": str(self.counter),
                "pcrs": {str(pcr): value.hex() for pcr, value in self.pcrs.items()},
                "evidence": self.evidence.hex(),
                "statement": base64_text(self.certificate.statement),
                "signature": base64_text(self.certificate.signature),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a request. :raises RefusedError: ``bad_document``: not in its one form."""
        values = parse_document(data, REQUEST_FORMAT, _REQUEST_FIELDS, MAXIMUM_BYTES)
        try:
            request = cls(
                parse_zone(values["zone"]),
                hex_bytes(values["device"], 32),
                decimal_number(values["counter"]),
                pcr_values(values["pcrs"]),
                Digest(hex_bytes(values["evidence"], 32)),
                Attestation(base64_bytes(values["statement"]), base64_bytes(values["signature"])),
            )
        except (ValueError, BsfgError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"request: {error}") from error
        if request.render() != data:
            raise RefusedError(Reason.BAD_DOCUMENT, "request: not in its one form")
        return request


@dataclass(frozen=True, slots=True)
class OperatorSignatures:
    """One operator's part of a release. :param operator: the position in the policy's order."""

    operator: int
    fresh: bytes
    again: bytes
    document: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """A release with none, one or two operators' signatures."""

    device: bytes
    counter: int
    pcrs: Mapping[int, bytes]
    evidence: Digest
    signatures: tuple[OperatorSignatures, ...] = ()

    def statement(self) -> bytes:
        """What the operators sign as a document: everything but the signatures."""
        return document_statement(_KIND, self._values())

    def render(self) -> bytes:
        """The one form of this release."""
        signatures: list[Any] = [
            {
                "operator": part.operator,
                "fresh": base64_text(part.fresh),
                "again": base64_text(part.again),
                "document": base64_text(part.document),
            }
            for part in self.signatures
        ]
        return render_document({**self._values(), "signatures": signatures})

    def _values(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "device": self.device.hex(),
            "counter": str(self.counter),  # JSON numbers are exact up to 2^53 only
            "pcrs": {str(pcr): value.hex() for pcr, value in self.pcrs.items()},
            "evidence": self.evidence.hex(),
        }

    @classmethod
    def parse(cls, data: bytes) -> Release:
        """Read a release. :raises RefusedError: ``bad_release``: not in its one form."""
        values = parse_document(data, FORMAT, _FIELDS, MAXIMUM_BYTES, Reason.BAD_RELEASE)
        try:
            release = cls(
                hex_bytes(values["device"], 32),
                decimal_number(values["counter"]),
                pcr_values(values["pcrs"]),
                Digest(hex_bytes(values["evidence"], 32)),
                tuple(_part(part) for part in values["signatures"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise RefusedError(Reason.BAD_RELEASE, f"{error}") from error
        if release.render() != data:
            raise RefusedError(Reason.BAD_RELEASE, "not in its one form")
        return release

    def is_good(self, policy: BoundaryPolicy, part: OperatorSignatures) -> bool:
        """Whether all three signatures of one operator verify for this box. :raises RefusedError: ``bad_policy``."""
        if not 0 <= part.operator < len(policy.operators.keys):
            return False
        key = policy.operators.keys[part.operator]
        fresh, again = policy.release_messages(policy.x(self.counter, self.pcrs))
        written = verifies(key, fresh, part.fresh) and verifies(key, again, part.again)
        return written and is_signed(key, _KIND, self._values(), part.document)


def check_request(box: EnrolledBox, request: ReleaseRequest, *, accept_pcrs: bool = False) -> None:
    """What must hold before anybody signs.

    :param accept_pcrs: the operator knows why the PCRs differ from those of enrolment.
    :raises DeniedError: ``bad_evidence``: the counter is not certified by this box's attestation key over this
        evidence, or PCRs differ from enrolment.
    """
    if (request.zone, request.device) != (box.zone, box.policy.device):
        raise DeniedError(Reason.BAD_EVIDENCE, "the request is another box's, or of a former key of this one")
    statement, signature = request.certificate.statement, request.certificate.signature
    try:
        box.attestation_key.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise DeniedError(
            Reason.BAD_EVIDENCE, "the counter is not certified by the enrolled attestation key"
        ) from error
    if certified_counter(statement, request.evidence) != request.counter:
        raise DeniedError(Reason.BAD_EVIDENCE, f"the certificate does not say counter {request.counter}")
    changed = changed_pcrs(box, request)
    if changed and not accept_pcrs:
        raise DeniedError(Reason.BAD_EVIDENCE, f"changed since enrolment: PCRs {changed}")


def changed_pcrs(box: EnrolledBox, request: ReleaseRequest) -> list[int]:
    """Which of the bound PCRs are not as they were at enrolment."""
    return [pcr for pcr in BOUND_PCRS if request.pcrs.get(pcr) != box.pcrs.get(pcr)]


def certified_counter(statement: bytes, evidence: Digest) -> int:
    """The counter that a TPMS_ATTEST of NV_Certify states over this evidence (TPM 2.0 part 2, 10.12).

    :raises DeniedError: ``bad_evidence``: it states something else.
    """
    try:
        magic, kind, size = struct.unpack_from(">IHH", statement)
        rest = statement[8 + size :]
        (size,) = struct.unpack_from(">H", rest)
        extra, body = rest[2 : 2 + size], rest[2 + size + 25 :]  # clockInfo is 17 bytes, firmwareVersion 8
    except struct.error as error:
        raise DeniedError(Reason.BAD_EVIDENCE, "the certificate is cut off") from error
    name = counter_public().written().name
    head = sized(name) + struct.pack(">HH", 0, 8)
    if magic != _MAGIC or kind != _ATTEST_NV or extra != evidence or body[:-8] != head or len(body) != len(head) + 8:
        raise DeniedError(Reason.BAD_EVIDENCE, "the certificate is not one of this counter over this evidence")
    return int.from_bytes(body[-8:])


def new_release(box: EnrolledBox, request: ReleaseRequest, *, accept_pcrs: bool = False) -> Release:
    """A release that answers a request, yet unsigned. :raises DeniedError: see :func:`check_request`."""
    check_request(box, request, accept_pcrs=accept_pcrs)
    return Release(box.policy.device, request.counter, dict(request.pcrs), request.evidence)


def add_signature(
    box: EnrolledBox,
    request: ReleaseRequest,
    release: Release,
    key: ec.EllipticCurvePrivateKey,
    *,
    accept_pcrs: bool = False,
) -> Release:
    """Sign a release, as the first or the second operator; each checks the request for themselves.

    :raises DeniedError: ``bad_evidence``; ``bad_release``: another request's, complete, or ``key`` cannot sign it.
    """
    if replace(release, signatures=()) != new_release(box, request, accept_pcrs=accept_pcrs):
        raise DeniedError(Reason.BAD_RELEASE, "the release does not answer this request")
    if key.public_key() not in box.policy.operators.keys:
        raise DeniedError(Reason.BAD_RELEASE, "the key is no operator's of this box")
    position = box.policy.operators.keys.index(key.public_key())
    if len(release.signatures) >= 2 or any(part.operator == position for part in release.signatures):
        raise DeniedError(Reason.BAD_RELEASE, "this operator has signed, or two others have")
    for part in release.signatures:
        if not release.is_good(box.policy, part):
            raise DeniedError(Reason.BAD_RELEASE, f"operator {part.operator + 1}: a signature does not verify")
    fresh, again = box.policy.release_messages(box.policy.x(release.counter, release.pcrs))
    document = sign_document(key, _KIND, release._values())
    own = OperatorSignatures(position, sign(key, fresh), sign(key, again), document)
    signatures = sorted((*release.signatures, own), key=lambda part: part.operator)
    return replace(release, signatures=tuple(signatures))


def verify(policy: BoundaryPolicy, release: Release) -> tuple[Digest, PairSignatures]:
    """``X(n)`` and the signatures as the TPM takes them, if two operators signed this release for this box.

    :raises DeniedError: ``bad_release``: anything else.
    """
    if release.device != policy.device or not 0 < release.counter < 1 << 64 or len(release.evidence) != 32:
        raise DeniedError(Reason.BAD_RELEASE, "for another box, or no counter or evidence")
    if tuple(part.operator for part in release.signatures) not in policy.operators.pairs:
        raise DeniedError(Reason.BAD_RELEASE, "not signed by two operators of this box")
    try:
        x = policy.x(release.counter, release.pcrs)
    except RefusedError as error:
        raise DeniedError(Reason.BAD_RELEASE, error.detail) from error
    for part in release.signatures:
        if not release.is_good(policy, part):
            raise DeniedError(Reason.BAD_RELEASE, f"operator {part.operator + 1}: a signature does not verify")
    first, second = release.signatures
    pair = (first.operator, second.operator)
    return x, PairSignatures(pair, (first.fresh, second.fresh), (first.again, second.again))


def _part(values: dict[str, Any]) -> OperatorSignatures:
    operator = values["operator"]
    if type(operator) is not int:
        raise ValueError("an operator is a position")
    fresh, again, document = (base64_bytes(values[name]) for name in ("fresh", "again", "document"))
    return OperatorSignatures(operator, fresh, again, document)
