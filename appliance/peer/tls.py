# SPDX-License-Identifier: Apache-2.0
"""TLS of the boundary: version 1.3 only, certificates on both sides, HTTP/2 only, no session that outlives a check."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.reasons import Reason

ALPN: Final = "h2"
NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME. OpenSSL would ask the wall clock, which may be wrong by years on a box whose clock battery
is dead. Our own check asks boundary time, on both sides and for every certificate up to the hub CA
(:func:`appliance.peer.identity.prove_identity`), so nothing is served or sent on a certificate that has ended."""


@dataclass(frozen=True, slots=True)
class OwnCredential:
    """What we prove ourselves with, in a context that nobody else changes.

    :param begins_at: Unix seconds, boundary time; the last of our certificate, its device CA and the hub CA.
    :param ends_at: the first of them. :param serial: of our certificate, lower-case hex.
    """

    context: ssl.SSLContext
    begins_at: float
    ends_at: float
    serial: str
    certificates: tuple[x509.Certificate, ...] = ()
    """Our certificate, its device CA, the hub CA."""

    def check(self, now: float) -> None:
        """:raises DeniedError: ``bad_certificate``: our own has ended, or is not valid yet."""
        if not self.begins_at <= now < self.ends_at:
            word = "ended" if now >= self.ends_at else "begins"
            when = datetime.fromtimestamp(self.ends_at if now >= self.ends_at else self.begins_at, UTC)
            raise DeniedError(Reason.BAD_CERTIFICATE, f"ours {word} at {when:%Y-%m-%d %H:%M:%S} UTC")


def server_credential(session: Path, authorities: Path) -> OwnCredential:
    """What a listening peer needs.

    :param session: PEM: private key, session certificate, its device CA; one file, replaced whole.
    :param authorities: PEM: the hub CA that callers' chains must end in.
    :raises UnavailableError: ``no_session``: a file cannot be read, or is not that.
    """
    return _credential(ssl.PROTOCOL_TLS_SERVER, session, authorities)


def client_credential(session: Path, authorities: Path) -> OwnCredential:
    """What a dialling peer needs; as :func:`server_credential`. The server's name is checked too."""
    return _credential(ssl.PROTOCOL_TLS_CLIENT, session, authorities)


class SessionFiles:
    """The credential in a session file, made anew when the file was replaced; connections keep the one they have.

    Called for every connection; while nothing has changed that costs two looks at a folder.
    """

    def __init__(self, side: int, session: Path, authorities: Path) -> None:
        self._side = side
        self._session, self._authorities = session, authorities
        self._stamp: tuple[object, ...] = ()
        self._credential: OwnCredential | None = None
        self._serial = ""
        self.renewals = 0
        """How often another session was found than the one before."""

    @property
    def last(self) -> OwnCredential | None:
        """The credential that was found last, however old; nothing when the files could not be used then."""
        return self._credential

    def __call__(self) -> OwnCredential:
        """The newest credential. :raises UnavailableError: ``no_session``: there is none that can be used."""
        stamp = (_stamp(self._session), _stamp(self._authorities))
        if self._credential is None or stamp != self._stamp:
            self._credential = None
            self._credential = _credential(self._side, self._session, self._authorities)
            self._stamp = stamp
            if self._serial not in ("", self._credential.serial):
                self.renewals += 1
            self._serial = self._credential.serial
        return self._credential


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        state = path.stat()
    except OSError:
        return ()
    return state.st_mtime_ns, state.st_size, state.st_ino


def _credential(side: int, session: Path, authorities: Path) -> OwnCredential:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # A hub CA may itself be certified by the site's PKI; it is trusted, and nothing above it.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    context.hostname_checks_common_name = False
    context.set_alpn_protocols([ALPN])
    if side == ssl.PROTOCOL_TLS_SERVER:
        # A resumed session would carry a proof from an earlier handshake past the end of its certificate.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    try:
        # Looked at before it is loaded: if it is replaced in between, we end too early and not too late.
        chain = x509.load_pem_x509_certificates(session.read_bytes())
        chain += x509.load_pem_x509_certificates(authorities.read_bytes())
        context.load_verify_locations(authorities)
        context.load_cert_chain(session)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UnavailableError(Reason.NO_SESSION, f"ours cannot be used: {error}") from error
    begins_at = max(certificate.not_valid_before_utc.timestamp() for certificate in chain)
    ends_at = min(certificate.not_valid_after_utc.timestamp() for certificate in chain)
    return OwnCredential(context, begins_at, ends_at, f"{chain[0].serial_number:x}", tuple(chain))


def refuses_certificate(error: ssl.SSLError) -> bool:
    """Whether an error is the other side's alert that it does not accept our certificate.

    OpenSSL's versions name these alerts differently; all say what they are about.
    """
    name = (error.reason or "").upper().replace(" ", "_")
    return "ALERT" in name and any(word in name for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED"))
