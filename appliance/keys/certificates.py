# SPDX-License-Identifier: Apache-2.0
"""The certificates of the boundary: hub CA, device CA of a zone (its boundary key), session certificate.

hub CA (path length 1) signs each zone's device CA (path length 0, constrained to the one DNS name ``<zone>-bsfg``),
which signs the zone's short-lived session certificates. All keys are EC P-256. (DESIGN: keys and time.)

An issuer is a key that signs, wherever it is: in a file, in a TPM, at a remote service. It need only behave as
``ec.EllipticCurvePrivateKey.sign`` does. Times are boundary time; nothing here reads a clock.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.reasons import Reason

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
    """A certificate authority: its certificate, and a key that signs for it.

    The key may be held elsewhere (a TPM, a remote signer); then :meth:`pem` cannot be had.
    """

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


def new_hub_ca(
    now: datetime,
    common_name: str = "BSFG hub CA (development, software key)",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Authority:
    """A new root of the boundary. :param key: held elsewhere; ``None``: a new one in memory."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = _builder(name, name, key.public_key(), now - BACKDATE, now + HUB_CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    builder = builder.add_extension(key_usage(cert_sign=True, signature=False), critical=True)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def new_device_ca(hub: Authority, zone: ZoneId, now: datetime) -> Authority:
    """A new boundary key for a zone, in memory, with its certificate; for development and tests."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(key, certify_device_ca(hub, zone, key.public_key(), now))


def certify_device_ca(
    hub: Authority,
    zone: ZoneId,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta = DEVICE_CA_LIFETIME,
) -> x509.Certificate:
    """The device CA certificate of a zone for a boundary key: it can certify the name ``<zone>-bsfg`` and nothing else.

    Whether the key is the zone's, and in a TPM, must have been proven before (:mod:`appliance.hub.enrolment`).

    :raises DeniedError: ``bad_certificate``: the key is not EC P-256, or the hub CA has ended.
    """
    if not isinstance(key.curve, ec.SECP256R1):
        raise DeniedError(Reason.BAD_CERTIFICATE, "a boundary key is EC P-256")
    name = _name(f"{identity_of(zone)} device CA")
    builder = _issued(hub.certificate, name, key, now, lifetime)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    # The boundary key also signs receipts, hence digitalSignature beside keyCertSign.
    builder = builder.add_extension(key_usage(cert_sign=True, signature=True), critical=True)
    builder = builder.add_extension(only_name(identity_of(zone)), critical=True)
    return builder.sign(hub.key, hashes.SHA256())


def certify_request(
    hub: Authority,
    zone: ZoneId,
    request: x509.CertificateSigningRequest,
    now: datetime,
    lifetime: timedelta = DEVICE_CA_LIFETIME,
) -> x509.Certificate:
    """As :func:`certify_device_ca`, for the key of a PKCS #10 request. Nothing but the key is taken from it.

    :raises DeniedError: ``bad_certificate``: the request is not signed by its own key, or as above.
    """
    key = request.public_key()
    if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
        raise DeniedError(Reason.BAD_CERTIFICATE, "the request is not signed by an EC key of its own")
    return certify_device_ca(hub, zone, key, now, lifetime)


_ODD: Final = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates that are not as they should be."""


def check_device_ca(hub_ca: x509.Certificate, zone: ZoneId, certificate: x509.Certificate) -> None:
    """A device CA is signed by the hub CA and can certify the zone's identity alone; its dates are not asked.

    :raises DeniedError: ``bad_certificate``: it is not what the hub CA signs for this zone.
    """
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        certificate.verify_directly_issued_by(hub_ca)
        key = certificate.public_key()
    except _ODD as error:
        raise DeniedError(Reason.BAD_CERTIFICATE, f"the device CA of zone {zone}: {error}") from error
    permitted, excluded = (
        [name.value for name in names or [] if isinstance(name, x509.DNSName)]
        for names in (constraints.value.permitted_subtrees, constraints.value.excluded_subtrees)
    )
    if (
        certificate.version is not x509.Version.v3
        or not (basic.critical and basic.value.ca and basic.value.path_length == 0)
        or not usage.key_cert_sign
        or not (constraints.critical and permitted == [identity_of(zone)] and not excluded)
        or not isinstance(key, ec.EllipticCurvePublicKey)
        or not isinstance(key.curve, ec.SECP256R1)
    ):
        raise DeniedError(
            Reason.BAD_CERTIFICATE, f"the device CA of zone {zone} is not what the hub CA signs for {identity_of(zone)}"
        )


def new_session(device: Authority, zone: ZoneId, now: datetime, validity: timedelta = SESSION_VALIDITY) -> Session:
    """A session certificate with a new key: client and server, one name, never longer than its issuer.

    :raises DeniedError: ``bad_certificate``: the device CA has ended.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _issued(device.certificate, _name(identity_of(zone)), key.public_key(), now, validity)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(key_usage(cert_sign=False, signature=True), critical=True)
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
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start.replace(microsecond=0))
        .not_valid_after(end.replace(microsecond=0))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _issued(
    issuer: x509.Certificate, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    """What every certificate under an issuer has in common; it is never valid longer than its issuer."""
    end = min(now + lifetime, issuer.not_valid_after_utc)
    if end <= now:
        raise DeniedError(Reason.BAD_CERTIFICATE, f"its issuer has ended: {issuer.subject.rfc4514_string()}")
    return _builder(subject, issuer.subject, key, now - BACKDATE, end).add_extension(_named(issuer), critical=False)


def _named(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How a certificate names the key that signed it; the CA of a site may have no identifier of its own."""
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise DeniedError(Reason.BAD_CERTIFICATE, "an issuer has an EC or RSA key") from None
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def key_usage(*, cert_sign: bool, signature: bool) -> x509.KeyUsage:
    """What a key may do: sign certificates, sign in handshakes, or both; never anything else."""
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
