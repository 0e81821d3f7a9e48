# SPDX-License-Identifier: Apache-2.0
"""Who a certificate proves: exactly one dNSName, equal to the name constraint of the zone's registered device CA.

TLS has already checked the chain up to the hub's CA, but a chain alone is not enough: OpenSSL accepts a foreign common
name under a DNS constraint, and names below the constrained one (both tried). So the subject decides nothing here, the
one subject alternative name decides everything, and the issuing CA must be the one that was registered for that zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.names import ZoneId, zone_of_identity
from appliance.boundary.reasons import Reason

Registry = Mapping[ZoneId, Sequence[bytes]]
"""The device CA certificates (DER) registered for each zone; a zone has two of them while its key is renewed."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """A proven peer and when its proof ends (Unix seconds)."""

    zone: ZoneId
    ends_at: float


def prove_identity(certificate: bytes, registry: Registry, now: float) -> PeerIdentity:
    """The zone a TLS peer's certificate (DER) proves.

    :param now: Unix seconds, boundary time.
    :raises DeniedError: ``bad_certificate`` with what is wrong, ``unknown_peer`` when its zone is not registered.
    """
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        name = _only_dns_name(leaf)
    except ValueError as error:
        raise _bad(str(error)) from None
    try:
        zone = zone_of_identity(name)
    except RefusedError as error:
        raise _bad(error.detail) from None
    registered = registry.get(zone)
    if not registered:
        raise DeniedError(Reason.UNKNOWN_PEER, name)
    issuer = _issuer(leaf, map(_authority, registered))
    if _constraint(issuer) != name:
        raise _bad(f"{name} is not what its device CA may name")
    ends_at = min(_check_time(leaf, now), _check_time(issuer, now))
    return PeerIdentity(zone, ends_at)


def _bad(detail: str) -> DeniedError:
    return DeniedError(Reason.BAD_CERTIFICATE, detail)


def _only_dns_name(leaf: x509.Certificate) -> str:
    try:
        names = list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    if len(names) != 1 or not isinstance(names[0], x509.DNSName):
        raise _bad(f"{len(names)} subject alternative names: exactly one, a dNSName, is needed")
    return names[0].value


def _issuer(leaf: x509.Certificate, authorities: Iterable[x509.Certificate]) -> x509.Certificate:
    for authority in authorities:
        try:
            leaf.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return authority
    raise _bad("not issued by the device CA registered for its zone")


@lru_cache(maxsize=1024)
def _authority(certificate: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate)


def _constraint(authority: x509.Certificate) -> str | None:
    """The one DNS name a device CA may issue for; nothing when it is not constrained to one.

    Constraints on other forms of names are welcome: they only narrow what it may issue.
    """
    try:
        constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None
    permitted = [name.value for name in constraints.permitted_subtrees or [] if isinstance(name, x509.DNSName)]
    return permitted[0] if len(permitted) == 1 else None


def _check_time(certificate: x509.Certificate, now: float) -> float:
    """When a certificate that is valid now ends."""
    at = datetime.fromtimestamp(now, UTC)
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise _bad(
            f"valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC, and it is {at:%Y-%m-%d %H:%M:%S}"
        )
    return certificate.not_valid_after_utc.timestamp()
