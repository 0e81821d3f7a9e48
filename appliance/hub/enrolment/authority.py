# SPDX-License-Identifier: Apache-2.0
"""Who signs a box's device CA certificate. What is signed was proven before (:mod:`appliance.keys.enrolment.hubside`).

===============  ====================================================================================================
file             the hub CA's key is a file of the hub
tpm              the hub CA's key is in the hub's TPM, and its keeper signs
external         the site's PKI signs: requests go out as files, certificates come back, and are checked
external-leaf    the site's PKI signs no CA certificates: it signs a leaf certificate of the boundary key; the hub CA
                 checks that and signs the device CA
===============  ====================================================================================================

Blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.box import EnrolledRecord
from appliance.keys.certificates import NOWHERE, Authority, certify_device_ca, check_device_ca, only_name
from appliance.keys.files import PUBLIC, write_atomically
from appliance.keys.keeper.client import ask_keeper
from appliance.keys.tpm.endorsement import spki
from appliance.keys.tpm.public import p256_key

KEEPER_S: Final = 60.0
"""How long the hub's keeper may take to sign; other boxes wait meanwhile."""
LONGEST_CHAIN: Final = 5
"""CA certificates of a site's PKI above a leaf."""


class DeviceAuthority(Protocol):
    """Signs device CAs, at once or later."""

    @property
    def hub_ca(self) -> x509.Certificate:
        """The certificate that all boxes are given and trust."""
        ...

    def certify(self, record: EnrolledRecord, now: datetime) -> x509.Certificate | None:
        """The device CA certificate; ``None``: it is asked for and not there yet. May be called again.

        :raises UnavailableError: ``authority_unavailable``: the key cannot be used; the keeper's own reasons.
        :raises DeniedError: ``bad_certificate``: what was signed is not what was asked for; ``key_latched``.
        """
        ...

    def forget(self, record: EnrolledRecord) -> None:
        """The certificate was taken; the next one is to be asked for anew."""
        ...

    def take(self, pem: bytes, waiting: Sequence[EnrolledRecord]) -> None:
        """Keep what the site's PKI signed until :meth:`certify` looks at it.

        :raises DeniedError: ``bad_certificate``: it is for none of those that wait, or no PKI is asked here.
        """
        ...


@dataclass(frozen=True, slots=True)
class OwnAuthority:
    """The hub's own CA. :param open_key: gives key and certificate, when they are needed."""

    hub_ca: x509.Certificate
    open_key: Callable[[], Authority]

    def certify(self, record: EnrolledRecord, now: datetime) -> x509.Certificate | None:
        """Sign it now."""
        zone, key = record.request.zone, p256_key(record.request.boundary_public)
        return certify_device_ca(self.open_key(), zone, key, now)

    def forget(self, record: EnrolledRecord) -> None:
        """There is nothing to forget."""

    def take(self, pem: bytes, waiting: Sequence[EnrolledRecord]) -> None:  # noqa: ARG002
        """:raises DeniedError: ``bad_certificate``: always; the hub's own CA signs here."""
        raise DeniedError(Reason.BAD_CERTIFICATE, "this hub signs itself; it asks no other PKI")


@dataclass(frozen=True, slots=True)
class KeeperAuthority:
    """The hub's own CA, its key in the hub's TPM; latched with it.

    :param hub_ca: as the keeper gave it when the office was made. :param keeper: the hub's keeper's socket.
    """

    hub_ca: x509.Certificate
    keeper: Path

    def certify(self, record: EnrolledRecord, now: datetime) -> x509.Certificate | None:
        """Have the keeper sign it now; not from inside an event loop's thread.

        :raises UnavailableError: ``keeper_unavailable`` and others of the keeper.
        :raises DeniedError: ``key_latched``; ``caller_denied``; ``bad_certificate``: it is another hub's keeper.
        """
        zone, csr = record.request.zone, record.request.csr
        der = ask_keeper(self.keeper, lambda keeper: keeper.certify_zone(zone, csr), KEEPER_S)
        try:
            certificate = x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion) as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"the keeper's: {error}") from error
        check_asked(certificate, self.hub_ca, record, now)
        return certificate

    def forget(self, record: EnrolledRecord) -> None:
        """There is nothing to forget."""

    def take(self, pem: bytes, waiting: Sequence[EnrolledRecord]) -> None:  # noqa: ARG002
        """:raises DeniedError: ``bad_certificate``: always; the hub's own CA signs here."""
        raise DeniedError(Reason.BAD_CERTIFICATE, "this hub signs itself; it asks no other PKI")


def read_authority(path: Path, passphrase: Callable[[], str | None] = lambda: None) -> Authority:
    """The hub CA's key and certificate in one PEM file, the key encrypted or not.

    :param passphrase: asked for only if the key is encrypted.
    :raises UnavailableError: ``authority_unavailable``: there is no such file, or another passphrase is needed.
    """
    try:
        data = path.read_bytes()
        encrypted = is_encrypted(data)
        word = passphrase() if encrypted else None
        if encrypted and word is None:
            raise ValueError("the key is encrypted, and there is no passphrase")
        key = serialization.load_pem_private_key(data, word.encode() if word is not None else None)
        certificate = x509.load_pem_x509_certificate(data)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or spki(key.public_key()) != spki(certificate.public_key()):
            raise ValueError("not an EC key and its certificate")
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnavailableError(Reason.AUTHORITY_UNAVAILABLE, f"{path}: {error}") from error
    return Authority(key, certificate)


def is_encrypted(pem: bytes) -> bool:
    """Whether the private key in a PEM text needs a passphrase."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem


@dataclass(frozen=True, slots=True)
class PkiExchange:
    """Two folders between the hub and a site's PKI: ``requests`` goes there, ``certificates`` comes back."""

    folder: Path

    def _name(self, record: EnrolledRecord) -> str:
        """A file's name without its ending; another boundary key has another."""
        digest = record.request.fingerprint[:12]
        key = x509.SubjectKeyIdentifier.from_public_key(p256_key(record.request.boundary_public)).digest.hex()[:12]
        return f"{record.request.zone}-{digest}-{key}"

    def request_file(self, record: EnrolledRecord) -> Path:
        """The PKCS #10 request, PEM."""
        return self.folder / "requests" / f"{self._name(record)}.csr"

    def certificate_file(self, record: EnrolledRecord) -> Path:
        """Where the certificate is looked for, PEM; the certificates above it may follow it."""
        return self.folder / "certificates" / f"{self._name(record)}.pem"

    def ask(self, record: EnrolledRecord, extensions: str) -> None:
        """Write the request, and beside it what its certificate must say, as ``openssl x509 -extfile`` takes it."""
        for folder in ("requests", "certificates"):
            (self.folder / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
        path = self.request_file(record)
        if path.exists():
            return
        request = x509.load_der_x509_csr(record.request.csr)
        write_atomically(path.with_suffix(".ext"), extensions.encode(), PUBLIC)
        write_atomically(path, request.public_bytes(serialization.Encoding.PEM), PUBLIC)

    def answer(self, record: EnrolledRecord) -> list[x509.Certificate]:
        """The certificate that came back, and those above it; empty: none yet.

        :raises DeniedError: ``bad_certificate``: the file has none.
        """
        path = self.certificate_file(record)
        try:
            return x509.load_pem_x509_certificates(path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError, x509.InvalidVersion) as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"{path}: {error}") from error

    def take(self, pem: bytes, waiting: Sequence[EnrolledRecord]) -> None:
        """Put a certificate where it is looked for. :raises DeniedError: ``bad_certificate``: for none that wait."""
        try:
            key = spki(x509.load_pem_x509_certificates(pem)[0].public_key())
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"no certificate: {error}") from error
        record = next((each for each in waiting if spki(p256_key(each.request.boundary_public)) == key), None)
        if record is None:
            raise DeniedError(Reason.BAD_CERTIFICATE, "it is for the key of no box that waits for a certificate")
        write_atomically(self.certificate_file(record), pem, PUBLIC)

    def forget(self, record: EnrolledRecord) -> None:
        """Remove the files of an exchange that is done."""
        request = self.request_file(record)
        for path in (self.certificate_file(record), request, request.with_suffix(".ext")):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class ExternalAuthority:
    """The site's PKI signs device CAs. :param hub_ca: the certificate of the CA that does."""

    hub_ca: x509.Certificate
    exchange: PkiExchange

    def certify(self, record: EnrolledRecord, now: datetime) -> x509.Certificate | None:
        """Ask, or take what came back: for this key and zone, a CA that can certify that zone's name alone."""
        self.exchange.ask(record, device_ca_extensions(record.request.zone))
        answer = self.exchange.answer(record)
        if not answer:
            return None
        check_asked(answer[0], self.hub_ca, record, now)
        return answer[0]

    def forget(self, record: EnrolledRecord) -> None:
        """See :meth:`PkiExchange.forget`."""
        self.exchange.forget(record)

    def take(self, pem: bytes, waiting: Sequence[EnrolledRecord]) -> None:
        """See :meth:`PkiExchange.take`."""
        self.exchange.take(pem, waiting)


@dataclass(frozen=True, slots=True)
class ExternalLeafAuthority:
    """The site's PKI signs a leaf certificate of the boundary key; then the hub's own CA signs the device CA.

    :param roots: of the site's PKI.
    """

    own: OwnAuthority
    roots: tuple[x509.Certificate, ...]
    exchange: PkiExchange

    @property
    def hub_ca(self) -> x509.Certificate:
        """The hub's own."""
        return self.own.hub_ca

    def certify(self, record: EnrolledRecord, now: datetime) -> x509.Certificate | None:
        """Ask for the leaf, or check it and sign the device CA."""
        self.exchange.ask(record, leaf_extensions(record.request.zone))
        answer = self.exchange.answer(record)
        if not answer:
            return None
        check_leaf(answer, self.roots, record.request.zone, now)
        _check_key(answer[0], record)
        return self.own.certify(record, now)

    def forget(self, record: EnrolledRecord) -> None:
        """See :meth:`PkiExchange.forget`."""
        self.exchange.forget(record)

    def take(self, pem: bytes, waiting: Sequence[EnrolledRecord]) -> None:
        """See :meth:`PkiExchange.take`."""
        self.exchange.take(pem, waiting)


def check_leaf(chain: list[x509.Certificate], roots: tuple[x509.Certificate, ...], zone: ZoneId, now: datetime) -> None:
    """A leaf certificate of the site's PKI names this zone, and no other name, and is valid now.

    :param chain: the leaf, and the CA certificates that came with it.
    :raises DeniedError: ``bad_certificate``: it does not, or there is no chain of CAs to a root.
    """
    leaf, *between = chain
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise DeniedError(Reason.BAD_CERTIFICATE, f"the leaf certificate: {error}") from error
    if [(type(name), name.value) for name in names] != [(x509.DNSName, identity_of(zone))]:
        raise DeniedError(
            Reason.BAD_CERTIFICATE, f"the leaf certificate does not name {identity_of(zone)}, and that alone"
        )
    below = leaf
    for depth in range(LONGEST_CHAIN):
        _check_dates(below, now)
        if any(_is_issued(below, root, depth) for root in roots):
            return
        above = next((each for each in between if _is_issued(below, each, depth)), None)
        if above is None:
            break
        below = above
    raise DeniedError(Reason.BAD_CERTIFICATE, "the leaf certificate is not under a root of the site's PKI")


def check_asked(certificate: x509.Certificate, hub_ca: x509.Certificate, record: EnrolledRecord, now: datetime) -> None:
    """A certificate that another program signed is the device CA that was asked for.

    :raises DeniedError: ``bad_certificate``: it is not.
    """
    check_device_ca(hub_ca, record.request.zone, certificate)
    _check_constraint(certificate, record.request.zone)
    _check_dates(certificate, now)
    _check_key(certificate, record)


def _check_constraint(certificate: x509.Certificate, zone: ZoneId) -> None:
    """What another program signed is constrained as our own is, in every form of name."""
    found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    wanted = only_name(identity_of(zone))
    if any(
        set(getattr(found, part) or ()) != set(getattr(wanted, part) or ())
        for part in ("permitted_subtrees", "excluded_subtrees")
    ):
        raise DeniedError(
            Reason.BAD_CERTIFICATE, "its name constraints are not those that were asked for (see the .ext file)"
        )


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise DeniedError(Reason.BAD_CERTIFICATE, f"not valid now: {certificate.subject.rfc4514_string()}")


def _is_issued(below: x509.Certificate, above: x509.Certificate, between: int) -> bool:
    """Whether a CA may have issued a certificate, and did. :param between: CA certificates between it and the leaf."""
    try:
        below.verify_directly_issued_by(above)
        basic = above.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = above.extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False
    return basic.ca and usage.key_cert_sign and (basic.path_length is None or basic.path_length >= between)


def _check_key(certificate: x509.Certificate, record: EnrolledRecord) -> None:
    """:raises DeniedError: ``bad_certificate``: it is for another key than the boundary key."""
    try:
        same = spki(certificate.public_key()) == spki(p256_key(record.request.boundary_public))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DeniedError(Reason.BAD_CERTIFICATE, f"its key: {error}") from error
    if not same:
        raise DeniedError(Reason.BAD_CERTIFICATE, "it is for another key than the box's boundary key")


def device_ca_extensions(zone: ZoneId) -> str:
    """What a device CA certificate must say, for ``openssl x509 -req -extfile``."""
    return (
        "basicConstraints = critical, CA:TRUE, pathlen:0\n"
        "keyUsage = critical, digitalSignature, keyCertSign\n"
        "subjectKeyIdentifier = hash\n"
        "authorityKeyIdentifier = keyid\n"
        "nameConstraints = critical, "
        f"permitted;DNS:{identity_of(zone)}, permitted;email:{NOWHERE}, permitted;URI:{NOWHERE}, "
        "excluded;IP:0.0.0.0/0.0.0.0, excluded;IP:0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0\n"
    )


def leaf_extensions(zone: ZoneId) -> str:
    """What a leaf certificate of the boundary key must say, for ``openssl x509 -req -extfile``."""
    return (
        "basicConstraints = critical, CA:FALSE\n"
        "keyUsage = critical, digitalSignature\n"
        "subjectKeyIdentifier = hash\n"
        "authorityKeyIdentifier = keyid\n"
        f"subjectAltName = DNS:{identity_of(zone)}\n"
    )
