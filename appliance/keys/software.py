# SPDX-License-Identifier: Apache-2.0
"""The keys port on **software keys**: the boundary key is a file, for development and tests.

Nothing protects such a key from whoever can read the file, and nothing can take it away from a box that is no longer
trusted. ``kind`` says ``software``, and status documents must show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import BACKDATE, SESSION_VALIDITY, Authority, certificate_der, new_session
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.registry import STATEMENT_PREFIX, LiveRegistry

__all__ = ["PkiFolder", "SoftwareKeys"]


@dataclass(frozen=True, slots=True)
class SoftwareKeys:
    """Keys of one zone, held as files: **not for a plant**.

    It is a :class:`appliance.boundary.ports.KeysPort`. The registry is live only while somebody runs it.
    """

    zone: ZoneId
    folder: PkiFolder
    boundary: Authority
    registry: LiveRegistry

    @property
    def kind(self) -> Literal["software"]:
        """How the boundary key is held; status documents show it."""
        return "software"

    @classmethod
    def load(cls, zone: ZoneId, path: Path) -> SoftwareKeys:
        """Read a node's folder.

        :raises UnavailableError: ``bad_environment``: the key cannot be read.
        :raises DeniedError: ``bad_certificate``: what is there does not fit together or is another zone's.
        :raises RefusedError: ``bad_document``: the deny list cannot be read.
        """
        folder = PkiFolder(path)
        try:
            boundary = Authority.from_pem(folder.boundary.read_bytes())
        except (OSError, ValueError) as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{folder.boundary}: {error}") from error
        registry = LiveRegistry(folder)
        registry.refresh()
        if registry.problem is not None:
            raise registry.problem
        if certificate_der(boundary.certificate) not in registry.authorities(zone):
            raise DeniedError(Reason.BAD_CERTIFICATE, f"{folder.boundary} is not registered for zone {zone}")
        return cls(zone, folder, boundary, registry)

    async def sign(self, statement: bytes) -> Signature:
        """Sign a statement with the boundary key. :raises ValueError: it does not begin as statements do."""
        if not statement.startswith(STATEMENT_PREFIX):
            raise ValueError("the boundary key signs statements of this product only")
        value = self.boundary.key.sign(statement, ec.ECDSA(hashes.SHA256()))
        return Signature(value, certificate_der(self.boundary.certificate))

    def verify(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """See :meth:`appliance.keys.registry.Registry.verifies`."""
        return self.registry.verifies(zone, statement, signature)

    def renew_session(self, validity: timedelta = SESSION_VALIDITY, now: datetime | None = None) -> datetime:
        """Replace the session by a new one with a new key; when it ends. Contexts made before keep the old one."""
        session = new_session(self.boundary, self.zone, now or datetime.now(UTC), validity)
        write_atomically(self.folder.session, session.pem(), PRIVATE)
        return session.certificate.not_valid_after_utc

    def renew_when_due(self, now: datetime | None = None) -> bool:
        """Replace the session when half its life is over, by one that is as long; whether that was done.

        One that is not there, or is another key's, is replaced by one of the usual length.

        :raises OSError: the file cannot be written. :raises DeniedError: ``bad_certificate``: the device CA has ended.
        """
        moment, session = now or datetime.now(UTC), self.session()
        validity = SESSION_VALIDITY
        if session is not None and session.issuer == self.boundary.certificate.subject:
            validity = session.not_valid_after_utc - session.not_valid_before_utc - BACKDATE
            if moment < session.not_valid_after_utc - validity / 2:
                return False
        self.renew_session(validity, moment)
        return True

    def session(self) -> x509.Certificate | None:
        """The session certificate on disk; none if there is none that can be read."""
        try:
            return x509.load_pem_x509_certificate(self.folder.session.read_bytes())
        except (OSError, ValueError):
            return None
