# SPDX-License-Identifier: Apache-2.0
"""The endorsement key: the one key of a TPM that its vendor certifies. It decrypts, and signs nothing.

It is made from the TCG's standard templates (TCG EK Credential Profile for TPM 2.0, revision 2.5, annex B.3), so it is
the same each time; the vendor's certificate for it lies in the TPM's NV memory. Blocking; for one thread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.public import (
    DEFAULT_EXPONENT,
    ECC,
    NIST_P256,
    NULL,
    RSA,
    SHA256,
    ObjectAttribute,
    sha256,
    sized,
)

ENDORSEMENT_POLICY: Final = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
"""PolicySecret(TPM_RH_ENDORSEMENT) (EK Credential Profile, table 2)."""
ADMIN_WITH_POLICY: Final = ObjectAttribute(1 << 7)
ENDORSEMENT: Final = (
    ObjectAttribute.FIXED_TPM
    | ObjectAttribute.FIXED_PARENT
    | ObjectAttribute.SENSITIVE_DATA_ORIGIN
    | ADMIN_WITH_POLICY
    | ObjectAttribute.RESTRICTED
    | ObjectAttribute.DECRYPT
)
"""Attributes of an endorsement key: what it decrypts, it gives only to the object the sender named."""
_CHUNK: Final = 512
_SYMMETRIC: Final = struct.pack(">HHH", 0x0006, 128, 0x0043)  # AES-128-CFB


class EndorsementKind(StrEnum):
    """The standard endorsement keys that are taken, in the order of preference."""

    RSA_2048 = "rsa-2048"
    ECC_P256 = "ecc-p256"


CERTIFICATE_INDEX: Final = {EndorsementKind.RSA_2048: 0x01C00002, EndorsementKind.ECC_P256: 0x01C0000A}
"""Where the vendor keeps the certificate (TCG registry of reserved handles, 2.2.2)."""


@dataclass(frozen=True, slots=True)
class Endorsement:
    """A TPM's endorsement key. :param certificate: DER, empty if the TPM has none. :param public: TPMT_PUBLIC."""

    kind: EndorsementKind
    certificate: bytes
    public: bytes


def template(kind: EndorsementKind) -> bytes:
    """The TPMT_PUBLIC that the TPM makes the key from (templates L-1 and L-2)."""
    if kind is EndorsementKind.RSA_2048:
        return _rsa_public(bytes(256))
    return _ecc_public(bytes(32), bytes(32))


def _rsa_public(modulus: bytes) -> bytes:
    head = struct.pack(">HHI", RSA, SHA256, ENDORSEMENT) + sized(ENDORSEMENT_POLICY)
    return head + _SYMMETRIC + struct.pack(">HHI", NULL, 2048, 0) + sized(modulus)


def _ecc_public(x: bytes, y: bytes) -> bytes:
    head = struct.pack(">HHI", ECC, SHA256, ENDORSEMENT) + sized(ENDORSEMENT_POLICY)
    return head + _SYMMETRIC + struct.pack(">HHH", NULL, NIST_P256, NULL) + sized(x) + sized(y)


def endorsement_key(public: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """The key of a TPMT_PUBLIC that one of the templates makes. Pure.

    :raises RefusedError: ``bad_key``: other attributes, another policy, or another form.
    """
    try:
        if public == _rsa_public(public[-256:]):
            return rsa.RSAPublicNumbers(DEFAULT_EXPONENT, int.from_bytes(public[-256:])).public_key()
        x, y = public[-66:-34], public[-32:]
        if public == _ecc_public(x, y):
            return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()
    except ValueError as error:
        raise RefusedError(Reason.BAD_KEY, f"endorsement key: {error}") from error
    raise RefusedError(Reason.BAD_KEY, "not an endorsement key of a standard template")


def fingerprint_of(public: bytes) -> str:
    """How people and vouchers name a TPM: SHA-256 of its endorsement key's TPMT_PUBLIC, as hex."""
    return sha256(public).hex()


def read_endorsement(device: Device, kind: EndorsementKind | None = None) -> Endorsement:
    """The endorsement key and its certificate. Making an RSA key can take a TPM of hardware many seconds.

    :param kind: as chosen before; else the first that has a certificate, and RSA if none has.
    :raises DeniedError: ``ek_mismatch``: the certificate in the TPM is not of this key, or cannot be read.
    """
    certificates = {each: _read_certificate(device, each) for each in EndorsementKind}
    chosen = kind or next((each for each in EndorsementKind if certificates[each]), EndorsementKind.RSA_2048)
    with device.endorsement_primary(template(chosen)) as (_, public):
        found = Endorsement(chosen, certificates[chosen], public)
    if found.certificate and spki(certified_key(found.certificate)) != spki(endorsement_key(public)):
        raise DeniedError(Reason.EK_MISMATCH, f"the certificate in NV index 0x{CERTIFICATE_INDEX[chosen]:08x}")
    return found


def activate_credential(device: Device, kind: EndorsementKind, credential: bytes, secret: bytes) -> bytes:
    """What a hub encrypted for this endorsement key, if it named this TPM's attestation key.

    :param credential: TPM2B_ID_OBJECT. :param secret: TPM2B_ENCRYPTED_SECRET.
    :raises DeniedError: ``tpm_refused``: it was made for another TPM or another attestation key.
    """
    with (
        device.attestation_key() as (attestation_key, _),
        device.endorsement_primary(template(kind)) as (key, _),
        device.policy_session() as policy,
    ):
        policy.endorsed()
        return device.activate_credential(attestation_key, key, policy, credential, secret)


def load_certificate(der: bytes) -> x509.Certificate:
    """A vendor's certificate. :raises DeniedError: ``ek_mismatch``: it cannot be read."""
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as error:
        raise DeniedError(Reason.EK_MISMATCH, f"the certificate cannot be read: {error}") from error


def certified_key(der: bytes) -> PublicKeyTypes:
    """The key that an endorsement certificate is for. :raises DeniedError: ``ek_mismatch``: it cannot be read."""
    try:
        return load_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DeniedError(Reason.EK_MISMATCH, f"the certificate's key cannot be read: {error}") from error


def spki(key: PublicKeyTypes) -> bytes:
    """A public key in the form in which two can be compared."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read_certificate(device: Device, kind: EndorsementKind) -> bytes:
    """The certificate in NV; vendors pad it, so the bytes after its DER length are dropped."""
    index = CERTIFICATE_INDEX[kind]
    public = device.nv_public(index)
    if public is None:
        return b""
    parts = [
        device.nv_read(index, min(_CHUNK, public.size - offset), offset) for offset in range(0, public.size, _CHUNK)
    ]
    return der_prefix(b"".join(parts))


def der_prefix(data: bytes) -> bytes:
    """The DER sequence that ``data`` begins with (X.690, 8.1.3), or ``data`` itself if it begins with none."""
    if len(data) < 4 or data[:2] != b"\x30\x82":  # a certificate has from 256 to 65535 bytes
        return data
    return data[: 4 + int.from_bytes(data[2:4])]
