# SPDX-License-Identifier: Apache-2.0
"""Between our values and those of the TPM software stack: structures, tickets, and response codes as our errors."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tpm2_pytss.constants import TPM2_RH, TPM2_ST, TPMA_SESSION
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.types import TPM2B_PUBLIC, TPML_PCR_SELECTION, TPMT_TK_VERIFIED

from appliance.boundary.errors import BsfgError, DeniedError, IntegrityError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.public import sized

os.environ.setdefault("TSS2_LOG", "all+NONE")  # it writes to standard error; errors reach us as exceptions

ENCRYPT: Final = TPMA_SESSION.ENCRYPT
DECRYPT: Final = TPMA_SESSION.DECRYPT
AUDIT: Final = TPMA_SESSION.AUDIT
NONE: Final = TPMA_SESSION(0)
"""What a session does for one command: encrypt the answer's first parameter, the command's, or only authenticate."""
# Response codes without handle, parameter and session (part 2, 6.6.3).
_BUSY: Final = {0x902, 0x903, 0x905, 0x908, 0x90A, 0x920, 0x921, 0x922, 0x923}
_REFUSED: Final = {
    0x084,
    0x08E,
    0x09B,
    0x09D,
    0x09F,
    0x0A0,
    0x0A2,
    0x0A4,
    0x124,
    0x126,
    0x128,
    0x12F,
    0x148,
    0x149,
    0x14A,
    0x151,
}
_UNSUPPORTED: Final = {0x143, 0x083, 0x092, 0x0A6, 0x096}
_NO_SUCH_HANDLE: Final = {0x08B}
_MEANINGS: Final[tuple[tuple[set[int], type[BsfgError], Reason], ...]] = (
    (_BUSY, UnavailableError, Reason.TPM_BUSY),
    (_REFUSED, DeniedError, Reason.TPM_REFUSED),
    (_UNSUPPORTED, RefusedError, Reason.TPM_UNSUPPORTED),
    (_NO_SUCH_HANDLE, IntegrityError, Reason.TPM_ALTERED),
)
_PCR_CHANGED: Final = 0x128
_TCTI_LAYER: Final = 10
_TPM_LAYERS: Final = {0, 11, 12}
"""The TPM itself, and the resource managers before it, which use its codes."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The TPM's word that it verified a signature (TPMT_TK_VERIFIED); good across resets, on this TPM alone."""

    digest: bytes

    def to_tss(self) -> Any:
        """As the TSS takes it."""
        return TPMT_TK_VERIFIED.unmarshal(struct.pack(">HI", TPM2_ST.VERIFIED, TPM2_RH.OWNER) + sized(self.digest))[0]


def translate(command: str, error: TSS2_Exception) -> BsfgError:
    """A TSS error as one of ours (part 2, 6.6.3; TSS 2.0 Overview, 3.3): absent, busy, refused, altered, unsupported.

    What fits none of these is a fault; so is an answer whose HMAC is wrong.
    """
    code, layer = int(error.rc), int(error.rc) >> 16
    detail = f"{command}: {error}"
    if layer == _TCTI_LAYER:
        return UnavailableError(Reason.TPM_ABSENT, detail)
    plain = int(error.error) & 0xFFF if code & 0x80 else code & 0xFFF
    if layer in _TPM_LAYERS:
        for codes, kind, reason in _MEANINGS:
            if plain in codes:
                return kind(reason, detail)
    return IntegrityError(Reason.TPM_FAULT, detail)


def pcr_changed(error: BsfgError) -> bool:
    """Whether a policy session ended because a PCR was extended under it (TPM_RC_PCR_CHANGED)."""
    cause = error.__cause__
    return isinstance(cause, TSS2_Exception) and int(cause.rc) & 0xFFFF == _PCR_CHANGED


def public_structure(area: bytes) -> Any:
    """A TPMT_PUBLIC as the TSS takes it."""
    return TPM2B_PUBLIC.unmarshal(sized(area))[0]


def selection(pcrs: Sequence[int]) -> Any:
    """PCRs of the SHA-256 bank as the TSS takes them."""
    return TPML_PCR_SELECTION.parse("sha256:" + ",".join(str(pcr) for pcr in sorted(pcrs)))
