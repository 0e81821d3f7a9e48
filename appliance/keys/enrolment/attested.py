# SPDX-License-Identifier: Apache-2.0
"""What a TPM states of a key or an index in a TPMS_ATTEST (TPM 2.0 part 2, 10.12), read strictly, without a TPM.

Signatures are taken in one form only (:mod:`appliance.keys.operators`). Quotes are read by
:mod:`appliance.keys.attestation.quote`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.operators import verifies
from appliance.keys.tpm.public import Attestation, NvPublic

_MAGIC: Final = 0xFF544347
_CLOCK_AND_FIRMWARE: Final = 17 + 8


class AttestedKind(IntEnum):
    """TPMI_ST_ATTEST, as far as used here (part 2, 6.9)."""

    CERTIFY = 0x8017
    NV = 0x8014


@dataclass(frozen=True, slots=True)
class Attested:
    """A statement of a TPM. :param extra: what the caller asked it to carry. :param body: what it states."""

    kind: AttestedKind
    extra: bytes
    body: bytes


def open_attestation(key: ec.EllipticCurvePublicKey, kind: AttestedKind, nonce: bytes, told: Attestation) -> bytes:
    """The body of a statement of this kind, if this attestation key made it over this nonce.

    :raises DeniedError: ``bad_proof``: it did not, or the statement is of another kind or cut off.
    """
    if not verifies(key, told.statement, told.signature):
        raise DeniedError(Reason.BAD_PROOF, f"{kind.name.lower()}: not signed by the attestation key")
    try:
        found = _parse(told.statement)
    except (struct.error, ValueError) as error:
        raise DeniedError(Reason.BAD_PROOF, f"{kind.name.lower()}: {error}") from error
    if found.kind is not kind:
        raise DeniedError(Reason.BAD_PROOF, f"the statement is a {found.kind.name.lower()}, not a {kind.name.lower()}")
    if found.extra != nonce:
        raise DeniedError(Reason.BAD_PROOF, f"{kind.name.lower()}: over another nonce than this hub's")
    return found.body


def certified_name(body: bytes) -> bytes:
    """The Name of the key that a TPMS_CERTIFY_INFO is about (part 2, 10.12.3). :raises DeniedError: ``bad_proof``."""
    try:
        name, rest = _take_sized(body)
        _, rest = _take_sized(rest)
    except struct.error as error:
        raise DeniedError(Reason.BAD_PROOF, "certify: cut off") from error
    if rest:
        raise DeniedError(Reason.BAD_PROOF, "certify: bytes too many")
    return name


def certified_number(body: bytes, index: NvPublic) -> int:
    """The 8 bytes that a TPMS_NV_CERTIFY_INFO (part 2, 10.12.8) states of this index, at offset 0, as a number.

    :raises DeniedError: ``bad_proof``: it is about another index, or another part of it.
    """
    try:
        name, rest = _take_sized(body)
        offset, content = rest[:2], _take_sized(rest[2:])
    except struct.error as error:
        raise DeniedError(Reason.BAD_PROOF, "counter: cut off") from error
    if name != index.name or offset != b"\0\0" or content[1] or len(content[0]) != 8:
        raise DeniedError(Reason.BAD_PROOF, "counter: the certificate is about another index")
    return int.from_bytes(content[0])


def _parse(statement: bytes) -> Attested:
    magic, kind = struct.unpack_from(">IH", statement)
    if magic != _MAGIC:
        raise ValueError("not a statement that a TPM generated")
    _, rest = _take_sized(statement[6:])
    extra, rest = _take_sized(rest)
    if len(rest) < _CLOCK_AND_FIRMWARE:
        raise ValueError("cut off")
    return Attested(AttestedKind(kind), extra, rest[_CLOCK_AND_FIRMWARE:])


def _take_sized(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack_from(">H", data)
    if len(data) < 2 + size:
        raise struct.error("cut off")
    return data[2 : 2 + size], data[2 + size :]
