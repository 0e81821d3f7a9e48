# SPDX-License-Identifier: Apache-2.0
"""Who a certificate proves: exactly one dNSName, equal to the name constraint of the zone's registered device CA.

TLS has already checked the chain up to the hub's CA, but a chain alone is not enough: OpenSSL accepts a foreign common
name under a DNS constraint, and names below the constrained one (both tried). So the subject decides nothing here, the
one subject alternative name decides everything, and the issuing CA must be one that was registered for that zone and
not denied. A certificate that says anything else than ours say is refused, also where it would do no harm.

Dates are decided here and not by TLS, for both sides, and by boundary time: the wall clock of a box may be wrong by
years.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.names import ZoneId, zone_of_identity
from appliance.boundary.reasons import Reason

LONGEST_SESSION_S: Final = 1200.0
"""Ten minutes, five of backdating, and five for a keeper that rounds otherwise."""


class PeerRegistry(Protocol):
    """Who is enrolled now; asked for every connection, and again while it lives."""

    @property
    def hub_ca(self) -> bytes | None:
        """The hub CA's certificate (DER); ``None``: there is no registry yet, and nobody is proven."""
        ...

    def authorities(self, zone: ZoneId) -> Sequence[bytes]:
        """The device CA certificates (DER) registered for a zone; two of them after a change of key."""
        ...

    def denial(self, authority: bytes) -> str:
        """Why a device CA certificate (DER) proves nothing any more; empty when it was not denied."""
        ...


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """A proven peer.

    :param ends_at: when the proof ends: the first end of certificate, device CA and hub CA (Unix seconds).
    :param authority: the device CA certificate (DER) that proves it.
    """

    zone: ZoneId
    ends_at: float
    authority: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the device CA certificate, for logs."""
        return hashlib.sha256(self.authority).hexdigest()


def prove_identity(
    certificate: bytes, registry: PeerRegistry, now: float, longest_session_s: float = LONGEST_SESSION_S
) -> PeerIdentity:
    """The zone a TLS peer's certificate (DER) proves.

    :param now: Unix seconds, boundary time.
    :param longest_session_s: a session certificate that is valid for longer proves nothing. Whoever could use the
        boundary key for a moment would otherwise sign one for years, and need the TPM never again.
    :raises DeniedError: ``bad_certificate`` with what is wrong, ``unknown_peer`` when its zone is not registered,
        ``box_revoked`` when its device CA was denied.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what a parser has to say something about is not ours
            leaf = x509.load_der_x509_certificate(certificate)
            _check_form(leaf)
            name = _only_dns_name(leaf)
    except DeniedError:
        raise
    except Exception as error:  # noqa: BLE001 - the library's errors for odd certificates have no common root
        raise _bad(str(error)) from None
    if (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() > longest_session_s:
        raise _bad(f"valid for more than {longest_session_s:g} s")
    try:
        zone = zone_of_identity(name)
    except RefusedError as error:
        raise _bad(error.detail) from None
    registered, hub_ca = registry.authorities(zone), registry.hub_ca
    if not registered or hub_ca is None:
        raise DeniedError(Reason.UNKNOWN_PEER, name)
    found = _issuers(leaf, registered)
    # One key may have been certified again: after a denial that was taken back, or because the first certificate ends.
    authority = min(found, key=lambda one: (bool(registry.denial(one)), -_parsed(one).not_valid_after_utc.timestamp()))
    issuer = _parsed(authority)
    if _constraint(issuer) != name:
        raise _bad(f"{name} is not what its device CA may name")
    if words := registry.denial(authority):
        raise DeniedError(Reason.BOX_REVOKED, words)
    ends_at = min(_check_time(one, now) for one in (leaf, issuer, _parsed(hub_ca)))
    return PeerIdentity(zone, ends_at, authority)


def recheck(identity: PeerIdentity, registry: PeerRegistry, now: float) -> None:
    """Whether a proof still holds: while its connection lives, its certificates end and its device CA may be denied.

    :raises DeniedError: as :func:`prove_identity`.
    """
    if words := registry.denial(identity.authority):
        raise DeniedError(Reason.BOX_REVOKED, words)
    if identity.authority not in registry.authorities(identity.zone):
        raise DeniedError(Reason.UNKNOWN_PEER, f"{identity.zone} was taken out of the registry")
    if now >= identity.ends_at:
        raise _bad(f"it ended at {datetime.fromtimestamp(identity.ends_at, UTC):%Y-%m-%d %H:%M:%S} UTC")


def _bad(detail: str) -> DeniedError:
    return DeniedError(Reason.BAD_CERTIFICATE, detail)


_CRITICAL: Final = {
    ExtensionOID.BASIC_CONSTRAINTS: True,
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.EXTENDED_KEY_USAGE: False,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: False,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
}
"""The extensions of a session certificate, all of them, and which are critical."""
_USES: Final = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def _check_form(leaf: x509.Certificate) -> None:
    """A session certificate has one form; most of what an attacker could vary is refused before it means anything."""
    found = {extension.oid: extension.critical for extension in leaf.extensions}
    if leaf.version is not x509.Version.v3 or found != _CRITICAL:
        raise _bad("not the extensions of a session certificate")
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad("its key is not EC P-256")
    if not 0 < leaf.serial_number < 2**160:
        raise _bad("its serial number is not positive")
    if leaf.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise _bad("not signed with ECDSA and SHA-256")
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    if basic.ca or basic.path_length is not None:
        raise _bad("it is a CA")
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    if usage != _ONLY_SIGNATURES:
        raise _bad("its key usage is not digitalSignature alone")
    uses = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    if len(uses) != len(_USES) or set(uses) != _USES:
        raise _bad("its extended key usage is not client and server authentication")


_ONLY_SIGNATURES: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _only_dns_name(leaf: x509.Certificate) -> str:
    names = list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1 or not isinstance(names[0], x509.DNSName):
        raise _bad(f"{len(names)} subject alternative names: exactly one, a dNSName, is needed")
    return names[0].value


def _issuers(leaf: x509.Certificate, authorities: Iterable[bytes]) -> list[bytes]:
    """The device CAs that issued a certificate; several, where one key was certified again. At least one."""
    found = []
    for authority in authorities:
        issuer = _parsed(authority)
        try:
            leaf.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        if leaf.issuer.public_bytes() == issuer.subject.public_bytes() and _names_key_of(leaf, issuer):
            found.append(authority)
    if not found:
        raise _bad("not issued by the device CA registered for its zone")
    return found


def _names_key_of(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the leaf names its issuer's key, by the identifier that the issuer has."""
    named = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return named.key_identifier == own.digest


@lru_cache(maxsize=1024)
def _parsed(certificate: bytes) -> x509.Certificate:
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
    if not certificate.not_valid_before_utc <= at < certificate.not_valid_after_utc:
        raise _bad(
            f"valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC, and it is {at:%Y-%m-%d %H:%M:%S}"
        )
    return certificate.not_valid_after_utc.timestamp()
