# SPDX-License-Identifier: Apache-2.0
"""The connection to a TPM: opening it, protected sessions, and errors of this product. Blocking; for one thread.

Every command whose parameters can be encrypted is sent with an HMAC session that is salted with the storage root key
and encrypts them (TPM 2.0 part 1, 19.6.8 and 21). If such a session cannot be had, nothing is sent. Whether a command
can be encrypted is a property of the command, and ESYS does not complain of attributes that have no effect; so each
command states its own. Handles and policy sessions exist only inside ``with`` blocks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_SE, TPM2_SU, TPMA_SESSION
from tpm2_pytss.ESAPI import ESAPI
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.types import TPM2B_SENSITIVE_CREATE

from appliance.boundary.errors import IntegrityError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.public import ECC, NIST_P256, NULL, SHA256, STORAGE, Name, sized
from appliance.keys.tpm.session import PolicySession
from appliance.keys.tpm.tss import public_structure, translate

SRK_HANDLE: Final = 0x81000001
"""The storage root key, where systemd and the TCG provisioning guidance keep it."""
PERSISTENT: Final = 0x81000000
TRANSIENT: Final = 0x80000000
LOADED_SESSION: Final = 0x02000000
NV_INDEX: Final = 0x01000000
"""The first handle of each kind (TPM 2.0 part 2, 7.2)."""
_POLICY_SESSION: Final = 0x03000000
"""Loaded sessions are listed together, HMAC and policy sessions, each by its own kind of handle (part 3, 30.2)."""
_HANDLE_RANGE: Final = 0xFF000000
_SRK_PUBLIC: Final = (
    struct.pack(">HHI", ECC, SHA256, STORAGE)
    + sized(b"")
    + struct.pack(">HHHHHH", 0x0006, 128, 0x0043, NULL, NIST_P256, NULL)  # AES-128-CFB
    + sized(bytes(32)) * 2
)
_ALREADY_STARTED: Final = 0x100


class Connection:
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
        if tcti.startswith("device:"):
            check_free(Path(tcti.removeprefix("device:")))
        try:
            self.esys = ESAPI(tcti)
        except TSS2_Exception as error:
            raise UnavailableError(Reason.TPM_ABSENT, f"{tcti}: {error}") from error
        try:
            if self.simulated:  # no kernel starts it, and none clears up behind a process that died
                self._start_software_tpm()
            self._open_session()
        except BaseException:
            self.esys.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session and the connection; calling it again does nothing."""
        if self.esys.is_closed():
            return
        with contextlib.suppress(TSS2_Exception):
            if self._session is not None:
                self.esys.flush_context(self._session)
        self._session = None
        self.esys.close()

    @property
    def simulated(self) -> bool:
        """Whether this is a software TPM, which protects nothing."""
        return self._tcti.startswith("swtpm:")

    @property
    def srk_name(self) -> Name:
        """The Name of the storage root key. :raises UnavailableError: ``tpm_absent``: there is none yet."""
        if self._srk is None:
            raise UnavailableError(Reason.TPM_ABSENT, "there is no storage root key yet")
        return Name(bytes(self.esys.tr_get_name(self._srk)))

    def ensure_srk(self) -> None:
        """Make the storage root key with the standard template, if none is there, and a session salted with it."""
        if self._srk is not None:
            return
        handle, *_ = self.run(
            "create_primary",
            lambda: self.esys.create_primary(TPM2B_SENSITIVE_CREATE(), public_structure(_SRK_PUBLIC), ESYS_TR.OWNER),
        )
        with self.flushed(handle):
            self.run("evict_control", lambda: self.esys.evict_control(ESYS_TR.OWNER, handle, SRK_HANDLE))
        self._open_session()

    def _open_session(self) -> None:
        if SRK_HANDLE not in self.handles(PERSISTENT):
            return
        self._srk = self.run("read_public", lambda: self.esys.tr_from_tpmpublic(SRK_HANDLE))
        if self._srk_name is not None and self._srk_name != self.srk_name:
            raise IntegrityError(Reason.TPM_ALTERED, "the storage root key is not the one of provisioning")
        self._session = self._start_session(TPM2_SE.HMAC)

    def _start_session(self, kind: TPM2_SE) -> Any:
        if self._srk is None:
            raise UnavailableError(Reason.TPM_ABSENT, "no session without a storage root key")
        return self.run(
            "start_auth_session",
            lambda: self.esys.start_auth_session(self._srk, ESYS_TR.NONE, kind, "aes128cfb", TPM2_ALG.SHA256),
        )

    def protected(self, attributes: TPMA_SESSION) -> Any:
        """The HMAC session, with what the next command can have encrypted."""
        if self._session is None:
            raise UnavailableError(Reason.TPM_ABSENT, "no protected session; nothing is sent without one")
        self.esys.trsess_set_attributes(self._session, attributes | TPMA_SESSION.CONTINUESESSION)
        return self._session

    @contextlib.contextmanager
    def policy_session(self, *, trial: bool = False) -> Iterator[PolicySession]:
        """A salted policy session. :param trial: one that only computes the digest."""
        handle = self._start_session(TPM2_SE.TRIAL if trial else TPM2_SE.POLICY)
        with self.flushed(handle):
            yield PolicySession(self, handle)

    @contextlib.contextmanager
    def flushed(self, handle: Any) -> Iterator[Any]:
        """Whatever happens, the handle is flushed; a handle that is gone already is no error."""
        try:
            yield handle
        finally:
            with contextlib.suppress(TSS2_Exception):
                self.esys.flush_context(handle)
            self._hook("flush_context")

    def _start_software_tpm(self) -> None:
        self.run("startup", lambda: self.esys.startup(TPM2_SU.CLEAR), ignore={0x100})  # already started
        for handle in (*self.handles(TRANSIENT), *self.handles(LOADED_SESSION)):
            with contextlib.suppress(TSS2_Exception):
                self.esys.flush_context(self.esys.tr_from_tpmpublic(handle))

    def run(self, name: str, command: Callable[[], Any], ignore: set[int] | None = None) -> Any:
        """Send a command; errors come out as ours. :raises BsfgError: see :func:`translate`."""
        try:
            return command()
        except TSS2_Exception as error:
            if ignore and error.rc in ignore:
                return None
            raise translate(name, error) from error
        finally:
            self._hook(name)

    def handles(self, first: int) -> list[int]:
        """The handles in use in the range that begins at ``first``."""
        _, data = self.run("get_capability", lambda: self.esys.get_capability(TPM2_CAP.HANDLES, first, 254))
        kinds = (first, _POLICY_SESSION) if first == LOADED_SESSION else (first,)
        return [int(handle) for handle in data.data.handles if int(handle) & _HANDLE_RANGE in kinds]

    @contextlib.contextmanager
    def second_session(self) -> Iterator[Any]:
        """Another HMAC session, for commands with two authorisations; a session may authorise only one of them."""
        with self.flushed(self._start_session(TPM2_SE.HMAC)) as session:
            yield session

    @contextlib.contextmanager
    def nv(self, index: int) -> Iterator[Any]:
        """An NV index as ESYS knows it, as long as the block runs."""
        handle = self.run("nv_read_public", lambda: self.esys.tr_from_tpmpublic(index))
        try:
            yield handle
        finally:
            with contextlib.suppress(TSS2_Exception):
                self.esys.tr_close(handle)


def check_free(device: Path) -> None:
    """Whether a TPM device can be opened; ``/dev/tpm0`` serves one process at a time.

    :raises UnavailableError: ``tpm_busy``: another process has it; ``tpm_absent``: anything else.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as error:
        reason = Reason.TPM_BUSY if error.errno == errno.EBUSY else Reason.TPM_ABSENT
        raise UnavailableError(reason, f"{device}: {error.strerror}") from error
