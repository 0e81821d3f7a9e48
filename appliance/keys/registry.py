# SPDX-License-Identifier: Apache-2.0
"""Which device CA belongs to which zone.

The registry is public: the hub CA's certificate and, for each enrolled zone, the certificates of its boundary keys
(more than one after a change of key; receipts signed with the older one stay valid).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.names import ZoneId, identity_of, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import certificate_der


@dataclass(frozen=True, slots=True)
class Registry:
    """The hub CA and the device CAs of the enrolled zones; each was checked when it was taken in."""

    hub_ca: x509.Certificate
    device_cas: Mapping[ZoneId, tuple[x509.Certificate, ...]]

    def __post_init__(self) -> None:
        for zone, certificates in self.device_cas.items():
            for certificate in certificates:
                _check_device_ca(self.hub_ca, zone, certificate)

    @classmethod
    def load(cls, hub_ca: Path, folder: Path) -> Registry:
        """Read ``<zone>.pem`` files. :raises DeniedError: ``bad_certificate`` with the file's name."""
        cas = {}
        for path in sorted(folder.glob("*.pem")):
            try:
                cas[parse_zone(path.stem)] = tuple(x509.load_pem_x509_certificates(path.read_bytes()))
            except (OSError, ValueError, BsfgError) as error:
                raise DeniedError(Reason.BAD_CERTIFICATE, f"{path}: {error}") from error
        try:
            return cls(x509.load_pem_x509_certificate(hub_ca.read_bytes()), cas)
        except (OSError, ValueError) as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"{hub_ca}: {error}") from error

    def is_boundary_key(self, zone: ZoneId, der: bytes) -> bool:
        """Whether these are the bytes of a registered device CA of that zone."""
        return any(certificate_der(certificate) == der for certificate in self.device_cas.get(zone, ()))


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether ``issuer``'s key signed the certificate; dates and constraints are not asked."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_device_ca(hub_ca: x509.Certificate, zone: ZoneId, certificate: x509.Certificate) -> None:
    """A device CA is signed by the hub CA and can certify the zone's identity and no other DNS name."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        permitted = certificate.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except (ValueError, x509.ExtensionNotFound) as error:
        raise DeniedError(Reason.BAD_CERTIFICATE, f"the device CA of zone {zone}: {error}") from error
    names = [name.value for name in permitted if isinstance(name, x509.DNSName)]
    if not basic.ca or basic.path_length != 0 or names != [identity_of(zone)] or not is_issued_by(certificate, hub_ca):
        raise DeniedError(
            Reason.BAD_CERTIFICATE, f"the device CA of zone {zone} is not what the hub CA signs for {identity_of(zone)}"
        )
