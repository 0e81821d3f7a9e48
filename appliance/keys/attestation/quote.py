# SPDX-License-Identifier: Apache-2.0
"""A TPM's quote (TPMS_ATTEST of type quote), read strictly and checked: by whose key, over which nonce and which PCRs.

TPM 2.0 part 2, 10.12 ("Attestation structures"); part 3, 18.4 (TPM2_Quote). Anything that is not proven by the
attestation key's signature raises; what a proven quote says is the verdict's to judge.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.reader import Reader
from appliance.keys.boundary_time import TpmClock
from appliance.keys.keeper.port import QUOTED_PCRS
from appliance.keys.operators import ORDER, verifies
from appliance.keys.tpm.public import SHA256, Attestation, Name, sha256

STATEMENT_BYTES: Final = 1024
"""More than any quote of ours has."""
_MAGIC: Final = 0xFF544347
_ATTEST_QUOTE: Final = 0x8018
_ENDORSEMENT: Final = 0x4000000B


@dataclass(frozen=True, slots=True)
class QuoteStatement:
    """What a quote says.

    :param signer: the qualified Name of the key that signed. :param nonce: its extraData.
    :param safe: whether the TPM's clock was never ahead of what it says now; not so after an unorderly stop.
    :param firmware: the TPM's firmware version. :param pcrs: which PCRs of the SHA-256 bank.
    :param digest: SHA-256 over their values.
    """

    signer: bytes
    nonce: bytes
    clock: TpmClock
    safe: bool
    firmware: int
    pcrs: tuple[int, ...]
    digest: bytes


def parse_quote(statement: bytes) -> QuoteStatement:
    """Read a quote; nothing of it is trusted yet. :raises DeniedError: ``bad_evidence``: it is not exactly a quote."""
    reader = Reader(statement, "big")
    try:
        if len(statement) > STATEMENT_BYTES:
            raise ValueError(f"more than {STATEMENT_BYTES} bytes")
        if (reader.number(4), reader.number(2)) != (_MAGIC, _ATTEST_QUOTE):
            raise ValueError("no quote that a TPM made")
        signer, nonce = reader.sized(), reader.sized()
        clock = TpmClock(reader.number(8), reader.number(4), reader.number(4))
        safe = reader.number(1)
        firmware = reader.number(8)
        if safe > 1:
            raise ValueError("safe is neither yes nor no")
        pcrs = _selection(reader)
        digest = reader.sized()
        reader.end()
    except ValueError as error:
        raise _bad(f"the quote: {error}") from error
    return QuoteStatement(signer, nonce, clock, bool(safe), firmware, pcrs, digest)


def _selection(reader: Reader) -> tuple[int, ...]:
    """TPML_PCR_SELECTION of one bank, SHA-256 (part 2, 10.9.7)."""
    if (reader.number(4), reader.number(2)) != (1, SHA256):
        raise ValueError("not of the SHA-256 bank alone")
    bitmap = int.from_bytes(reader.take(reader.number(1)), "little")
    return tuple(pcr for pcr in range(bitmap.bit_length()) if bitmap >> pcr & 1)


def check_quote(
    enrolled: EnrolledAttestation, nonce: bytes, attestation: Attestation, pcrs: Mapping[int, bytes]
) -> QuoteStatement:
    """What the enrolled attestation key states over this nonce about these PCR values.

    :param pcrs: the values that came with the quote; only the digest over them is signed.
    :raises DeniedError: ``bad_evidence``: it does not.
    """
    quote = parse_quote(attestation.statement)
    if not verifies(enrolled.key, attestation.statement, attestation.signature):
        raise _bad("not signed by the attestation key of enrolment")
    if quote.signer != qualified_name(enrolled.name):
        raise _bad("signed by another key than it says")
    if not hmac.compare_digest(quote.nonce, nonce):
        raise _bad("over another nonce")
    if quote.pcrs != QUOTED_PCRS or tuple(sorted(pcrs)) != QUOTED_PCRS:
        raise _bad(f"not over PCRs {QUOTED_PCRS}")
    if any(len(value) != 32 for value in pcrs.values()):
        raise _bad("a PCR of SHA-256 has 32 bytes")
    if sha256(b"".join(pcrs[pcr] for pcr in QUOTED_PCRS)) != quote.digest:
        raise _bad("the PCR values are not those that were quoted")
    return quote


def qualified_name(name: Name) -> bytes:
    """The qualified Name of a primary key of the endorsement hierarchy (part 1, 26.5)."""
    return struct.pack(">H", SHA256) + sha256(struct.pack(">I", _ENDORSEMENT) + name)


def one_form(signature: bytes) -> bytes:
    """A TPM's ECDSA signature (DER) in its one form, with the smaller ``s``.

    :raises ValueError: it is no such signature.
    """
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, ORDER - s))


def _bad(detail: str) -> DeniedError:
    return DeniedError(Reason.BAD_EVIDENCE, detail)
