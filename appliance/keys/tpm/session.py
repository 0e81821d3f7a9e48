# SPDX-License-Identifier: Apache-2.0
"""A policy session: the TPM commands that bring it to a policy, each with what of it can be encrypted. Blocking."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tpm2_pytss.constants import ESYS_TR, TPM2_EO, TPMA_SESSION
from tpm2_pytss.types import TPML_DIGEST, TPMT_SIGNATURE

from appliance.keys.tpm.public import ECDSA, SHA256, Digest, Name, sized
from appliance.keys.tpm.tss import AUDIT, DECRYPT, ENCRYPT, NONE, Ticket, selection

if TYPE_CHECKING:
    from appliance.keys.tpm.connection import Connection


class PolicySession:
    """A policy session under way; each method is the TPM command of its name (part 3, 23)."""

    def __init__(self, connection: Connection, handle: Any) -> None:
        self._connection = connection
        self._handle = handle

    def protected(self, attributes: TPMA_SESSION) -> Any:
        """The session as an authorisation; it is spent with that, or flushed at the end of its block."""
        self._connection.esys.trsess_set_attributes(self._handle, attributes | TPMA_SESSION.CONTINUESESSION)
        return self._handle

    def _run(self, name: str, attributes: TPMA_SESSION, command: Callable[[Any, Any], Any]) -> Any:
        connection = self._connection
        session = connection.protected(attributes)
        return connection.run(name, lambda: command(connection.esys, session))

    def pcr(self, pcrs: Sequence[int]) -> None:
        """The PCRs as they are now; any extension of any PCR ends the session."""
        self._run(
            "policy_pcr",
            DECRYPT,
            lambda esys, session: esys.policy_pcr(self._handle, b"", selection(pcrs), session1=session),
        )

    def digest(self) -> Digest:
        """What the session has come to."""
        answer = self._run(
            "policy_get_digest", ENCRYPT, lambda esys, session: esys.policy_get_digest(self._handle, session1=session)
        )
        return Digest(bytes(answer))

    def authorize(self, approved: Digest, signer: Name, ticket: Ticket) -> None:
        """The digest so far is one that ``signer`` approved."""
        self._run(
            "policy_authorize",
            DECRYPT,
            lambda esys, session: esys.policy_authorize(
                self._handle, approved, bytes(signer), ticket.to_tss(), b"", session1=session
            ),
        )

    def nv_equal(self, index: int, value: int) -> None:
        """The counter has this value."""
        with self._connection.nv(index) as handle:
            self._run(
                "policy_nv",
                DECRYPT,
                lambda esys, session: esys.policy_nv(
                    handle, handle, self._handle, value.to_bytes(8), TPM2_EO.EQ, 0, session1=session
                ),
            )

    def authorize_nv(self, index: int) -> None:
        """The digest so far is the one that the index holds."""
        with self._connection.nv(index) as handle:
            self._run(
                "policy_authorize_nv",
                NONE,
                lambda esys, session: esys.policy_authorize_nv(
                    handle, self._handle, auth_handle=handle, session1=session
                ),
            )

    def any_of(self, branches: Sequence[Digest]) -> None:
        """The digest so far is one of these. The list cannot be encrypted (it is no TPM2B); it is public."""
        listed = TPML_DIGEST([bytes(branch) for branch in branches])
        self._run("policy_or", AUDIT, lambda esys, session: esys.policy_or(self._handle, listed, session1=session))

    def endorsed(self) -> None:
        """PolicySecret of the endorsement hierarchy, whose authValue is empty: what endorsement keys ask for."""
        self._run(
            "policy_secret",
            DECRYPT | ENCRYPT,
            lambda esys, session: esys.policy_secret(ESYS_TR.ENDORSEMENT, self._handle, expiration=0, session1=session),
        )

    def signed(self, signer: Any, cp_hash: Digest, ref: bytes, signature: bytes) -> None:
        """``signer`` (a loaded key) signed the use whose cpHash this is. :param signature: ECDSA, DER."""
        r, s = decode_dss_signature(signature)
        structure = TPMT_SIGNATURE.unmarshal(
            struct.pack(">HH", ECDSA, SHA256) + sized(r.to_bytes(32)) + sized(s.to_bytes(32))
        )[0]
        self._run(
            "policy_signed",
            DECRYPT,
            lambda esys, session: esys.policy_signed(
                signer, self._handle, structure, b"", cp_hash, ref, 0, session1=session
            ),
        )
