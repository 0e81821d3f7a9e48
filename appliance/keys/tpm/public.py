# SPDX-License-Identifier: Apache-2.0
"""Public areas and their Names, as bytes: what identifies keys and NV indices to a policy. Pure.

A Name is the algorithm of a digest and the digest of the marshalled public area (TPM 2.0 part 1, 16 "Names"). All
areas here have fixed templates: the same key has one Name on every TPM, so it can be computed without one.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Final, NewType

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

Digest = NewType("Digest", bytes)
"""A SHA-256 digest, 32 bytes."""
Name = NewType("Name", bytes)
"""The Name of a key or an NV index with SHA-256 as name algorithm, 34 bytes."""

SHA256: Final = 0x000B
ECC: Final = 0x0023
RSA: Final = 0x0001
NULL: Final = 0x0010
ECDSA: Final = 0x0018
RSASSA: Final = 0x0014
NIST_P256: Final = 0x0003
"""Algorithm and curve identifiers (TPM 2.0 part 2, 6.3 and 6.4)."""
DEFAULT_EXPONENT: Final = 65537
"""The RSA exponent that a public area writes as 0 (part 2, 12.2.3.5)."""


class ObjectAttribute(IntFlag):
    """TPMA_OBJECT (part 2, 8.3)."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    NO_DA = 1 << 10
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


class NvAttribute(IntFlag):
    """TPMA_NV (part 2, 13.4); ``COUNTER`` is the value of its type field."""

    AUTHWRITE = 1 << 2
    POLICYWRITE = 1 << 3
    COUNTER = 1 << 4
    AUTHREAD = 1 << 18
    NO_DA = 1 << 25
    WRITTEN = 1 << 29


EXTERNAL_SIGNER: Final = ObjectAttribute.SIGN | ObjectAttribute.USER_WITH_AUTH
"""Attributes of a key whose private half is outside the TPM: an operator's, or the image builder's."""
BOUNDARY: Final = (
    ObjectAttribute.FIXED_TPM
    | ObjectAttribute.FIXED_PARENT
    | ObjectAttribute.SENSITIVE_DATA_ORIGIN
    | ObjectAttribute.NO_DA
    | ObjectAttribute.SIGN
)
"""Attributes of the boundary key. USER_WITH_AUTH is clear: only its policy opens it. ADMIN_WITH_POLICY is clear: the
attestation key can certify it while it is locked."""
ATTESTATION: Final = BOUNDARY | ObjectAttribute.USER_WITH_AUTH | ObjectAttribute.RESTRICTED
"""Attributes of the attestation key: it signs only what the TPM itself states."""
STORAGE: Final = (BOUNDARY ^ ObjectAttribute.SIGN) | (
    ObjectAttribute.USER_WITH_AUTH | ObjectAttribute.RESTRICTED | ObjectAttribute.DECRYPT
)
"""Attributes of the storage root key (TCG TPM v2.0 Provisioning Guidance 7.5.1)."""


def sized(data: bytes) -> bytes:
    """A TPM2B: the length in two bytes, and the bytes."""
    return struct.pack(">H", len(data)) + data


def sha256(data: bytes) -> Digest:
    """The one digest of all policies here."""
    return Digest(hashlib.sha256(data).digest())


def name_of(public_area: bytes) -> Name:
    """The Name of a marshalled TPMT_PUBLIC or TPMS_NV_PUBLIC whose name algorithm is SHA-256 (part 1, 16)."""
    return Name(struct.pack(">H", SHA256) + sha256(public_area))


def ecdsa_public(x: bytes, y: bytes, attributes: ObjectAttribute, auth_policy: bytes = b"") -> bytes:
    """TPMT_PUBLIC of a P-256 key that signs with ECDSA and SHA-256 (part 2, 12.2.4)."""
    head = struct.pack(">HHI", ECC, SHA256, attributes) + sized(auth_policy)
    parameters = struct.pack(">HHHHH", NULL, ECDSA, SHA256, NIST_P256, NULL)
    return head + parameters + sized(x) + sized(y)


def ecdsa_public_of(
    key: ec.EllipticCurvePublicKey, attributes: ObjectAttribute = EXTERNAL_SIGNER, auth_policy: bytes = b""
) -> bytes:
    """TPMT_PUBLIC of a given P-256 key. :raises RefusedError: ``bad_key``: another curve."""
    if not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError(Reason.BAD_KEY, f"the curve is {key.curve.name}, not P-256")
    numbers = key.public_numbers()
    return ecdsa_public(numbers.x.to_bytes(32), numbers.y.to_bytes(32), attributes, auth_policy)


def rsa_public_of(key: rsa.RSAPublicKey) -> bytes:
    """TPMT_PUBLIC of an image key: it signs PCR values with RSASSA and SHA-256, as systemd-measure does.

    :raises RefusedError: ``bad_key``: fewer than 2048 bits, or an unusual exponent.
    """
    numbers = key.public_numbers()
    if key.key_size not in {2048, 3072, 4096} or numbers.e != DEFAULT_EXPONENT:
        raise RefusedError(Reason.BAD_KEY, f"RSA with {key.key_size} bits and exponent {numbers.e}")
    head = struct.pack(">HHI", RSA, SHA256, EXTERNAL_SIGNER) + sized(b"")
    parameters = struct.pack(">HHHHI", NULL, RSASSA, SHA256, key.key_size, 0)
    return head + parameters + sized(numbers.n.to_bytes(key.key_size // 8))


def p256_key(public_area: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a TPMT_PUBLIC that :func:`ecdsa_public` describes; the opposite of :func:`ecdsa_public_of`.

    :raises RefusedError: ``bad_key``: the area is of another form.
    """
    try:
        attributes, policy_size = struct.unpack_from(">IH", public_area, 4)
        policy = public_area[10 : 10 + policy_size]
        x, y = public_area[-68 + 2 : -34], public_area[-32:]
        if ecdsa_public(x, y, ObjectAttribute(attributes), policy) != public_area:
            raise ValueError("not an ECDSA P-256 key")
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()
    except (ValueError, struct.error) as error:
        raise RefusedError(Reason.BAD_KEY, f"public area: {error}") from error


def attributes_of(public_area: bytes) -> tuple[ObjectAttribute, bytes]:
    """Attributes and authPolicy of a marshalled TPMT_PUBLIC (part 2, 12.2.4). :raises RefusedError: ``bad_key``."""
    try:
        attributes, size = struct.unpack_from(">IH", public_area, 4)
    except struct.error as error:
        raise RefusedError(Reason.BAD_KEY, f"public area: {error}") from error
    return ObjectAttribute(attributes), public_area[10 : 10 + size]


@dataclass(frozen=True, slots=True)
class Attestation:
    """What the TPM stated (TPMS_ATTEST), and the attestation key's ECDSA signature over it (DER)."""

    statement: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class NvPublic:
    """The public area of an NV index, TPMS_NV_PUBLIC (part 2, 13.5), with SHA-256 as name algorithm."""

    index: int
    attributes: NvAttribute
    size: int
    auth_policy: bytes = b""

    def marshal(self) -> bytes:
        """The bytes that the TPM hashes to the Name."""
        return (
            struct.pack(">IHI", self.index, SHA256, self.attributes)
            + sized(self.auth_policy)
            + struct.pack(">H", self.size)
        )

    @classmethod
    def unmarshal(cls, data: bytes) -> NvPublic:
        """Read :meth:`marshal`'s bytes. :raises RefusedError: ``bad_key``: another name algorithm, or another form."""
        try:
            index, algorithm, attributes, policy_size = struct.unpack_from(">IHIH", data)
            (size,) = struct.unpack_from(">H", data, 12 + policy_size)
            public = cls(index, NvAttribute(attributes), size, data[12 : 12 + policy_size])
        except (struct.error, ValueError) as error:
            raise RefusedError(Reason.BAD_KEY, f"NV public area: {error}") from error
        if algorithm != SHA256 or public.marshal() != data:
            raise RefusedError(Reason.BAD_KEY, "NV public area: not in the form with SHA-256")
        return public

    def defined(self) -> NvPublic:
        """As it is defined, before the first write."""
        return replace(self, attributes=self.attributes & ~NvAttribute.WRITTEN)

    def written(self) -> NvPublic:
        """As it is after the first write; that changes the Name."""
        return replace(self, attributes=self.attributes | NvAttribute.WRITTEN)

    @property
    def name(self) -> Name:
        """The Name in the state that the attributes say."""
        return name_of(self.marshal())
