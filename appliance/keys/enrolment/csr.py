# SPDX-License-Identifier: Apache-2.0
"""The request for a certificate that a boundary key signs (PKCS #10, RFC 2986): it names a key and asks for nothing.

What a certificate will say, its authority decides; a request with wishes of its own is refused. A request has one form
only: DER, and the smaller of the two equivalent ECDSA signatures.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.reasons import Reason
from appliance.keys.operators import ORDER, verifies
from appliance.keys.tpm.endorsement import spki

_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
"""AlgorithmIdentifier of ecdsa-with-SHA256, without parameters (RFC 5758, 3.2)."""


def subject_of(zone: ZoneId) -> x509.Name:
    """What a request of this zone's box is called; for people, it decides nothing."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{identity_of(zone)} device CA")])


def request_builder(zone: ZoneId) -> x509.CertificateSigningRequestBuilder:
    """The request, yet unsigned: ``request_builder(zone).sign(boundary_key, SHA256())``."""
    return x509.CertificateSigningRequestBuilder().subject_name(subject_of(zone))


def in_one_form(data: bytes) -> bytes:
    """The same request in its one form. :raises DeniedError: ``bad_proof``: no request that an EC key signed."""
    request = _load(data)
    r, s = decode_dss_signature(request.signature)
    signature = encode_dss_signature(r, min(s, ORDER - s))
    return _der(0x30, request.tbs_certrequest_bytes + _ECDSA_SHA256 + _der(0x03, b"\0" + signature))


def check_request(data: bytes, zone: ZoneId, key: ec.EllipticCurvePublicKey) -> x509.CertificateSigningRequest:
    """A request is this zone's, for this key and signed by it, in its one form, and asks for nothing else.

    :raises DeniedError: ``bad_proof``: it is not.
    """
    request = _load(data)
    try:
        same = spki(request.public_key()) == spki(key)
        bare = not list(request.extensions) and not list(request.attributes) and request.subject == subject_of(zone)
        signed = verifies(key, request.tbs_certrequest_bytes, request.signature)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise DeniedError(Reason.BAD_PROOF, f"certificate request: {error}") from error
    if not same:
        raise DeniedError(Reason.BAD_PROOF, "the certificate request is for another key than the certified one")
    if not signed:
        raise DeniedError(Reason.BAD_PROOF, "the certificate request is not signed by the boundary key")
    if not bare:
        raise DeniedError(Reason.BAD_PROOF, "the certificate request asks for more than a key's certificate")
    if in_one_form(data) != data:
        raise DeniedError(Reason.BAD_PROOF, "the certificate request is not in its one form")
    return request


def _load(data: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_der_x509_csr(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise DeniedError(Reason.BAD_PROOF, f"certificate request: {error}") from error
    if request.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise DeniedError(Reason.BAD_PROOF, "the certificate request is not signed with ECDSA and SHA-256")
    return request


def _der(tag: int, content: bytes) -> bytes:
    """One DER element (X.690, 8.1)."""
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content
