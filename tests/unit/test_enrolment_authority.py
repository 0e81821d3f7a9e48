# SPDX-License-Identifier: Apache-2.0
"""Who signs device CAs: the hub's own CA, and a site's PKI of both kinds; what comes back is checked."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.names import identity_of
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.folder import AuthorityKind, EnrolmentConfig, EnrolmentFolder
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.setup import init_office
from appliance.keys.certificates import certificate_pem, check_device_ca, only_name
from appliance.keys.enrolment.boxside import Papers
from appliance.keys.enrolment.documents import Grant, Pending, Waits
from appliance.keys.registry import Registry
from tests.boxes import CA, DAY_MS, EK_KEYS, HUB, NOW, OTHER, PLANT, SimulatedBox, Site, certificate, usage


@dataclass
class SitePki:
    """**A simulated site's PKI**: a root, and the certificates that a test has it sign."""

    folder: Path

    def __post_init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        self.root = certificate(
            "site root", self.key.public_key(), "site root", self.key, *CA, (identifier, False), days=(-10, 3650)
        )
        self.folder.mkdir(exist_ok=True)
        self.file = self.folder / "root.pem"
        self.file.write_bytes(certificate_pem(self.root))

    def sign(self, key: Any, *extensions: tuple[x509.ExtensionType, bool], days: tuple[int, int] = (-1, 365)) -> bytes:
        """A certificate for a key."""
        return certificate_pem(certificate("plant", key, "site root", self.key, *extensions, days=days))


DEVICE_CA = (
    (x509.BasicConstraints(ca=True, path_length=0), True),
    (usage(digital_signature=True, key_cert_sign=True), True),
    (only_name(identity_of(PLANT)), True),
)
LEAF = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (usage(digital_signature=True), True),
    (x509.SubjectAlternativeName([x509.DNSName(identity_of(PLANT))]), False),
)


@pytest.fixture
def pki(tmp_path: Path) -> SitePki:
    """The site's PKI."""
    return SitePki(tmp_path / "pki-of-site")


async def _asked(site: Site) -> SimulatedBox:
    """A box with a voucher, which waits for the site's PKI."""
    box = SimulatedBox()
    answer = await site.enrol(box, Papers(site.voucher(box).render()))
    assert answer == Pending(PLANT, box.fingerprint, Waits.AUTHORITY)
    return box


def _take(office: EnrolmentOffice, pem: bytes) -> None:
    office.take_certificate(pem)
    office.settle()


def _refused(site: Site, pem: bytes) -> str:
    """Take a certificate in; it is refused, and the box waits on."""
    office = site.office
    with pytest.raises(DeniedError) as refused:
        _take(office, pem)
    assert refused.value.reason is Reason.BAD_CERTIFICATE
    assert [each.waits for each in site.office.pending()] == [Waits.AUTHORITY]
    assert PLANT not in Registry.load(office.config.pki).device_cas
    return refused.value.detail


async def test_a_sites_pki_signs_device_cas(tmp_path: Path, pki: SitePki) -> None:
    """The request goes out; a certificate that can name more, lives on another key or another CA does not come in."""
    site = Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL, hub_ca=pki.file)
    box = await _asked(site)
    (request,) = (site.office_folder / "requests").glob("*.csr")
    key = x509.load_pem_x509_csr(request.read_bytes()).public_key()
    assert key == box.boundary.public_key()
    basic, use, names = DEVICE_CA
    wide = x509.NameConstraints(
        [*(names[0].permitted_subtrees or []), x509.DNSName("example.org")], names[0].excluded_subtrees
    )
    open_to_addresses = x509.NameConstraints(names[0].permitted_subtrees, None)
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    cases: dict[str, bytes] = {
        "not what the hub CA signs": pki.sign(key, basic, use, (only_name(identity_of(OTHER)), True)),
        "the key of no box": pki.sign(stranger, *DEVICE_CA),
        "the device CA of zone": pki.sign(key, basic, use),
        "name constraints": pki.sign(key, basic, use, (open_to_addresses, True)),
        "not valid now": pki.sign(key, *DEVICE_CA, days=(-10, -1)),
        "no certificate": b"x",
    }
    for words, pem in cases.items():
        assert words in _refused(site, pem)
    _refused(site, pki.sign(key, basic, use, (wide, True)))
    _refused(site, pki.sign(key, (x509.BasicConstraints(ca=True, path_length=1), True), use, names))
    _refused(site, pki.sign(key, (x509.BasicConstraints(ca=False, path_length=None), True), use, names))
    _refused(site, SitePki(tmp_path / "another").sign(key, *DEVICE_CA))
    office = site.office
    _take(office, pki.sign(key, *DEVICE_CA))
    assert not request.exists()
    hub = SimulatedBox(zone=HUB, ek=EK_KEYS[2])
    office.approve(hub.fingerprint, HUB)
    assert isinstance(await site.enrol(hub), Pending)
    _take(office, pki.sign(hub.boundary.public_key(), basic, use, (only_name(identity_of(HUB)), True)))
    assert isinstance(await site.enrol(box), Grant)


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_box_that_ended_while_the_pki_was_asked_is_not_certified(
    tmp_path: Path, pki: SitePki, replaced: bool
) -> None:
    """Its certificate was to be renewed; what comes back then is for nobody."""
    site = Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL, hub_ca=pki.file)
    box, new = await _asked(site), SimulatedBox(ek=EK_KEYS[1])
    key = box.boundary.public_key()
    _take(site.office, pki.sign(key, *DEVICE_CA))
    site.now_ms += 300 * DAY_MS
    _, proof = await site.dialogue(box)
    site.office.answer(proof)
    assert [each.waits for each in site.office.pending()] == [Waits.AUTHORITY]
    if replaced:
        site.office.replace(PLANT, fingerprint=new.fingerprint)
    else:
        site.office.revoke(PLANT, "stolen")
    assert site.office.pending() == []
    with pytest.raises(DeniedError):
        _take(site.office, pki.sign(key, *DEVICE_CA, days=(200, 600)))
    registry = Registry.load(site.office.config.pki)
    (only,) = registry.authorities(PLANT)
    assert registry.denial(only) is not None
    assert site.office.of_zone(PLANT) is None


def test_an_office_with_its_ca_in_a_tpm_names_the_keeper(tmp_path: Path) -> None:
    """One that names none is none, and another kind has none."""
    site = Site(tmp_path)
    with pytest.raises(RefusedError, match="keeper is needed"):
        site.init(authority=AuthorityKind.TPM)
    site.init()
    document = site.office_folder / "enrolment.toml"
    text = document.read_text()
    for wrong in (text.replace('"file"', '"tpm"'), text + 'keeper = "keeper.sock"\n'):
        document.write_text(wrong)
        with pytest.raises(RefusedError, match="keeper"):
            EnrolmentConfig.load(EnrolmentFolder(site.office_folder))
    document.write_text(text.replace('"file"', '"tpm"') + 'keeper = "../keeper.sock"\n')
    config = EnrolmentConfig.load(EnrolmentFolder(site.office_folder))
    assert config.keeper == site.office_folder / "../keeper.sock"


def test_an_office_that_is_made_keeps_its_authority(tmp_path: Path, pki: SitePki) -> None:
    """Called again to take something in, without saying who signs: no second CA comes to be."""
    site = Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL, hub_ca=pki.file)
    site.init()
    assert site.office.config.authority is AuthorityKind.EXTERNAL
    assert not site.office.folder.authority.exists()


def test_a_sites_ca_that_no_connection_would_accept_is_refused_at_once(tmp_path: Path, pki: SitePki) -> None:
    """Not only when the first box dials."""
    basic, use = CA
    identifier = (x509.SubjectKeyIdentifier.from_public_key(pki.key.public_key()), False)
    cases = [
        (basic, use),
        ((basic[0], False), use, identifier),
        (basic, identifier),
        (basic, (usage(digital_signature=True), True), identifier),
        ((x509.BasicConstraints(ca=True, path_length=0), True), use, identifier),
        ((x509.BasicConstraints(ca=False, path_length=None), True), use, identifier),
    ]
    for extensions in cases:
        made = certificate("site CA", pki.key.public_key(), "site root", pki.key, *extensions)
        pki.file.write_bytes(certificate_pem(made))
        with pytest.raises(RefusedError, match="bad_input"):
            Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL, hub_ca=pki.file)
    pki.file.write_bytes(certificate_pem(pki.root))
    Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL, hub_ca=pki.file)


async def test_openssl_signs_what_the_hub_asks_for(
    tmp_path: Path, pki: SitePki, find_tool: Callable[[str], str]
) -> None:
    """The file beside the request is what OpenSSL needs."""
    site = Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL, hub_ca=pki.file)
    await _asked(site)
    (request,) = (site.office_folder / "requests").glob("*.csr")
    key = tmp_path / "root.key"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(pki.key.private_bytes(*form))
    made = subprocess.run(
        [
            find_tool("openssl"),
            *("x509", "-req", "-in", str(request), "-CA", str(pki.file), "-CAkey", str(key), "-days", "365"),
            *("-set_serial", "4711", "-sha256", "-extfile", str(request.with_suffix(".ext"))),
        ],
        capture_output=True,
        check=True,
    )
    certificate_made = x509.load_pem_x509_certificate(made.stdout)
    check_device_ca(pki.root, PLANT, certificate_made)
    site.now_ms = int((certificate_made.not_valid_before_utc + timedelta(hours=1)).timestamp() * 1000)
    office = site.office
    office.take_certificate(made.stdout)
    office.settle()
    assert office.of_zone(PLANT) is not None


async def test_a_pki_that_signs_no_cas_signs_a_leaf(tmp_path: Path, pki: SitePki) -> None:
    """The hub's own CA signs the device CA when the leaf is the site's, for this key and this name alone."""
    site = Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL_LEAF, site_roots=[pki.file])
    box = await _asked(site)
    key = box.boundary.public_key()
    basic, use, names = LEAF
    two = x509.SubjectAlternativeName([x509.DNSName(identity_of(PLANT)), x509.DNSName("example.org")])
    other = x509.SubjectAlternativeName([x509.DNSName(identity_of(OTHER))])
    for bad in (
        pki.sign(key, basic, use),
        pki.sign(key, basic, use, (two, False)),
        pki.sign(key, basic, use, (other, False)),
        pki.sign(key, *LEAF, days=(-10, -1)),
        pki.sign(key, *LEAF, days=(1, 10)),
        SitePki(tmp_path / "another").sign(key, *LEAF),
    ):
        _refused(site, bad)
    middle = ec.generate_private_key(ec.SECP256R1())
    under = certificate("plant", key, "middle", middle, *LEAF)
    no_ca = certificate("middle", middle.public_key(), "site root", pki.key, basic, use)
    _refused(site, certificate_pem(under) + certificate_pem(no_ca))
    ca = certificate("middle", middle.public_key(), "site root", pki.key, *CA)
    office = site.office
    office.take_certificate(certificate_pem(under) + certificate_pem(ca))
    office.settle()
    found = site.office.of_zone(PLANT)
    assert found is not None
    check_device_ca(office._authority.hub_ca, PLANT, x509.load_der_x509_certificate(found.device_ca))
    assert names[0] is not None


async def test_a_certificate_is_taken_once(tmp_path: Path, pki: SitePki) -> None:
    """A revoked box that is approved again needs another one, though the old file were still there."""
    site = Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL, hub_ca=pki.file)
    box = await _asked(site)
    pem = pki.sign(box.boundary.public_key(), *DEVICE_CA)
    office = site.office
    office.take_certificate(pem)
    office.settle()
    office.revoke(PLANT, "")
    office.approve(box.fingerprint, PLANT)
    assert await site.enrol(box) == Pending(PLANT, box.fingerprint, Waits.AUTHORITY)
    office.take_certificate(pem)
    office.settle()
    assert office.of_zone(PLANT) is None
    office.settle()  # asked anew
    office.take_certificate(pki.sign(box.boundary.public_key(), *DEVICE_CA))
    office.settle()
    assert office.of_zone(PLANT) is not None


async def test_a_box_that_waits_for_its_certificate_may_ask_again(tmp_path: Path, pki: SitePki) -> None:
    """With its voucher or without: it goes on waiting. With another key it has to be let in anew."""
    site = Site(tmp_path / "hub").init(authority=AuthorityKind.EXTERNAL, hub_ca=pki.file)
    box = SimulatedBox()
    papers = Papers(site.voucher(box).render())
    waiting = Pending(PLANT, box.fingerprint, Waits.AUTHORITY)
    assert await site.enrol(box, papers) == waiting
    assert await site.enrol(box, papers) == waiting
    assert await site.enrol(box) == waiting
    other = SimulatedBox(ek=box.ek, key=box.key)
    with pytest.raises(DeniedError) as refused:
        await site.enrol(other, papers)
    assert refused.value.reason is Reason.VOUCHER_USED
    assert await site.enrol(box) == waiting
    assert await site.enrol(other) == Pending(PLANT, box.fingerprint, Waits.APPROVAL)


async def test_an_encrypted_key_is_opened_when_it_is_needed(tmp_path: Path) -> None:
    """Without the passphrase a box waits, and nothing else stops; with it, what waits is done."""
    site = Site(tmp_path).init(passphrase="correct horse battery")
    box = SimulatedBox()
    answer = await site.enrol(box, Papers(site.voucher(box).render()))
    assert answer == Pending(PLANT, box.fingerprint, Waits.AUTHORITY)
    with pytest.raises(UnavailableError) as refused:
        site.office.settle()
    assert refused.value.reason is Reason.AUTHORITY_UNAVAILABLE
    with pytest.raises(UnavailableError):
        EnrolmentOffice(site.office_folder, ask=lambda: "wrong", now_ms=lambda: site.now_ms).settle()
    EnrolmentOffice(site.office_folder, ask=lambda: "correct horse battery", now_ms=lambda: site.now_ms).settle()
    assert site.office.of_zone(PLANT) is not None


def test_an_office_is_made_once(tmp_path: Path) -> None:
    """Again, it keeps its keys, and takes in what is new; and it says what is missing."""
    site = Site(tmp_path).init()
    before = {path: path.read_bytes() for path in sorted(site.office_folder.rglob("*")) if path.is_file()}
    site.init()
    assert {path: path.read_bytes() for path in before} == before
    for changes in (
        {"authority": AuthorityKind.EXTERNAL},
        {"authority": AuthorityKind.EXTERNAL_LEAF},
        {"image_keys": [tmp_path / "material/vendor.pem"]},
        {"vendors": [tmp_path / "nothing.pem"]},
    ):
        with pytest.raises(BsfgError) as refused:
            init_office(tmp_path / "other", site.plan(**changes), NOW)
        assert isinstance(refused.value, RefusedError)
        assert not (tmp_path / "other/enrolment.toml").exists()
        shutil.rmtree(tmp_path / "other")
