# SPDX-License-Identifier: Apache-2.0
"""The TPM driver: one connection, protected sessions, and errors of this product. Blocking; for one thread.

Every command whose parameters can be encrypted is sent with an HMAC session that is salted with the storage root key
and encrypts them (TPM 2.0 part 1, 19.6.8 and 21). If such a session cannot be had, nothing is sent. Whether a command
can be encrypted is a property of the command, and ESYS does not complain of attributes that have no effect; so each
method states its own. Key handles and policy sessions exist only inside ``with`` blocks.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

os.environ.setdefault("TSS2_LOG", "all+NONE")  # it writes to standard error; errors reach us as exceptions

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_CC,
    TPM2_EO,
    TPM2_RH,
    TPM2_SE,
    TPM2_ST,
    TPM2_SU,
    TPMA_SESSION,
)
from tpm2_pytss.ESAPI import ESAPI
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.types import (
    TPM2B_NV_PUBLIC,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMT_SIG_SCHEME,
    TPMT_SIGNATURE,
    TPMT_TK_HASHCHECK,
    TPMT_TK_VERIFIED,
)

from appliance.boundary.errors import BsfgError, DeniedError, IntegrityError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.public import (
    ATTESTATION,
    ECC,
    ECDSA,
    NIST_P256,
    NULL,
    RSASSA,
    SHA256,
    STORAGE,
    Attestation,
    Digest,
    Name,
    NvPublic,
    ecdsa_public,
    sized,
)

SRK_HANDLE: Final = 0x81000001
"""The storage root key, where systemd and the TCG provisioning guidance keep it."""
NEEDED: Final = (TPM2_CC.PolicyAuthorizeNV, TPM2_CC.PolicyAuthorize, TPM2_CC.PolicySigned, TPM2_CC.PolicyNV)
"""Commands that an old TPM may lack."""
_SRK_PUBLIC: Final = (
    struct.pack(">HHI", ECC, SHA256, STORAGE)
    + sized(b"")
    + struct.pack(">HHHHHH", 0x0006, 128, 0x0043, NULL, NIST_P256, NULL)  # AES-128-CFB
    + sized(bytes(32)) * 2
)
_ENCRYPT: Final = TPMA_SESSION.ENCRYPT
_DECRYPT: Final = TPMA_SESSION.DECRYPT
_AUDIT: Final = TPMA_SESSION.AUDIT
_NONE: Final = TPMA_SESSION(0)
_PERSISTENT, _TRANSIENT, _LOADED_SESSION = 0x81000000, 0x80000000, 0x02000000
_NV_INDEX: Final = 0x01000000
_HANDLE_RANGE: Final = 0xFF000000
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


class Device:
    """A connection to one TPM. Not for several threads.

    :param tcti: such as ``device:/dev/tpmrm0`` or ``swtpm:host=127.0.0.1,port=2321``; never guessed.
    :param srk_name: the storage root key's Name at provisioning: a TPM with another is refused.
    :param hook: called with the command's name after each TPM command; tests end the process there.
    """

    def __init__(self, tcti: str, srk_name: Name | None = None, hook: Callable[[str], None] | None = None) -> None:
        self._tcti = tcti
        self._hook = hook or (lambda _: None)
        self._srk_name = srk_name
        self._session: Any = None
        self._srk: Any = None
        path = Path(tcti.removeprefix("device:"))
        if tcti.startswith("device:") and not path.exists():
            raise UnavailableError(Reason.TPM_ABSENT, f"{path} does not exist")
        try:
            self._esys = ESAPI(tcti)
        except TSS2_Exception as error:
            raise UnavailableError(Reason.TPM_ABSENT, f"{tcti}: {error}") from error
        try:
            if tcti.startswith("swtpm:"):  # no kernel starts it, and none clears up behind a process that died
                self._start_software_tpm()
            self._open_session()
        except BaseException:
            self._esys.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session and the connection; calling it again does nothing."""
        if self._esys.is_closed():
            return
        with contextlib.suppress(TSS2_Exception):
            if self._session is not None:
                self._esys.flush_context(self._session)
        self._session = None
        self._esys.close()

    # -- sessions -----------------------------------------------------------------------------------------------------

    @property
    def srk_name(self) -> Name:
        """The Name of the storage root key. :raises UnavailableError: ``tpm_absent``: there is none yet."""
        if self._srk is None:
            raise UnavailableError(Reason.TPM_ABSENT, "there is no storage root key yet")
        return Name(bytes(self._esys.tr_get_name(self._srk)))

    def ensure_srk(self) -> None:
        """Make the storage root key with the standard template, if none is there, and a session salted with it."""
        if self._srk is not None:
            return
        handle, *_ = self._run(
            "create_primary",
            lambda: self._esys.create_primary(TPM2B_SENSITIVE_CREATE(), _public(_SRK_PUBLIC), ESYS_TR.OWNER),
        )
        with self._flushed(handle):
            self._run("evict_control", lambda: self._esys.evict_control(ESYS_TR.OWNER, handle, SRK_HANDLE))
        self._open_session()

    def _open_session(self) -> None:
        if SRK_HANDLE not in self.handles(_PERSISTENT):
            return
        self._srk = self._run("read_public", lambda: self._esys.tr_from_tpmpublic(SRK_HANDLE))
        if self._srk_name is not None and self._srk_name != self.srk_name:
            raise IntegrityError(Reason.TPM_ALTERED, "the storage root key is not the one of provisioning")
        self._session = self._start_session(TPM2_SE.HMAC)

    def _start_session(self, kind: TPM2_SE) -> Any:
        if self._srk is None:
            raise UnavailableError(Reason.TPM_ABSENT, "no session without a storage root key")
        return self._run(
            "start_auth_session",
            lambda: self._esys.start_auth_session(self._srk, ESYS_TR.NONE, kind, "aes128cfb", TPM2_ALG.SHA256),
        )

    def _protected(self, attributes: TPMA_SESSION) -> Any:
        """The HMAC session, with what the next command can have encrypted."""
        if self._session is None:
            raise UnavailableError(Reason.TPM_ABSENT, "no protected session; nothing is sent without one")
        self._esys.trsess_set_attributes(self._session, attributes | TPMA_SESSION.CONTINUESESSION)
        return self._session

    @contextlib.contextmanager
    def policy_session(self, *, trial: bool = False) -> Iterator[PolicySession]:
        """A salted policy session. :param trial: one that only computes the digest."""
        handle = self._start_session(TPM2_SE.TRIAL if trial else TPM2_SE.POLICY)
        with self._flushed(handle):
            yield PolicySession(self, handle)

    @contextlib.contextmanager
    def _flushed(self, handle: Any) -> Iterator[Any]:
        """Whatever happens, the handle is flushed; a handle that is gone already is no error."""
        try:
            yield handle
        finally:
            with contextlib.suppress(TSS2_Exception):
                self._esys.flush_context(handle)

    def _start_software_tpm(self) -> None:
        self._run("startup", lambda: self._esys.startup(TPM2_SU.CLEAR), ignore={0x100})  # already started
        for handle in (*self.handles(_TRANSIENT), *self.handles(_LOADED_SESSION)):
            with contextlib.suppress(TSS2_Exception):
                self._esys.flush_context(self._esys.tr_from_tpmpublic(handle))

    def _run(self, name: str, command: Callable[[], Any], ignore: set[int] | None = None) -> Any:
        """Send a command; errors come out as ours. :raises BsfgError: see :func:`translate`."""
        try:
            result = command()
        except TSS2_Exception as error:
            if ignore and error.rc in ignore:
                return None
            raise translate(name, error) from error
        self._hook(name)
        return result

    # -- capabilities -------------------------------------------------------------------------------------------------

    def handles(self, first: int) -> list[int]:
        """The handles in use in the range that begins at ``first``."""
        _, data = self._run("get_capability", lambda: self._esys.get_capability(TPM2_CAP.HANDLES, first, 254))
        return [int(handle) for handle in data.data.handles if int(handle) & _HANDLE_RANGE == first]

    def commands(self) -> frozenset[int]:
        """The codes of the commands this TPM has."""
        _, data = self._run("get_capability", lambda: self._esys.get_capability(TPM2_CAP.COMMANDS, 0, 400))
        return frozenset(int(attributes) & 0xFFFF for attributes in data.data.command)

    def check_supported(self) -> None:
        """:raises RefusedError: ``tpm_unsupported``: a command that the boundary key needs is missing."""
        missing = [str(command) for command in NEEDED if int(command) not in self.commands()]
        if missing:
            raise RefusedError(Reason.TPM_UNSUPPORTED, f"missing: {', '.join(missing)}")

    # -- PCRs ---------------------------------------------------------------------------------------------------------

    def pcr_read(self, pcrs: Sequence[int]) -> dict[int, bytes]:
        """The values of at most 8 PCRs of the SHA-256 bank; the answer is authenticated by an audit session."""
        session = self._protected(_AUDIT)
        _, _, digests = self._run("pcr_read", lambda: self._esys.pcr_read(_selection(pcrs), session1=session))
        values = [bytes(digest) for digest in digests]
        if len(values) != len(pcrs):
            raise RefusedError(Reason.TPM_UNSUPPORTED, "the TPM has no SHA-256 bank of these PCRs")
        return dict(zip(sorted(pcrs), values, strict=True))

    def pcr_extend(self, pcr: int, digest: Digest) -> None:
        """Extend one PCR of the SHA-256 bank."""
        values = TPML_DIGEST_VALUES.unmarshal(struct.pack(">IH", 1, SHA256) + digest)[0]
        session = self._protected(_NONE)
        self._run("pcr_extend", lambda: self._esys.pcr_extend(ESYS_TR(pcr), values, session1=session))

    # -- NV -----------------------------------------------------------------------------------------------------------

    def nv_public(self, index: int) -> NvPublic | None:
        """The public area of an NV index; ``None``: it is not defined."""
        if index not in self.handles(_NV_INDEX):
            return None
        with self._nv(index) as handle:
            session = self._protected(_ENCRYPT)
            public, _ = self._run("nv_read_public", lambda: self._esys.nv_read_public(handle, session1=session))
            return NvPublic.unmarshal(public.nvPublic.marshal())

    def nv_define(self, public: NvPublic) -> None:
        """Define an index with empty authValue, by the owner."""
        area = TPM2B_NV_PUBLIC.unmarshal(sized(public.marshal()))[0]
        session = self._protected(_DECRYPT)
        handle = self._run("nv_define", lambda: self._esys.nv_define_space(b"", area, session1=session))
        self._esys.tr_close(handle)

    def nv_undefine(self, index: int) -> None:
        """Remove an index, by the owner."""
        handle = self._run("nv_read_public", lambda: self._esys.tr_from_tpmpublic(index))
        session = self._protected(_NONE)
        self._run("nv_undefine", lambda: self._esys.nv_undefine_space(handle, session1=session))

    def nv_increment(self, index: int) -> None:
        """Count one up, for ever."""
        with self._nv(index) as handle:
            session = self._protected(_NONE)
            self._run("nv_increment", lambda: self._esys.nv_increment(handle, session1=session))

    def nv_read(self, index: int, size: int) -> bytes:
        """The first ``size`` bytes of an index."""
        with self._nv(index) as handle:
            session = self._protected(_ENCRYPT)
            return bytes(self._run("nv_read", lambda: self._esys.nv_read(handle, size, session1=session)))

    def nv_write(self, index: int, data: bytes, policy: PolicySession | None = None) -> None:
        """Write an index by its policy, or by its empty authValue.

        A policy that fixes the cpHash fixes it over the parameters as sent: so they are sent in clear, but with HMAC.
        """
        with self._nv(index) as handle:
            session = self._protected(_NONE) if policy is None else policy.protected(_NONE)
            self._run("nv_write", lambda: self._esys.nv_write(handle, data, session1=session))

    def nv_certify(self, signer: Any, index: int, size: int, qualifying: bytes) -> Attestation:
        """The content of an index, stated by the TPM and signed by the attestation key (part 3, 31.16)."""
        with self._nv(index) as handle, self._second_session() as second:
            session = self._protected(_DECRYPT | _ENCRYPT)
            statement, signature = self._run(
                "nv_certify",
                lambda: self._esys.nv_certify(
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

    @contextlib.contextmanager
    def _second_session(self) -> Iterator[Any]:
        """Another HMAC session, for commands with two authorisations; a session may authorise only one of them."""
        with self._flushed(self._start_session(TPM2_SE.HMAC)) as session:
            yield session

    @contextlib.contextmanager
    def _nv(self, index: int) -> Iterator[Any]:
        handle = self._run("nv_read_public", lambda: self._esys.tr_from_tpmpublic(index))
        try:
            yield handle
        finally:
            with contextlib.suppress(TSS2_Exception):
                self._esys.tr_close(handle)

    # -- keys ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def attestation_key(self) -> Iterator[tuple[Any, bytes]]:
        """The attestation key (handle, TPMT_PUBLIC): a primary of the endorsement hierarchy, the same every time."""
        template = _public(ecdsa_public(bytes(32), bytes(32), ATTESTATION))
        session = self._protected(_DECRYPT | _ENCRYPT)
        handle, public, *_ = self._run(
            "create_primary",
            lambda: self._esys.create_primary(
                TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT, session1=session
            ),
        )
        with self._flushed(handle):
            yield handle, public.publicArea.marshal()

    def create_key(self, template: bytes) -> tuple[bytes, bytes]:
        """A new key under the storage root key: its TPMT_PUBLIC, and its private part wrapped for this TPM alone."""
        session = self._protected(_DECRYPT | _ENCRYPT)
        private, public, *_ = self._run(
            "create",
            lambda: self._esys.create(self._srk, TPM2B_SENSITIVE_CREATE(), _public(template), session1=session),
        )
        return public.publicArea.marshal(), private.marshal()

    @contextlib.contextmanager
    def loaded(self, public: bytes, private: bytes) -> Iterator[Any]:
        """A key that :meth:`create_key` made, as long as the block runs."""
        session = self._protected(_DECRYPT | _ENCRYPT)
        wrapped = TPM2B_PRIVATE.unmarshal(private)[0]
        handle = self._run("load", lambda: self._esys.load(self._srk, wrapped, _public(public), session1=session))
        with self._flushed(handle):
            yield handle

    @contextlib.contextmanager
    def loaded_external(self, public: bytes) -> Iterator[Any]:
        """A public key from outside, as long as the block runs; in the owner hierarchy, so that tickets last."""
        session = self._protected(_DECRYPT | _ENCRYPT)
        handle = self._run(
            "load_external",
            lambda: self._esys.load_external(_public(public), hierarchy=ESYS_TR.OWNER, session1=session),
        )
        with self._flushed(handle):
            yield handle

    def verify_rsa(self, key: Any, digest: Digest, signature: bytes) -> Ticket:
        """A ticket for an RSASSA signature. :raises DeniedError: ``tpm_refused``: it does not verify."""
        structure = TPMT_SIGNATURE.unmarshal(struct.pack(">HH", RSASSA, SHA256) + sized(signature))[0]
        session = self._protected(_DECRYPT)
        ticket = self._run(
            "verify_signature", lambda: self._esys.verify_signature(key, digest, structure, session1=session)
        )
        return Ticket(bytes(ticket.digest))

    def sign(self, key: Any, digest: Digest, policy: PolicySession | None = None) -> bytes:
        """An ECDSA signature (DER) by a key's policy, or by its empty authValue."""
        session = self._protected(_DECRYPT) if policy is None else policy.protected(_DECRYPT)
        scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
        check = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        return bytes(self._run("sign", lambda: self._esys.sign(key, digest, scheme, check, session1=session)))

    def certify(self, signer: Any, key: Any, qualifying: bytes) -> Attestation:
        """The public area and Name of a loaded key, stated by the TPM (part 3, 18.2); needs no policy of the key."""
        with self._second_session() as second:
            session = self._protected(_DECRYPT | _ENCRYPT)
            statement, signature = self._run(
                "certify",
                lambda: self._esys.certify(
                    key, signer, qualifying, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), session1=session, session2=second
                ),
            )
        return Attestation(bytes(statement), bytes(signature))


class PolicySession:
    """A policy session under way; each method is the TPM command of its name (part 3, 23)."""

    def __init__(self, device: Device, handle: Any) -> None:
        self._device = device
        self._handle = handle

    def protected(self, attributes: TPMA_SESSION) -> Any:
        """The session as an authorisation; it is spent with that, or flushed at the end of its block."""
        self._device._esys.trsess_set_attributes(self._handle, attributes | TPMA_SESSION.CONTINUESESSION)
        return self._handle

    def _run(self, name: str, attributes: TPMA_SESSION, command: Callable[[Any, Any], Any]) -> Any:
        device = self._device
        session = device._protected(attributes)
        return device._run(name, lambda: command(device._esys, session))

    def pcr(self, pcrs: Sequence[int]) -> None:
        """The PCRs as they are now; any extension of any PCR ends the session."""
        self._run(
            "policy_pcr",
            _DECRYPT,
            lambda esys, session: esys.policy_pcr(self._handle, b"", _selection(pcrs), session1=session),
        )

    def digest(self) -> Digest:
        """What the session has come to."""
        answer = self._run(
            "policy_get_digest", _ENCRYPT, lambda esys, session: esys.policy_get_digest(self._handle, session1=session)
        )
        return Digest(bytes(answer))

    def authorize(self, approved: Digest, signer: Name, ticket: Ticket) -> None:
        """The digest so far is one that ``signer`` approved."""
        self._run(
            "policy_authorize",
            _DECRYPT,
            lambda esys, session: esys.policy_authorize(
                self._handle, approved, bytes(signer), ticket.to_tss(), b"", session1=session
            ),
        )

    def nv_equal(self, index: int, value: int) -> None:
        """The counter has this value."""
        with self._device._nv(index) as handle:
            self._run(
                "policy_nv",
                _DECRYPT,
                lambda esys, session: esys.policy_nv(
                    handle, handle, self._handle, value.to_bytes(8), TPM2_EO.EQ, 0, session1=session
                ),
            )

    def authorize_nv(self, index: int) -> None:
        """The digest so far is the one that the index holds."""
        with self._device._nv(index) as handle:
            self._run(
                "policy_authorize_nv",
                _NONE,
                lambda esys, session: esys.policy_authorize_nv(
                    handle, self._handle, auth_handle=handle, session1=session
                ),
            )

    def any_of(self, branches: Sequence[Digest]) -> None:
        """The digest so far is one of these. The list cannot be encrypted (it is no TPM2B); it is public."""
        listed = TPML_DIGEST([bytes(branch) for branch in branches])
        self._run("policy_or", _AUDIT, lambda esys, session: esys.policy_or(self._handle, listed, session1=session))

    def signed(self, signer: Any, cp_hash: Digest, ref: bytes, signature: bytes) -> None:
        """``signer`` (a loaded key) signed the use whose cpHash this is. :param signature: ECDSA, DER."""
        r, s = decode_dss_signature(signature)
        structure = TPMT_SIGNATURE.unmarshal(
            struct.pack(">HH", ECDSA, SHA256) + sized(r.to_bytes(32)) + sized(s.to_bytes(32))
        )[0]
        self._run(
            "policy_signed",
            _DECRYPT,
            lambda esys, session: esys.policy_signed(
                signer, self._handle, structure, b"", cp_hash, ref, 0, session1=session
            ),
        )


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


def _public(area: bytes) -> Any:
    return TPM2B_PUBLIC.unmarshal(sized(area))[0]


def _selection(pcrs: Sequence[int]) -> Any:
    return TPML_PCR_SELECTION.parse("sha256:" + ",".join(str(pcr) for pcr in sorted(pcrs)))
