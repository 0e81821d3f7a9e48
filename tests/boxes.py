# SPDX-License-Identifier: Apache-2.0
"""Boxes without a TPM, and a hub that may enrol them: **a simulation**, in which every key is in a test's hands.

So a test can have a statement that is wrong and well signed at once. Real TPMs are in ``tests/service``.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.x509.oid import NameOID

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.folder import AuthorityKind
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.setup import OfficePlan, init_office
from appliance.keys.certificates import certificate_der, certificate_pem
from appliance.keys.enrolment import boxside
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.enrolment.credential import _kdfa
from appliance.keys.enrolment.csr import request_builder
from appliance.keys.enrolment.documents import Answer, Challenge, parse_answer
from appliance.keys.enrolment.vendors import EK_USAGE
from appliance.keys.enrolment.voucher import Voucher, new_voucher
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.port import BoxDescription, Certified, Quote
from appliance.keys.tpm.endorsement import _rsa_public, fingerprint_of
from appliance.keys.tpm.identity import spki_pem
from appliance.keys.tpm.policy import BOUND_PCRS, BoundaryPolicy, DeviceRef, Operators, counter_public
from appliance.keys.tpm.public import BOUNDARY, ecdsa_public_of, name_of, sized
from tests.attesting import IMAGE_KEY, SimulatedTpm
from tests.tpm import people

PLANT, OTHER, HUB = ZoneId("plant-a"), ZoneId("plant-b"), ZoneId("enterprise")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DAY_MS = 86_400_000
PEOPLE, OPERATORS = people(2)
ADMITTER = ec.generate_private_key(ec.SECP256R1())
"""The enrolment operator of the hub."""


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    subject: str,
    key: Any,
    issuer: str,
    signer: Any,
    *extensions: tuple[x509.ExtensionType, bool],
    days: tuple[int, int] = (-1, 3650),
) -> x509.Certificate:
    """Any certificate that a test wants."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(signer, hashes.SHA256())


def usage(**given: bool) -> x509.KeyUsage:
    """A key usage with these bits."""
    bits = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
        " encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: given.get(name, False) for name in bits.split()})


CA = ((x509.BasicConstraints(ca=True, path_length=None), True), (usage(key_cert_sign=True), True))


@dataclass
class Vendor:
    """**A simulated TPM vendor**: a root, and the CA under it that certifies TPMs."""

    name: str = "vendor"
    root_key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        root = f"{self.name} root"
        self.root = certificate(root, self.root_key.public_key(), root, self.root_key, *CA)
        self.issuer = certificate(self.name, self.key.public_key(), root, self.root_key, *CA)

    @property
    def pem(self) -> bytes:
        """Both CA certificates."""
        return certificate_pem(self.issuer) + certificate_pem(self.root)

    def certify(self, key: Any, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
        """An endorsement certificate; dates long gone, as they are in the field."""
        usual = (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage(key_encipherment=True), True),
            (x509.ExtendedKeyUsage([EK_USAGE]), False),
            (x509.SubjectAlternativeName([x509.DirectoryName(_name("id:53494D00"))]), True),
        )
        made = certificate("TPM", key, self.name, self.key, *(extensions or usual), days=(-3000, -1000))
        return certificate_der(made)


VENDOR = Vendor()
EK_KEYS = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
"""Endorsement keys of three TPMs; making them takes long."""


@dataclass
class SimulatedBox(SimulatedTpm):
    """**A simulation** of a box's keeper, with all that enrolment asks of it."""

    ek: rsa.RSAPrivateKey = field(default_factory=lambda: EK_KEYS[0])
    boundary: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    device: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    operators: Operators = OPERATORS
    image_key: rsa.RSAPublicKey = field(default_factory=IMAGE_KEY.public_key)
    zone: ZoneId = PLANT
    birth_counter: int = 1
    birth_pcrs: dict[int, bytes] = field(default_factory=lambda: dict.fromkeys(BOUND_PCRS, bytes(32)))
    ek_certificate: bytes | None = None
    installed: bytes = b""

    @property
    def ek_public(self) -> bytes:
        """TPMT_PUBLIC of the endorsement key."""
        return _rsa_public(self.ek.public_key().public_numbers().n.to_bytes(256))

    @property
    def fingerprint(self) -> str:
        """Which TPM it is."""
        return fingerprint_of(self.ek_public)

    @property
    def birth(self) -> BirthPolicy:
        """The boundary key's policy."""
        policy = BoundaryPolicy(DeviceRef(self.device), self.operators, self.image_key)
        return BirthPolicy(policy, self.birth_counter, self.birth_pcrs)

    @property
    def boundary_public(self) -> bytes:
        """TPMT_PUBLIC of the boundary key."""
        return ecdsa_public_of(self.boundary.public_key(), BOUNDARY, self.birth.auth_policy)

    async def describe(self) -> BoxDescription:
        """See the keeper's port."""
        endorsed = VENDOR.certify(self.ek.public_key()) if self.ek_certificate is None else self.ek_certificate
        counter, index = counter_public().written().marshal(), self.birth.policy.release_public.marshal()
        return BoxDescription(
            endorsed, self.ek_public, self.ak_public, self.boundary_public, self.birth.render(), counter, index
        )

    async def certificate_request(self) -> bytes:
        """See the keeper's port."""
        request = request_builder(self.zone).sign(self.boundary, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    async def activate(self, credential: bytes, secret: bytes) -> bytes:
        """TPM2_ActivateCredential (part 3, 12.5), for the RSA key."""
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
        name = name_of(self.ak_public)
        try:
            seed = self.ek.decrypt(secret[2:], oaep)
            tag, identity = credential[4:36], credential[36:]
            check = hmac.HMAC(_kdfa(seed, b"INTEGRITY", b"", 32), hashes.SHA256())
            check.update(identity + name)
            if check.finalize() != tag:
                raise ValueError("integrity check failed")
        except ValueError as error:
            raise DeniedError(Reason.TPM_REFUSED, str(error)) from error
        cipher = Cipher(AES(_kdfa(seed, b"STORAGE", name, 16)), CFB(bytes(16))).decryptor()
        return (cipher.update(identity) + cipher.finalize())[2:]

    async def certify(self, nonce: bytes) -> Certified:
        """See the keeper's port."""
        return Certified(self.sign(self.key_statement(nonce)), self.sign(self.counter_statement(nonce)))

    def key_statement(self, nonce: bytes, name: bytes | None = None, kind: int = 0x8017) -> bytes:
        """TPMS_ATTEST of the boundary key."""
        body = sized(name or name_of(self.boundary_public)) + sized(b"\0\x0b" + bytes(32))
        return self._head(nonce, kind) + body

    async def quote_over(self, nonce: bytes) -> Quote:
        """A quote, as the keeper gives it."""
        return Quote(self.quote(nonce), dict(self.pcrs), b"", b"")

    async def install(self, device_ca: bytes) -> None:
        """See the keeper's port."""
        self.installed = device_ca


class SimulatedKeeper:
    """The port, as far as enrolment asks it; :class:`SimulatedTpm` has another ``quote``."""

    def __init__(self, box: SimulatedBox) -> None:
        self.box = box
        for name in ("describe", "certificate_request", "activate", "certify", "install"):
            setattr(self, name, getattr(box, name))
        self.quote = box.quote_over


@dataclass
class Site:
    """A hub's office in a folder, its clock, and a box's certificates folder."""

    folder: Path
    now_ms: int = NOW_MS
    steps: list[str] = field(default_factory=list)

    def plan(self, **changes: Any) -> OfficePlan:
        """What the office is made of."""
        material = self.folder / "material"
        material.mkdir(parents=True, exist_ok=True)
        (material / "vendor.pem").write_bytes(VENDOR.pem)
        (material / "operators.pem").write_text("".join(spki_pem(key) for key in OPERATORS.keys))
        (material / "admitter.pub").write_text(spki_pem(ADMITTER.public_key()))
        (material / "image.pem").write_text(spki_pem(IMAGE_KEY.public_key()))
        plan = OfficePlan(
            HUB,
            self.folder / "pki",
            AuthorityKind.FILE,
            vendors=[material / "vendor.pem"],
            release_operators=[material / "operators.pem"],
            enrolment_operators=[material / "admitter.pub"],
            image_keys=[material / "image.pem"],
        )
        return replace(plan, **changes)

    def init(self, **changes: Any) -> Site:
        """Make the office, with a box for the hub's own zone."""
        init_office(self.office_folder, self.plan(**changes), NOW)
        return self

    def copy(self, folder: Path) -> Site:
        """The same hub in another folder."""
        shutil.copytree(self.folder, folder)
        document = folder / "enrolment/enrolment.toml"
        document.write_text(document.read_text().replace(str(self.folder), str(folder)))
        return Site(folder)

    @property
    def office_folder(self) -> Path:
        """The office's folder."""
        return self.folder / "enrolment"

    @property
    def office(self) -> EnrolmentOffice:
        """The office, as a new process opens it."""
        return EnrolmentOffice(self.office_folder, now_ms=lambda: self.now_ms, hook=self.steps.append)

    def box_folder(self, zone: ZoneId = PLANT) -> PkiFolder:
        """A box's certificates folder, with the hub CA in it."""
        folder = PkiFolder(self.folder / f"box-{zone}")
        folder.path.mkdir(exist_ok=True)
        folder.hub_ca.write_bytes(certificate_pem(self.office._authority.hub_ca))
        return folder

    def voucher(self, box: SimulatedBox, zone: ZoneId | None = None, days: float = 1) -> Voucher:
        """A voucher for a box."""
        return new_voucher(ADMITTER, zone or box.zone, box.fingerprint, self.now_ms + int(days * DAY_MS))

    async def send(self, document: bytes) -> bytes:
        """The network between box and hub."""
        return self.office.answer(document)

    async def enrol(self, box: SimulatedBox, papers: boxside.Papers | None = None) -> Any:
        """The whole dialogue."""
        keeper: Any = SimulatedKeeper(box)
        return await boxside.enrol(keeper, self.send, box.zone, self.box_folder(box.zone), papers)

    async def dialogue(self, box: SimulatedBox, papers: boxside.Papers | None = None) -> tuple[bytes, bytes]:
        """Request and proof, the latter not yet sent."""
        keeper: Any = SimulatedKeeper(box)
        request = await boxside.ask(keeper, box.zone, papers)
        challenge = parse_answer(self.office.answer(request))
        assert isinstance(challenge, Challenge), challenge
        return request, await boxside.prove(keeper, request, challenge)

    def answer(self, document: bytes) -> Answer:
        """What the hub answers."""
        return parse_answer(self.office.answer(document))

    async def own(self) -> SimulatedBox:
        """Enrol the hub's own zone."""
        box = SimulatedBox(zone=HUB, ek=EK_KEYS[2])
        self.office.approve(box.fingerprint, HUB)
        await self.enrol(box)
        return box
