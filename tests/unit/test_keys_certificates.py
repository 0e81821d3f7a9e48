# SPDX-License-Identifier: Apache-2.0
"""The boundary's certificates: what each may do, and how sessions behave in TLS."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import Buffer
from cryptography.x509.oid import NameOID

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import (
    NOWHERE,
    SESSION_VALIDITY,
    Authority,
    Session,
    certificate_der,
    certify_request,
    check_device_ca,
    new_device_ca,
    new_hub_ca,
    new_session,
)
from appliance.keys.devca import ensure_pki
from appliance.keys.software import PkiFolder, SoftwareKeys
from tests.sessions import calling, serving

PLANT = ZoneId("plant-a")
OTHER = ZoneId("plant-b")
HUB = ZoneId("enterprise")
NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def nodes(tmp_path: Path) -> dict[ZoneId, Path]:
    """Two zones of one environment, made."""
    folders = {PLANT: tmp_path / "plant", HUB: tmp_path / "hub"}
    ensure_pki(tmp_path / "ca", folders)
    return folders


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> tuple[bool, x509.ExtensionType]:
    """Whether an extension is critical, and what it says."""
    found = certificate.extensions.get_extension_for_class(kind)
    return found.critical, found.value


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "enterprise-bsfg") -> tuple[bytes, bytes]:
    """Shake hands in memory; what each side knows of the other (DER). :raises ssl.SSLError: one of them refuses."""
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(upward, downward, server_side=True)
    calling = client.wrap_bio(downward, upward, server_hostname=name)
    for _ in range(4):
        for side in (calling, serving):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    # Under TLS 1.3 the client has its own certificate refused only when it reads.
    with contextlib.suppress(ssl.SSLWantReadError):
        calling.read(1)
    assert serving.version() == calling.version() == "TLSv1.3"
    return serving.getpeercert(True) or b"", calling.getpeercert(True) or b""


def test_a_device_ca_can_certify_one_name() -> None:
    """Path length 0, exactly the zone's DNS name, and no way around by names of another form."""
    hub = new_hub_ca(NOW)
    device = new_device_ca(hub, PLANT, NOW).certificate
    assert extension(device, x509.BasicConstraints) == (True, x509.BasicConstraints(ca=True, path_length=0))
    critical, constraints = extension(device, x509.NameConstraints)
    assert critical
    assert isinstance(constraints, x509.NameConstraints)
    permitted = constraints.permitted_subtrees
    assert permitted is not None
    assert [name.value for name in permitted if isinstance(name, x509.DNSName)] == ["plant-a-bsfg"]
    assert {name.value for name in permitted if not isinstance(name, x509.DNSName)} == {NOWHERE}
    assert {str(name.value) for name in constraints.excluded_subtrees or []} == {"0.0.0.0/0", "::/0"}
    usage = device.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature, usage.crl_sign) == (True, True, False)
    device.verify_directly_issued_by(hub.certificate)


def test_a_session_has_one_name_and_both_uses() -> None:
    """CN for people, the one SAN for machines; valid from five minutes ago for as long as asked."""
    device = new_device_ca(new_hub_ca(NOW), PLANT, NOW)
    session = new_session(device, PLANT, NOW, timedelta(minutes=7)).certificate
    names = session.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("plant-a-bsfg")]
    assert session.subject.rfc4514_string() == "CN=plant-a-bsfg"
    assert session.not_valid_before_utc == datetime(2026, 11, 21, 11, 55, tzinfo=UTC)
    assert session.not_valid_after_utc == datetime(2026, 11, 21, 12, 7, tzinfo=UTC)
    uses = session.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {use.dotted_string for use in uses} == {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}
    assert extension(session, x509.BasicConstraints) == (True, x509.BasicConstraints(ca=False, path_length=None))


def test_a_session_does_not_outlive_its_issuer() -> None:
    """However long it is asked for."""
    device = new_device_ca(new_hub_ca(NOW), PLANT, NOW)
    session = new_session(device, PLANT, NOW, timedelta(days=9999))
    assert session.certificate.not_valid_after_utc == device.certificate.not_valid_after_utc


def forged(device: Authority, names: Sequence[x509.GeneralName]) -> Session:
    """What a stolen boundary key could issue: a session with names of the thief's choice."""
    key = ec.generate_private_key(ec.SECP256R1())
    model = new_session(device, PLANT, datetime.now(UTC)).certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(model.subject)
        .issuer_name(model.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
    )
    for found in model.extensions:
        match found.value:
            case x509.SubjectAlternativeName():
                builder = builder.add_extension(x509.SubjectAlternativeName(names), found.critical)
            case x509.SubjectKeyIdentifier():
                own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
                builder = builder.add_extension(own, found.critical)
            case _:
                builder = builder.add_extension(found.value, found.critical)
    return Session(key, builder.sign(device.key, hashes.SHA256()), device.certificate)


@pytest.mark.parametrize(
    ("names", "accepted"),
    [
        ([x509.DNSName("plant-a-bsfg")], True),
        ([x509.DNSName("plant-b-bsfg")], False),
        ([x509.DNSName("plant-a-bsfg"), x509.DNSName("plant-b-bsfg")], False),
        ([x509.DNSName("plant-a-bsfg"), x509.UniformResourceIdentifier("spiffe://plant-b-bsfg/x")], False),
        ([x509.DNSName("plant-a-bsfg"), x509.RFC822Name("x@plant-b-bsfg")], False),
        ([x509.DNSName("plant-a-bsfg"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], False),
    ],
    ids=["own", "foreign", "both", "uri", "mail", "address"],
)
def test_a_stolen_boundary_key_is_of_use_for_one_name(
    nodes: dict[ZoneId, Path], names: list[x509.GeneralName], accepted: bool
) -> None:
    """A peer refuses a chain in which the device CA certifies any other name."""
    plant, hub = SoftwareKeys.load(PLANT, nodes[PLANT]), SoftwareKeys.load(HUB, nodes[HUB])
    session = forged(plant.boundary, names)
    plant.folder.session.write_bytes(session.pem())
    if accepted:
        assert handshake(serving(hub), calling(plant))[0] == certificate_der(session.certificate)
    else:
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(serving(hub), calling(plant))


def test_both_sides_prove_themselves(nodes: dict[ZoneId, Path]) -> None:
    """Each sees the other's session certificate, over TLS 1.3 and HTTP/2."""
    plant, hub = SoftwareKeys.load(PLANT, nodes[PLANT]), SoftwareKeys.load(HUB, nodes[HUB])
    seen_by_server, seen_by_client = handshake(serving(hub), calling(plant))
    sessions = [keys.session() for keys in (plant, hub)]
    assert [seen_by_server, seen_by_client] == [session and certificate_der(session) for session in sessions]


def without_certificate(context: ssl.SSLContext, folder: Path) -> ssl.SSLContext:
    """A caller that trusts the right CA and shows nothing."""
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(PkiFolder(folder).hub_ca)
    return bare


def only_old_tls(context: ssl.SSLContext, folder: Path) -> ssl.SSLContext:
    """A caller that does not speak TLS 1.3."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize("spoil", [without_certificate, only_old_tls])
def test_a_caller_that_does_not_prove_itself_is_refused(
    nodes: dict[ZoneId, Path], spoil: Callable[[ssl.SSLContext, Path], ssl.SSLContext]
) -> None:
    """By the server's context alone."""
    client = spoil(calling(SoftwareKeys.load(PLANT, nodes[PLANT])), nodes[PLANT])
    with pytest.raises(ssl.SSLError):
        handshake(serving(SoftwareKeys.load(HUB, nodes[HUB])), client)


def test_a_foreign_ca_is_refused_by_both_sides(nodes: dict[ZoneId, Path], tmp_path: Path) -> None:
    """The same names, another root."""
    ensure_pki(tmp_path / "rogue-ca", {PLANT: tmp_path / "rogue", HUB: tmp_path / "rogue-hub"})
    rogue, rogue_hub = SoftwareKeys.load(PLANT, tmp_path / "rogue"), SoftwareKeys.load(HUB, tmp_path / "rogue-hub")
    plant, hub = SoftwareKeys.load(PLANT, nodes[PLANT]), SoftwareKeys.load(HUB, nodes[HUB])
    with pytest.raises(ssl.SSLError):
        handshake(serving(rogue_hub), calling(plant))
    trusting = calling(rogue)
    trusting.load_verify_locations(PkiFolder(nodes[PLANT]).hub_ca)  # it does accept the hub
    with pytest.raises(ssl.SSLError):
        handshake(serving(hub), trusting)


def test_another_zone_cannot_stand_in_for_the_hub(nodes: dict[ZoneId, Path]) -> None:
    """A plant's own session does not serve as the hub's."""
    plant = SoftwareKeys.load(PLANT, nodes[PLANT])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(serving(plant), calling(plant))


def test_an_ended_device_ca_issues_nothing() -> None:
    """Nor does an ended hub CA."""
    hub = new_hub_ca(NOW)
    device = new_device_ca(hub, PLANT, NOW)
    for late in (timedelta(days=731), timedelta(days=3651)):
        with pytest.raises(DeniedError, match="has ended"):
            new_session(device, PLANT, NOW + late)
    with pytest.raises(DeniedError, match="has ended"):
        new_device_ca(hub, PLANT, NOW + timedelta(days=3651))


class Elsewhere(ec.EllipticCurvePrivateKey):
    """A key that only signs, as one in a TPM or behind a signing service does."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.signed = 0

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """The only thing that is asked of it."""
        self.signed += 1
        return self._key.sign(data, signature_algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Of the key it stands for."""
        return self._key.public_key()

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        """It cannot."""
        raise AssertionError

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._key.curve

    @property
    def key_size(self) -> int:
        """In bits."""
        return 256

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """It cannot."""
        raise AssertionError

    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> bytes:  # noqa: A002
        """It cannot."""
        raise AssertionError

    def __copy__(self) -> ec.EllipticCurvePrivateKey:
        raise AssertionError

    def __deepcopy__(self, memo: dict[int, object]) -> ec.EllipticCurvePrivateKey:
        raise AssertionError


def test_an_issuer_may_sign_elsewhere() -> None:
    """The hub CA for a request, the device CA for a session; nothing but signatures is asked of their keys."""
    root = new_hub_ca(NOW)
    hub = Authority(Elsewhere(root.key), root.certificate)
    boundary = Elsewhere(ec.generate_private_key(ec.SECP256R1()))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever it says")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(boundary, hashes.SHA256())
    certificate = certify_request(hub, PLANT, request, NOW)
    check_device_ca(root.certificate, PLANT, certificate)
    assert certificate.subject.rfc4514_string() == "CN=plant-a-bsfg device CA"
    session = new_session(Authority(boundary, certificate), PLANT, NOW)
    session.certificate.verify_directly_issued_by(certificate)
    assert (hub.key.signed, boundary.signed) == (1, 2)  # type: ignore[attr-defined]


def test_only_p256_and_only_its_holder_becomes_a_device_ca() -> None:
    """Another curve, another kind of key, and a request that somebody else signed."""
    hub, subject = new_hub_ca(NOW), x509.Name([])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    requests = [
        builder.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        builder.sign(rsa.generate_private_key(65537, 2048), hashes.SHA256()),
    ]
    good = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    der = bytearray(good.public_bytes(Encoding.DER))
    der[-1] ^= 1
    requests.append(x509.load_der_x509_csr(bytes(der)))
    for request in requests:
        with pytest.raises(DeniedError) as caught:
            certify_request(hub, PLANT, request, NOW)
        assert caught.value.reason == Reason.BAD_CERTIFICATE
    certify_request(hub, PLANT, good, NOW)


def test_a_session_is_short_unless_asked_otherwise(nodes: dict[ZoneId, Path]) -> None:
    """Ten minutes is the design; the development environment asks for days."""
    plant = SoftwareKeys.load(PLANT, nodes[PLANT])
    ends = plant.renew_session()
    assert timedelta(0) < ends - datetime.now(UTC) <= SESSION_VALIDITY == timedelta(minutes=10)
    session = plant.session()
    assert session is not None
    assert session.not_valid_after_utc == ends
