# SPDX-License-Identifier: Apache-2.0
"""The local CA: certifies the listeners on the plant interface, for machines of the plant and for nobody else.

Its key follows from the local root, so its certificate can be lost and made anew, and whoever trusted the old one
trusts the new. A server's key is made with each certificate, and both stand in one file that is replaced whole.

Validity begins at a fixed day and lasts long: a box whose clock is wrong must not lock out its plant, and the machines
there check dates by their own clocks. What ends a certificate early is its replacement, or a new root.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import certificate_pem, key_pem, key_usage
from appliance.keys.files import PRIVATE, PUBLIC, locked, write_atomically
from appliance.keys.local.root import LocalRoot

BEGINNING: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""The day from which every certificate here is good; no clock that is right says less."""
AUTHORITY_LIFE: Final = timedelta(days=30 * 366)
SERVER_LIFE: Final = timedelta(days=5 * 366)
RENEW_BEFORE: Final = timedelta(days=366)
"""A server's certificate that ends sooner is replaced when :meth:`LocalAuthority.ensure_server` is called."""

PlantName: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address | str"
"""What plant machines dial: an address of the plant interface, or a DNS name."""


def parse_plant_name(text: str) -> PlantName:
    """An address or a DNS name. :raises RefusedError: ``bad_input``."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    labels = text.split(".")
    plain = all(
        label and label.replace("-", "a").isalnum() and label[0] != "-" and label[-1] != "-" for label in labels
    )
    if not (plain and text.isascii() and text == text.lower() and len(text) <= 253 and max(map(len, labels)) <= 63):
        raise RefusedError(Reason.BAD_INPUT, f"{text[:64]!r} is neither an address nor a DNS name in small letters")
    return text


@dataclass(frozen=True, slots=True)
class LocalAuthority:
    """The local CA of a zone. Blocking."""

    zone: ZoneId
    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def open(cls, folder: Path, zone: ZoneId, root: LocalRoot) -> LocalAuthority:
        """The CA whose certificate is in ``ca.pem``; made if it is not there.

        :raises UnavailableError: ``bad_local_keys``: another CA's certificate lies there.
        """
        key, path = root.authority_key(), folder / "ca.pem"
        with locked(folder):
            if not path.exists():
                write_atomically(path, certificate_pem(_authority(key, zone)), PUBLIC)
            try:
                certificate = x509.load_pem_x509_certificate(path.read_bytes())
            except (OSError, ValueError) as error:
                raise UnavailableError(Reason.BAD_LOCAL_KEYS, f"{path}: {error}") from error
            if certificate.public_key() != key.public_key():
                raise UnavailableError(Reason.BAD_LOCAL_KEYS, f"{path} is the certificate of another CA")
        return cls(zone, folder, key, certificate)

    @property
    def server_file(self) -> Path:
        """Key, certificate and CA of the plant-side listeners, in one PEM file."""
        return self.folder / "server.pem"

    def server_certificate(self) -> x509.Certificate | None:
        """The certificate in the server's file; ``None``: there is none that can be used."""
        try:
            data = self.server_file.read_bytes()
            found = x509.load_pem_x509_certificate(data)
            key = serialization.load_pem_private_key(data, password=None)
            found.verify_directly_issued_by(self.certificate)
        except (OSError, ValueError, TypeError, InvalidSignature):
            return None
        return found if found.public_key() == key.public_key() else None

    def ensure_server(self, names: Sequence[PlantName], now: datetime) -> bool:
        """See that the server's file holds a good certificate for exactly these names; whether it was replaced.

        :param now: to judge what is left of it.
        """
        found = self.server_certificate()
        if found is not None and names_of(found) == set(names) and found.not_valid_after_utc - now > RENEW_BEFORE:
            return False
        self.rotate_server(names, now)
        return True

    def rotate_server(self, names: Sequence[PlantName], now: datetime) -> x509.Certificate:
        """Replace the server's key and certificate. :raises RefusedError: ``bad_input``: no names."""
        if not names:
            raise RefusedError(Reason.BAD_INPUT, "a certificate needs the address or name of the plant interface")
        key = ec.generate_private_key(ec.SECP256R1())
        end = min(max(now, BEGINNING) + SERVER_LIFE, self.certificate.not_valid_after_utc)
        builder = _builder(f"{self.zone} plant side", self.certificate.subject, key.public_key(), end)
        identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(cert_sign=False, signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        text = key_pem(key) + certificate_pem(certificate) + certificate_pem(self.certificate)
        write_atomically(self.server_file, text, PRIVATE)
        return certificate


def names_of(certificate: x509.Certificate) -> set[PlantName]:
    """The addresses and names that a server's certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return {*names.get_values_for_type(x509.DNSName), *(one for one in addresses if not hasattr(one, "prefixlen"))}


def _authority(key: ec.EllipticCurvePrivateKey, zone: ZoneId) -> x509.Certificate:
    title = f"{zone} local CA"
    builder = _builder(title, _name(title), key.public_key(), BEGINNING + AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(key_usage(cert_sign=True, signature=False), critical=True)
    # Whoever trusts this CA trusts it with servers, and with nothing else.
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(key, hashes.SHA256())


def _builder(title: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(title))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINNING)
        .not_valid_after(end.replace(microsecond=0))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(title: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])


def _general(name: PlantName) -> x509.GeneralName:
    return x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name)
