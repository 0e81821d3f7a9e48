# SPDX-License-Identifier: Apache-2.0
"""Which of our errors a TPM's response code becomes: by whose fault it is, so that the right one acts."""

from __future__ import annotations

import pytest
from tpm2_pytss.TSS2_Exception import TSS2_Exception

from appliance.boundary.reasons import Reason
from appliance.keys.tpm.tss import translate


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (0xA000A, Reason.TPM_ABSENT),  # TCTI: input or output failed
        (0x922, Reason.TPM_BUSY),  # TPM_RC_RETRY
        (0x921, Reason.TPM_BUSY),  # TPM_RC_LOCKOUT
        (0x902, Reason.TPM_BUSY),  # TPM_RC_OBJECT_MEMORY
        (0x99D, Reason.TPM_REFUSED),  # TPM_RC_POLICY_FAIL of session 1
        (0x126, Reason.TPM_REFUSED),  # TPM_RC_POLICY
        (0x128, Reason.TPM_REFUSED),  # TPM_RC_PCR_CHANGED
        (0x18B, Reason.TPM_ALTERED),  # TPM_RC_HANDLE of handle 1
        (0x143, Reason.TPM_UNSUPPORTED),  # TPM_RC_COMMAND_CODE
        (0xB0143, Reason.TPM_UNSUPPORTED),  # the same, from a resource manager
        (0x101, Reason.TPM_FAULT),  # TPM_RC_FAILURE
        (0x70016, Reason.TPM_FAULT),  # ESYS: a response that is not authentic
    ],
)
def test_a_response_code_has_one_meaning(code: int, reason: Reason) -> None:
    """The handle, parameter or session it names does not matter; the layer it comes from does."""
    error = translate("command", TSS2_Exception(code))
    assert error.reason is reason
    assert "command" in error.detail
    assert error.hint
