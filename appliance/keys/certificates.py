# SPDX-License-Identifier: Apache-2.0
"""The certificates of the boundary: hub CA, device CA of a zone (its boundary key), session certificate.

hub CA (path length 1) signs each zone's device CA (path length 0, constrained to the one DNS name ``<zone>-bsfg``),
which signs the zone's short-lived session certificates. All keys are EC P-256. (DESIGN: keys and time.)
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.boundary.names import ZoneId, identity_of

BACKDATE: Final = timedelta(minutes=5)
"""How far a certificate's validity begins in the past, so that clocks that differ a little still accept it."""
HUB_CA_LIFETIME: Final = timedelta(days=3650)
DEVICE_CA_LIFETIME: Final = timedelta(days=730)
NOWHERE: Final = "none.invalid"
"""The only host of mail and URI names that a device CA may certify."""
SESSION_VALIDITY: Final = timedelta(minutes=10)
"""How long a session certificate is good for unless the caller says otherwise."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority held in memory: its private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def pem(self) -> bytes:
        """Key and certificate in one PEM text: one file, so that they can never belong to different times."""
        return key_pem(self.key) + certificate_pem(self.certificate)

    @classmethod
    def from_pem(cls, data: bytes) -> Authority:
        """Read what :meth:`pem` wrote. :raises ValueError: the text is not that."""
        key = serialization.load_pem_private_key(data, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("the key is not EC P-256")
        certificate = x509.load_pem_x509_certificate(data)
        if certificate.public_key() != key.public_key():
            raise ValueError("key and certificate do not belong together")
        return cls(key, certificate)


@dataclass(frozen=True, slots=True)
class Session:
    """A session certificate with its key and the device CA that issued it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    issuer: x509.Certificate

    def pem(self) -> bytes:
        """Key, certificate and chain in one PEM text, as OpenSSL, curl and nats-server take it."""
        return key_pem(self.key) + certificate_pem(self.certificate) + certificate_pem(self.issuer)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PKCS #8 PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_der(certificate: x509.Certificate) -> bytes:
    """A certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def new_hub_ca(now: datetime) -> Authority:
    """A new root of the boundary, with a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("BSFG hub CA (development, software key)")
    builder = _builder(name, name, key.public_key(), now, now + HUB_CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    builder = builder.add_extension(_key_usage(cert_sign=True, signature=False), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def new_device_ca(hub: Authority, zone: ZoneId, now: datetime) -> Authority:
    """A new boundary key for a zone: a CA that can certify the name ``<zone>-bsfg`` and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + DEVICE_CA_LIFETIME, hub.certificate.not_valid_after_utc)
    builder = _builder(_name(f"{identity_of(zone)} device CA"), hub.certificate.subject, key.public_key(), now, end)
    builder = builder.add_extension(_issued_by(hub.certificate), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    # The boundary key also signs receipts, hence digitalSignature beside keyCertSign.
    builder = builder.add_extension(_key_usage(cert_sign=True, signature=True), critical=True)
    builder = builder.add_extension(only_name(identity_of(zone)), critical=True)
    return Authority(key, builder.sign(hub.key, hashes.SHA256()))


def new_session(device: Authority, zone: ZoneId, now: datetime, validity: timedelta = SESSION_VALIDITY) -> Session:
    """A session certificate with a new key: client and server, one name, never longer than its issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + validity, device.certificate.not_valid_after_utc)
    builder = _builder(_name(identity_of(zone)), device.certificate.subject, key.public_key(), now, end)
    builder = builder.add_extension(_issued_by(device.certificate), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(cert_sign=False, signature=True), critical=True)
    usages = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(identity_of(zone))]), critical=False)
    return Session(key, builder.sign(device.key, hashes.SHA256()), device.certificate)


def only_name(identity: str) -> x509.NameConstraints:
    """The constraint of a device CA: this DNS name, and no name of any other form.

    A constraint on DNS names says nothing about mail, URI and address names, and a broker may map those to users too:
    nats-server takes a mail or URI name for a user name. So mail and URI names are confined to a host that cannot
    exist (RFC 2606), and addresses are excluded.
    """
    return x509.NameConstraints(
        permitted_subtrees=[
            x509.DNSName(identity),
            x509.RFC822Name(NOWHERE),
            x509.UniformResourceIdentifier(NOWHERE),
        ],
        excluded_subtrees=[
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ],
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.replace(microsecond=0) - BACKDATE)
        .not_valid_after(end.replace(microsecond=0))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*, cert_sign: bool, signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        key_cert_sign=cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
