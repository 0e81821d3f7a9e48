# SPDX-License-Identifier: Apache-2.0
"""The device CA certificate that the hub signed for this box's boundary key, as the keeper keeps it. Blocking."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import certificate_der, certificate_pem, check_device_ca
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.files import PUBLIC, sync_folder, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.config import KeeperConfig

NEXT_FILE: Final = "device-ca.next.pem"
"""The certificate of the key that waits to take over."""
DEVICE_CA_FILE: Final = "device-ca.pem"
"""In the keeper's folder; the registry of this box has it too."""

_log = logging.getLogger(__name__)


class DeviceCa:
    """The certificate in use; every one is checked against hub CA, zone and key before it is."""

    def __init__(self, config: KeeperConfig) -> None:
        self._zone = config.zone
        self._path = config.state_dir / DEVICE_CA_FILE
        self._next = config.state_dir / NEXT_FILE
        self._folder = PkiFolder(config.pki_dir)
        self.certificate: x509.Certificate | None = None
        self.problem: BsfgError | None = None
        """Why the certificate on disk is not in use."""

    def load(self, key: ec.EllipticCurvePublicKey) -> None:
        """Take what is on disk for this key; what is not good counts as absent."""
        self.certificate = self.problem = None
        self._promote(key)
        try:
            self.certificate = self._checked(self._path.read_bytes(), key)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.problem = DeniedError(Reason.BAD_CERTIFICATE, f"{self._path}: {error}")
        except BsfgError as error:
            self.problem = error
        if self.problem is not None:
            _log.error("%s", self.problem)

    def install(self, der: bytes, key: ec.EllipticCurvePublicKey) -> None:
        """Take a new certificate for this key, durably, and enter it into the registry of this box.

        :raises DeniedError: ``bad_certificate``: for another key or zone, or not signed by the hub CA.
        """
        try:
            pem = certificate_pem(x509.load_der_x509_certificate(der))
        except ValueError as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"{error}") from error
        certificate = self._checked(pem, key)
        self._register(certificate)
        write_atomically(self._path, pem, PUBLIC)
        self.certificate, self.problem = certificate, None

    def remember(self, boundary_public: bytes, make: Callable[[], EnrolledBox]) -> None:
        """Write down what this box is enrolled as, unless it is known; the watchdog measures the box by it.

        :param make: asks the TPM. A disk that is full hinders nothing.
        """
        if self.certificate is None or self._remembers(boundary_public):
            return
        try:
            write_atomically(self._folder.enrolled_box, make().render(), PUBLIC)
        except OSError as error:
            _log.error("that this box is enrolled cannot be written down: %s", error)

    def _remembers(self, boundary_public: bytes) -> bool:
        try:
            return EnrolledBox.parse(self._folder.enrolled_box.read_bytes()).boundary_public == boundary_public
        except (OSError, RefusedError):
            return False

    def prepare(self, der: bytes, key: ec.EllipticCurvePublicKey) -> None:
        """Take the certificate of a key that is to take over, durably; :meth:`load` uses it once that key is in use.

        :raises DeniedError: ``bad_certificate``: as :meth:`install`.
        """
        try:
            pem = certificate_pem(x509.load_der_x509_certificate(der))
        except ValueError as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"{error}") from error
        self._register(self._checked(pem, key))
        write_atomically(self._next, pem, PUBLIC)

    def _promote(self, key: ec.EllipticCurvePublicKey) -> None:
        """Let the certificate that was prepared take the other's place, if it is this key's."""
        with suppress(OSError, ValueError, BsfgError):
            self._checked(self._next.read_bytes(), key)
            self._next.replace(self._path)
            sync_folder(self._path.parent)

    def needed(self) -> x509.Certificate:
        """The certificate. :raises UnavailableError: ``not_enrolled``."""
        if self.certificate is None:
            raise UnavailableError(Reason.NOT_ENROLLED, self.problem.detail if self.problem else "")
        return self.certificate

    def _checked(self, pem: bytes, key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        certificate = x509.load_pem_x509_certificate(pem)
        if certificate.public_key() != key:
            raise DeniedError(Reason.BAD_CERTIFICATE, "it is for another key than this box's boundary key")
        try:
            hub_ca = x509.load_pem_x509_certificate(self._folder.hub_ca.read_bytes())
        except (OSError, ValueError) as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"{self._folder.hub_ca}: {error}") from error
        check_device_ca(hub_ca, self._zone, certificate)
        return certificate

    def _register(self, certificate: x509.Certificate) -> None:
        """Add it to the zone's certificates, the newest last; receipts under older ones stay good."""
        path: Path = self._folder.zone(self._zone)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = path.read_bytes() if path.exists() else b""
        known = [certificate_der(each) for each in x509.load_pem_x509_certificates(text)] if text else []
        if certificate_der(certificate) not in known:
            write_atomically(path, text + certificate_pem(certificate), PUBLIC)
