# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made at run time: hub CA, constrained device CAs, session certificates right and wrong.

Nothing here is a secret: keys live in a temporary directory and end with the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.boundary.names import ZoneId, identity_of
from appliance.peer.tls import OwnCredential, client_credential, server_credential

_LONG_AGO = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA: its certificate and key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """The certificate as registries hold it."""
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class Credential:
    """A session certificate with its chain and key: the session file, and the chain and the key by themselves."""

    session: Path
    chain: Path
    key: Path
    authorities: Path
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The session certificate."""
        return self.certificate.public_bytes(Encoding.DER)

    def for_server(self) -> OwnCredential:
        """What a server proves itself with."""
        return server_credential(self.session, self.authorities)

    def for_client(self) -> OwnCredential:
        """What a client proves itself with."""
        return client_credential(self.session, self.authorities)


@dataclass
class Registered:
    """A registry in memory, as connections ask it; what is changed here counts at once."""

    hub_ca: bytes | None
    zones: dict[ZoneId, list[bytes]] = field(default_factory=dict)
    denied: dict[bytes, str] = field(default_factory=dict)

    @classmethod
    def of(cls, hub: Authority, zones: Mapping[ZoneId, Sequence[Authority]]) -> Registered:
        """With these device CAs."""
        return cls(hub.der, {zone: [authority.der for authority in found] for zone, found in zones.items()})

    def authorities(self, zone: ZoneId) -> Sequence[bytes]:
        """See :class:`appliance.peer.identity.PeerRegistry`."""
        return self.zones.get(zone, ())

    def denial(self, authority: bytes) -> str:
        """See :class:`appliance.peer.identity.PeerRegistry`."""
        return self.denied.get(authority, "")


class Pki:
    """One hub CA and what hangs on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.hub = _authority("hub CA", None, [], path_length=1)
        self.hub_file = folder / "hub-ca.pem"
        self.hub_file.write_bytes(_pem(self.hub.certificate))
        self._made = 0

    def renew_hub(self, not_after: datetime) -> None:
        """Another hub CA, which ends at another time."""
        self.hub = _authority("hub CA", None, [], path_length=1, not_after=not_after)
        self.hub_file.write_bytes(_pem(self.hub.certificate))

    def under_site(self) -> Pki:
        """Another hub CA, an intermediate of a site's PKI, whose root nobody here is given; and a sibling of it."""
        root = _authority("site root", None, [], path_length=2)
        self.hub = _authority("site hub CA", root, [], path_length=1)
        self.hub_file.write_bytes(_pem(self.hub.certificate))
        sibling = Pki(self._folder / "sibling")
        sibling.hub = _authority("other CA", root, [], path_length=1)
        sibling.hub_file.write_bytes(_pem(sibling.hub.certificate) + _pem(root.certificate))
        return sibling

    def device_ca(
        self, zone: ZoneId, *, permitted: Sequence[str] | None = None, not_after: datetime | None = None
    ) -> Authority:
        """A zone's device CA: path length 0, one permitted DNS name unless told otherwise."""
        names = [identity_of(zone)] if permitted is None else permitted
        return _authority(f"{zone} device CA", self.hub, names, path_length=0, not_after=not_after)

    def credential(
        self,
        issuer: Authority,
        *names: str | x509.GeneralName,
        common_name: str = "somebody",
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Credential:
        """A session certificate with these subject alternative names, in files."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _session(issuer, key, names, common_name, not_before, not_after)
        self._made += 1
        chain, key_file = self._folder / f"{self._made}.pem", self._folder / f"{self._made}-key.pem"
        chain.write_bytes(_pem(certificate) + _pem(issuer.certificate))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        session = self._folder / f"{self._made}-session.pem"
        session.write_bytes(key_file.read_bytes() + chain.read_bytes())
        return Credential(session, chain, key_file, self.hub_file, certificate)

    def zone(self, zone: ZoneId) -> tuple[Authority, Credential]:
        """A zone as it should be: its device CA and a session certificate with its identity."""
        issuer = self.device_ca(zone)
        return issuer, self.credential(issuer, identity_of(zone), common_name=identity_of(zone))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Authority | None,
    not_before: datetime | None,
    not_after: datetime | None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    signer = issuer.key if issuer else key
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer.certificate.subject if issuer else _name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - _LONG_AGO)
        .not_valid_after(not_after or now + timedelta(hours=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    flags = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, decipher_only=False, **flags
    )


def _authority(
    subject: str,
    issuer: Authority | None,
    permitted: Sequence[str],
    *,
    path_length: int,
    not_after: datetime | None = None,
) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(subject, key, issuer, None, not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    if permitted:
        constraints = x509.NameConstraints([x509.DNSName(name) for name in permitted], None)
        builder = builder.add_extension(constraints, critical=True)
    return Authority(builder.sign((issuer.key if issuer else key), hashes.SHA256()), key)


def _session(
    issuer: Authority,
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str | x509.GeneralName],
    common_name: str,
    not_before: datetime | None,
    not_after: datetime | None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    not_before, not_after = not_before or now - timedelta(minutes=5), not_after or now + timedelta(minutes=10)
    builder = _builder(common_name, key, issuer, not_before, not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    if names:
        general = [x509.DNSName(name) if isinstance(name, str) else name for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return builder.sign(issuer.key, hashes.SHA256())
