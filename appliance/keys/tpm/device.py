# SPDX-License-Identifier: Apache-2.0
"""The commands of a TPM that the product uses, each with what of it can be encrypted. Blocking; for one thread."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_CC, TPM2_RH, TPM2_ST
from tpm2_pytss.types import (
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_NV_PUBLIC,
    TPM2B_PRIVATE,
    TPM2B_SENSITIVE_CREATE,
    TPM2B_SENSITIVE_DATA,
    TPML_DIGEST_VALUES,
    TPMS_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_TK_HASHCHECK,
)

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.boundary_time import TpmClock
from appliance.keys.tpm.connection import NV_INDEX, Connection
from appliance.keys.tpm.public import (
    ATTESTATION,
    RSASSA,
    SHA256,
    Attestation,
    Digest,
    NvPublic,
    ecdsa_public,
    sized,
)
from appliance.keys.tpm.session import PolicySession
from appliance.keys.tpm.tss import AUDIT, DECRYPT, ENCRYPT, NONE, Ticket, public_structure, selection

NEEDED: Final = (TPM2_CC.PolicyAuthorizeNV, TPM2_CC.PolicyAuthorize, TPM2_CC.PolicySigned, TPM2_CC.PolicyNV)
"""Commands that an old TPM may lack."""
PCRS_AT_ONCE: Final = 8
"""PCRs that one answer holds (TPML_DIGEST, TPM 2.0 part 2, 10.9.7)."""


class Device(Connection):
    """One TPM."""

    # -- capabilities -------------------------------------------------------------------------------------------------

    def commands(self) -> frozenset[int]:
        """The codes of the commands this TPM has."""
        _, data = self.run("get_capability", lambda: self.esys.get_capability(TPM2_CAP.COMMANDS, 0, 400))
        return frozenset(int(attributes) & 0xFFFF for attributes in data.data.command)

    def check_supported(self) -> None:
        """:raises RefusedError: ``tpm_unsupported``: a command that the boundary key needs is missing."""
        missing = [str(command) for command in NEEDED if int(command) not in self.commands()]
        if missing:
            raise RefusedError(Reason.TPM_UNSUPPORTED, f"missing: {', '.join(missing)}")

    def clock(self) -> TpmClock:
        """The TPM's clock and how often it was reset; authenticated by an audit session."""
        session = self.protected(AUDIT)
        info = self.run("read_clock", lambda: self.esys.read_clock(session1=session)).clockInfo
        return TpmClock(int(info.clock), int(info.resetCount), int(info.restartCount))

    # -- PCRs ---------------------------------------------------------------------------------------------------------

    def pcr_read(self, pcrs: Sequence[int]) -> dict[int, bytes]:
        """The values of PCRs of the SHA-256 bank; each answer is authenticated by an audit session."""
        wanted, found = sorted(pcrs), dict[int, bytes]()
        for start in range(0, len(wanted), PCRS_AT_ONCE):
            part = wanted[start : start + PCRS_AT_ONCE]
            found |= zip(part, self._pcr_read(part), strict=True)
        return found

    def _pcr_read(self, pcrs: Sequence[int]) -> list[bytes]:
        session = self.protected(AUDIT)
        _, _, digests = self.run("pcr_read", lambda: self.esys.pcr_read(selection(pcrs), session1=session))
        values = [bytes(digest) for digest in digests]
        if len(values) != len(pcrs):
            raise RefusedError(Reason.TPM_UNSUPPORTED, "the TPM has no SHA-256 bank of these PCRs")
        return values

    def pcr_extend(self, pcr: int, digest: Digest) -> None:
        """Extend one PCR of the SHA-256 bank."""
        values = TPML_DIGEST_VALUES.unmarshal(struct.pack(">IH", 1, SHA256) + digest)[0]
        session = self.protected(NONE)
        self.run("pcr_extend", lambda: self.esys.pcr_extend(ESYS_TR(pcr), values, session1=session))

    # -- NV -----------------------------------------------------------------------------------------------------------

    def nv_public(self, index: int) -> NvPublic | None:
        """The public area of an NV index; ``None``: it is not defined."""
        if index not in self.handles(NV_INDEX):
            return None
        with self.nv(index) as handle:
            session = self.protected(ENCRYPT)
            public, _ = self.run("nv_read_public", lambda: self.esys.nv_read_public(handle, session1=session))
            return NvPublic.unmarshal(public.nvPublic.marshal())

    def nv_define(self, public: NvPublic) -> None:
        """Define an index with empty authValue, by the owner."""
        area = TPM2B_NV_PUBLIC.unmarshal(sized(public.marshal()))[0]
        session = self.protected(DECRYPT)
        handle = self.run("nv_define", lambda: self.esys.nv_define_space(b"", area, session1=session))
        self.esys.tr_close(handle)

    def nv_undefine(self, index: int) -> None:
        """Remove an index, by the owner."""
        handle = self.run("nv_read_public", lambda: self.esys.tr_from_tpmpublic(index))
        session = self.protected(NONE)
        self.run("nv_undefine", lambda: self.esys.nv_undefine_space(handle, session1=session))

    def nv_increment(self, index: int) -> None:
        """Count one up, for ever."""
        with self.nv(index) as handle:
            session = self.protected(NONE)
            self.run("nv_increment", lambda: self.esys.nv_increment(handle, session1=session))

    def nv_read(self, index: int, size: int, offset: int = 0) -> bytes:
        """``size`` bytes of an index; a TPM may take no more than 1024 at once."""
        with self.nv(index) as handle:
            session = self.protected(ENCRYPT)
            return bytes(self.run("nv_read", lambda: self.esys.nv_read(handle, size, offset, session1=session)))

    def nv_write(self, index: int, data: bytes, policy: PolicySession | None = None) -> None:
        """Write an index by its policy, or by its empty authValue.

        A policy that fixes the cpHash fixes it over the parameters as sent: so they are sent in clear, but with HMAC.
        """
        with self.nv(index) as handle:
            session = self.protected(NONE) if policy is None else policy.protected(NONE)
            self.run("nv_write", lambda: self.esys.nv_write(handle, data, session1=session))

    def nv_certify(self, signer: Any, index: int, size: int, qualifying: bytes) -> Attestation:
        """The content of an index, stated by the TPM and signed by the attestation key (part 3, 31.16)."""
        with self.nv(index) as handle, self.second_session() as second:
            session = self.protected(DECRYPT | ENCRYPT)
            statement, signature = self.run(
                "nv_certify",
                lambda: self.esys.nv_certify(
                    signer,
                    handle,
                    qualifying,
                    TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
                    size,
                    0,
                    session1=session,
                    session2=second,
                ),
            )
        return Attestation(bytes(statement), bytes(signature))

    # -- keys ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def attestation_key(self) -> Iterator[tuple[Any, bytes]]:
        """The attestation key (handle, TPMT_PUBLIC): a primary of the endorsement hierarchy, the same every time."""
        with self.endorsement_primary(ecdsa_public(bytes(32), bytes(32), ATTESTATION)) as key:
            yield key

    @contextlib.contextmanager
    def endorsement_primary(self, template: bytes) -> Iterator[tuple[Any, bytes]]:
        """A primary of the endorsement hierarchy (handle, TPMT_PUBLIC), as long as the block runs."""
        area, session = public_structure(template), self.protected(DECRYPT | ENCRYPT)
        handle, public, *_ = self.run(
            "create_primary",
            lambda: self.esys.create_primary(TPM2B_SENSITIVE_CREATE(), area, ESYS_TR.ENDORSEMENT, session1=session),
        )
        with self.flushed(handle):
            yield handle, public.publicArea.marshal()

    def activate_credential(
        self, named: Any, key: Any, policy: PolicySession, credential: bytes, secret: bytes
    ) -> bytes:
        """What was encrypted for ``key`` under the Name of ``named`` (part 3, 12.5). :param policy: ``key``'s."""
        blob, seed = TPM2B_ID_OBJECT.unmarshal(credential)[0], TPM2B_ENCRYPTED_SECRET.unmarshal(secret)[0]
        session, second = self.protected(DECRYPT | ENCRYPT), policy.protected(NONE)
        activate = self.esys.activate_credential
        answer = self.run(
            "activate_credential", lambda: activate(named, key, blob, seed, session1=session, session2=second)
        )
        return bytes(answer)

    def create_key(self, template: bytes) -> tuple[bytes, bytes]:
        """A new key under the storage root key: its TPMT_PUBLIC, and its private part wrapped for this TPM alone."""
        session = self.protected(DECRYPT | ENCRYPT)
        private, public, *_ = self.run(
            "create",
            lambda: self.esys.create(self._srk, TPM2B_SENSITIVE_CREATE(), public_structure(template), session1=session),
        )
        return public.publicArea.marshal(), private.marshal()

    @contextlib.contextmanager
    def loaded(self, public: bytes, private: bytes) -> Iterator[Any]:
        """A key that :meth:`create_key` made, as long as the block runs."""
        session = self.protected(DECRYPT | ENCRYPT)
        wrapped = TPM2B_PRIVATE.unmarshal(private)[0]
        handle = self.run(
            "load", lambda: self.esys.load(self._srk, wrapped, public_structure(public), session1=session)
        )
        with self.flushed(handle):
            yield handle

    @contextlib.contextmanager
    def loaded_external(self, public: bytes) -> Iterator[Any]:
        """A public key from outside, as long as the block runs; in the owner hierarchy, so that tickets last."""
        session = self.protected(DECRYPT | ENCRYPT)
        handle = self.run(
            "load_external",
            lambda: self.esys.load_external(public_structure(public), hierarchy=ESYS_TR.OWNER, session1=session),
        )
        with self.flushed(handle):
            yield handle

    def verify_rsa(self, key: Any, digest: Digest, signature: bytes) -> Ticket:
        """A ticket for an RSASSA signature. :raises DeniedError: ``tpm_refused``: it does not verify."""
        structure = TPMT_SIGNATURE.unmarshal(struct.pack(">HH", RSASSA, SHA256) + sized(signature))[0]
        session = self.protected(DECRYPT)
        ticket = self.run(
            "verify_signature", lambda: self.esys.verify_signature(key, digest, structure, session1=session)
        )
        return Ticket(bytes(ticket.digest))

    def sign(self, key: Any, digest: Digest, policy: PolicySession | None = None) -> bytes:
        """An ECDSA signature (DER) by a key's policy, or by its empty authValue."""
        session = self.protected(DECRYPT) if policy is None else policy.protected(DECRYPT)
        scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
        check = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        return bytes(self.run("sign", lambda: self.esys.sign(key, digest, scheme, check, session1=session)))

    def seal(self, template: bytes, secret: bytes) -> tuple[bytes, bytes]:
        """A data object under the storage root key, made as :meth:`create_key` makes keys; the secret is encrypted."""
        session = self.protected(DECRYPT | ENCRYPT)
        sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(secret)))
        private, public, *_ = self.run(
            "create",
            lambda: self.esys.create(self._srk, sensitive, public_structure(template), session1=session),
        )
        return public.publicArea.marshal(), private.marshal()

    def unseal(self, item: Any, policy: PolicySession) -> bytes:
        """What a loaded data object holds, by its policy; the policy session encrypts it on the way."""
        session = policy.protected(ENCRYPT)
        return bytes(self.run("unseal", lambda: self.esys.unseal(item, session1=session)))

    def quote(self, signer: Any, pcrs: Sequence[int], qualifying: bytes) -> Attestation:
        """The digest of PCRs, the clock and the firmware's version, stated by the TPM (part 3, 18.4)."""
        session = self.protected(DECRYPT | ENCRYPT)
        scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
        statement, signature = self.run(
            "quote", lambda: self.esys.quote(signer, selection(pcrs), qualifying, scheme, session1=session)
        )
        return Attestation(bytes(statement), bytes(signature))

    def certify(self, signer: Any, key: Any, qualifying: bytes) -> Attestation:
        """The public area and Name of a loaded key, stated by the TPM (part 3, 18.2); needs no policy of the key."""
        with self.second_session() as second:
            session = self.protected(DECRYPT | ENCRYPT)
            statement, signature = self.run(
                "certify",
                lambda: self.esys.certify(
                    key, signer, qualifying, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), session1=session, session2=second
                ),
            )
        return Attestation(bytes(statement), bytes(signature))
