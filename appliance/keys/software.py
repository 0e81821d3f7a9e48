# SPDX-License-Identifier: Apache-2.0
"""The keys port on **software keys**: the boundary key is a file, for development and tests.

Nothing protects such a key from whoever can read the file, and nothing can take it away from a box that is no longer
trusted. ``kind`` says ``software``, and status documents must show it. Keys held by a TPM take the same port later.

A node's folder (``pki_dir``)::

    hub-ca.pem        the hub CA's certificate
    zones/<zone>.pem  the device CA certificates of each enrolled zone
    boundary.pem      this zone's boundary key and its device CA certificate; private
    session.pem       the session: key, certificate, device CA certificate; private, replaced whole
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import SESSION_VALIDITY, Authority, certificate_der, new_session
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.registry import Registry

STATEMENT_PREFIX: Final = b"bsfg.v1 "
"""How every statement begins. The same key signs certificates, whose bytes can never begin so."""


@dataclass(frozen=True, slots=True)
class PkiFolder:
    """Where a node's keys and certificates lie."""

    path: Path

    @property
    def hub_ca(self) -> Path:
        """The certificate both sides trust."""
        return self.path / "hub-ca.pem"

    @property
    def zones(self) -> Path:
        """The folder of the enrolled zones' device CA certificates."""
        return self.path / "zones"

    @property
    def boundary(self) -> Path:
        """The boundary key; private."""
        return self.path / "boundary.pem"

    @property
    def session(self) -> Path:
        """The session certificate with its key and chain, in one file that is replaced whole; private."""
        return self.path / "session.pem"


@dataclass(frozen=True, slots=True)
class SoftwareKeys:
    """Keys of one zone, held as files: **not for a plant**.

    It is a :class:`appliance.boundary.ports.KeysPort`, and also hands out the session in its usual forms.
    """

    zone: ZoneId
    folder: PkiFolder
    boundary: Authority
    registry: Registry

    @property
    def kind(self) -> Literal["software"]:
        """How the boundary key is held; status documents show it."""
        return "software"

    @classmethod
    def load(cls, zone: ZoneId, path: Path) -> SoftwareKeys:
        """Read a node's folder.

        :raises UnavailableError: ``bad_environment``: the key cannot be read.
        :raises DeniedError: ``bad_certificate``: what is there does not fit together or is another zone's.
        """
        folder = PkiFolder(path)
        try:
            boundary = Authority.from_pem(folder.boundary.read_bytes())
        except (OSError, ValueError) as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{folder.boundary}: {error}") from error
        registry = Registry.load(folder.hub_ca, folder.zones)
        if not registry.is_boundary_key(zone, certificate_der(boundary.certificate)):
            raise DeniedError(Reason.BAD_CERTIFICATE, f"{folder.boundary} is not registered for zone {zone}")
        return cls(zone, folder, boundary, registry)

    def sign(self, statement: bytes) -> Signature:
        """Sign a statement with the boundary key. :raises ValueError: it does not begin as statements do."""
        if not statement.startswith(STATEMENT_PREFIX):
            raise ValueError("the boundary key signs statements of this product only")
        value = self.boundary.key.sign(statement, ec.ECDSA(hashes.SHA256()))
        return Signature(value, certificate_der(self.boundary.certificate))

    def verify(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """Whether a registered boundary key of that zone signed the statement.

        The certificate's dates are not asked: a receipt proves what was so when it was given.
        """
        if not statement.startswith(STATEMENT_PREFIX) or not self.registry.is_boundary_key(zone, signature.certificate):
            return False
        key = x509.load_der_x509_certificate(signature.certificate).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            return False
        try:
            key.verify(signature.value, statement, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def renew_session(self, validity: timedelta = SESSION_VALIDITY, now: datetime | None = None) -> datetime:
        """Replace the session by a new one with a new key; when it ends. Contexts made before keep the old one."""
        session = new_session(self.boundary, self.zone, now or datetime.now(UTC), validity)
        write_atomically(self.folder.session, session.pem(), PRIVATE)
        return session.certificate.not_valid_after_utc

    def session(self) -> x509.Certificate | None:
        """The session certificate on disk; none if there is none that can be read."""
        try:
            return x509.load_pem_x509_certificate(self.folder.session.read_bytes())
        except (OSError, ValueError):
            return None

    def server_context(self, alpn: Sequence[str] = ("h2",)) -> ssl.SSLContext:
        """TLS for serving peers: 1.3 only, a client certificate under the hub CA is required, no resumption.

        :raises UnavailableError: ``bad_environment``: there is no session.
        """
        context = self._context(ssl.PROTOCOL_TLS_SERVER, alpn)
        context.num_tickets = 0  # a resumed connection would not show its certificate again
        return context

    def client_context(self, alpn: Sequence[str] = ("h2",)) -> ssl.SSLContext:
        """TLS for calling the hub: 1.3 only, trusts the hub CA alone. Connect with ``identity_of(zone)`` as host name.

        :raises UnavailableError: ``bad_environment``: there is no session.
        """
        context = self._context(ssl.PROTOCOL_TLS_CLIENT, alpn)
        context.check_hostname = True
        return context

    def _context(
        self,
        protocol: Literal[ssl._SSLMethod.PROTOCOL_TLS_SERVER, ssl._SSLMethod.PROTOCOL_TLS_CLIENT],
        alpn: Sequence[str],
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.hostname_checks_common_name = False
        context.set_alpn_protocols(list(alpn))
        try:
            context.load_verify_locations(self.folder.hub_ca)
            context.load_cert_chain(self.folder.session)
        except OSError as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{self.folder.session}: {error}") from error
        return context
