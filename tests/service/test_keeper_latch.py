# SPDX-License-Identifier: Apache-2.0
"""The latch as others see it: it holds across restarts and against the owner's authorisation; releases; new images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError
from appliance.keys.certificates import certificate_der, certify_request
from appliance.keys.keeper.box import RELEASE_FILE
from appliance.keys.tpm.boundary_key import BoundaryKey, Branch
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.latch_journal import LATCH_FILE
from appliance.keys.tpm.policy import COUNTER_INDEX, HELD_PCR, IMAGE_PCR, RELEASE_INDEX, counter_public, latch_word
from appliance.keys.tpm.provisioning import provision, read_counter
from appliance.keys.tpm.public import NvAttribute, NvPublic, sha256
from appliance.keys.tpm.sealing import Sealed, seal, unseal
from appliance.keys.tpm.signer import BoundarySigner
from appliance.keys.tpm.simulated_boot import pcr_signatures, simulate_boot, simulated_signatures
from tests.contracts.keeper import EVIDENCE, RECEIPT, World
from tests.keepers import ALL_ROLES, BUILDER, OPERATORS, PLANT, KeeperProcess, Site, running_keeper
from tests.tpm import SoftwareTpm, image_key, software_tpm


class Case:
    """A keeper process that can be stopped, so that somebody else has the TPM for a while."""

    def __init__(self, tpm: SoftwareTpm, site: Site, process: KeeperProcess) -> None:
        self.tpm = tpm
        self.site = site
        self.process = process
        self.world = World(site.client, site)

    def root(self, attack: Callable[[Device], None], *, boot: bool = True) -> None:
        """Root stops the keeper, does something with the TPM, and starts it again."""
        self.process.stop()
        with Device(self.tpm.tcti) as device:
            attack(device)
        self.site.write(self.tpm.tcti, {os.getuid(): ALL_ROLES}, boot=boot)
        self.process.start()

    async def refuses(self) -> None:
        """No signature, no session, no secret."""
        keeper = self.world.keeper
        for call in (keeper.sign(RECEIPT), keeper.session("agent"), keeper.unseal("agent.token")):
            with pytest.raises(DeniedError, match=r"key_latched|tpm_refused"):
                await call
        assert list((self.site.folder / "session").iterdir()) == []


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """A keeper with its own TPM."""
    with software_tpm(tmp_path / "tpm") as tpm:
        site = Site(tmp_path / "site", tpm.tcti)
        with running_keeper(site) as process:
            yield Case(tpm, site, process)


def again(device: Device) -> None:
    """The counter is made anew, with the owner's authorisation."""
    device.nv_undefine(COUNTER_INDEX)
    device.nv_define(counter_public())
    device.nv_increment(COUNTER_INDEX)


def as_data(device: Device) -> None:
    """An index that holds the value of birth takes the counter's place."""
    device.nv_undefine(COUNTER_INDEX)
    device.nv_define(NvPublic(COUNTER_INDEX, counter_public().attributes & ~NvAttribute.COUNTER, 8))
    device.nv_write(COUNTER_INDEX, (1).to_bytes(8))


def without_release(device: Device) -> None:
    """The release index is removed."""
    device.nv_undefine(RELEASE_INDEX)


async def test_a_latched_box_stays_latched(case: Case) -> None:
    """After restarts of keeper and TPM, and whatever the owner does to the indices; operators can release it."""
    keeper = await case.world.ready()
    await keeper.seal("agent.token", b"secret")
    await keeper.latch(EVIDENCE)
    await case.refuses()
    case.process.restart()
    await case.refuses()
    case.process.stop()
    case.tpm.reset()
    case.process.start()
    await case.refuses()
    for attack in (again, as_data, without_release):
        case.root(attack)
        await case.refuses()
    for name in (LATCH_FILE, "image-tickets.json"):
        (case.site.folder / "state" / name).unlink(missing_ok=True)
    case.process.restart()
    await case.refuses()
    await keeper.import_release((await case.world.release()).render())
    await keeper.sign(RECEIPT)
    assert await keeper.unseal("agent.token") == b"secret"


async def test_a_release_survives_the_loss_of_its_index(case: Case) -> None:
    """The keeper writes it again from its file; without the file the box is locked, which harms nobody else."""
    keeper = await case.world.ready()
    await keeper.latch(EVIDENCE)
    await keeper.import_release((await case.world.release()).render())
    case.root(without_release)
    await keeper.sign(RECEIPT)
    (case.site.folder / "state" / RELEASE_FILE).unlink()
    case.root(without_release)
    with pytest.raises(DeniedError, match="key_latched"):
        await keeper.sign(RECEIPT)


async def test_a_new_image_needs_no_operator(case: Case) -> None:
    """If the builder signed it; a stranger's signature, or an old one, does not count."""
    keeper = await case.world.ready()
    found: list[bytes] = []

    def other_image(device: Device) -> None:
        device.pcr_extend(IMAGE_PCR, EVIDENCE)
        found.append(device.pcr_read((IMAGE_PCR,))[IMAGE_PCR])

    case.root(other_image, boot=False)
    for signatures in (simulated_signatures(BUILDER), pcr_signatures(image_key(), found), b"{}", b""):
        case.site.sign_image(signatures)
        with pytest.raises(DeniedError, match="image_not_signed"):
            await keeper.sign(RECEIPT)
    case.site.sign_image(pcr_signatures(BUILDER, found))
    await keeper.sign(RECEIPT)
    assert (await keeper.session("agent")).path.exists()


@pytest.fixture
def open_box(tmp_path: Path) -> Iterator[tuple[Device, BoundaryKey, Path]]:
    """A boundary key without a keeper."""
    with software_tpm(tmp_path / "tpm") as tpm, Device(tpm.tcti) as device:
        simulate_boot(device)
        identity = provision(device, tmp_path / "state", OPERATORS, BUILDER.public_key())
        images = ImageSignatures.parse(simulated_signatures(BUILDER), BUILDER.public_key())
        yield device, BoundaryKey(device, identity, images, tmp_path / "state"), tmp_path / "state"


Opened = tuple[Device, BoundaryKey, Path]


class PowerCut(BaseException):
    """The end of the process."""


@pytest.mark.parametrize("command", ["nv_increment", "nv_certify", "pcr_extend"])
def test_a_latch_that_is_cut_is_finished_at_start(
    open_box: Opened, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """After the increment, before and after the extension: at the next start PCR 14 is extended, and no session lives.

    A second call counts no further, and a start after that changes nothing.
    """
    device, key, folder = open_box
    before = device.pcr_read((HELD_PCR,))[HELD_PCR]
    honest = getattr(device, command)

    def cut(*arguments: object) -> None:
        honest(*arguments)
        raise PowerCut

    with device.policy_session() as held, device.loaded(key.identity.public, key.identity.private) as loaded:
        key.satisfy(held, Branch.BIRTH, 1)
        monkeypatch.setattr(device, command, cut)
        with pytest.raises(PowerCut):
            key.latch(EVIDENCE)
        monkeypatch.undo()
        assert read_counter(device) == 2
        assert key.resume_latch()
        assert device.pcr_read((HELD_PCR,))[HELD_PCR] != before
        with pytest.raises(DeniedError, match="tpm_refused"):
            device.sign(loaded, EVIDENCE, held)
    after = device.pcr_read((HELD_PCR,))[HELD_PCR]
    assert key.resume_latch()
    assert key.latch(EVIDENCE)[0] in {2, 3}
    counter = read_counter(device)
    assert key.latch(EVIDENCE)[0] == counter
    if counter == 2:
        assert device.pcr_read((HELD_PCR,))[HELD_PCR] == after
    (folder / LATCH_FILE).write_bytes(b"{}")
    assert key.latch(EVIDENCE)[0] == counter + 1  # in doubt it counts on


def test_a_latch_needs_no_disk(open_box: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written it is latched, and one that was asked for once is counted once."""
    device, key, _ = open_box

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for module in ("boundary_key", "latch_journal"):
        monkeypatch.setattr(f"appliance.keys.tpm.{module}.write_atomically", full)
    assert key.sign(EVIDENCE)
    for _ in range(3):
        assert key.latch(EVIDENCE, after=1)[0] == 2
    assert read_counter(device) == 2
    with pytest.raises(DeniedError, match="key_latched"):
        key.sign(EVIDENCE)


async def test_a_released_box_is_latched_again_whatever_was_known(case: Case) -> None:
    """An old note of the counter, or of the last latch, does not keep an open key open."""
    keeper = await case.world.ready()
    await keeper.latch(EVIDENCE)
    await keeper.import_release((await case.world.release()).render())
    case.process.stop()
    with Device(case.tpm.tcti) as device:
        identity = provision(device, case.site.folder / "state", OPERATORS, BUILDER.public_key())
        images = ImageSignatures.parse(simulated_signatures(BUILDER), BUILDER.public_key())
        key = BoundaryKey(device, identity, images, case.site.folder / "state")
        assert key.sign(EVIDENCE)
        assert key.latch(EVIDENCE, after=1)[0] == 3
        with pytest.raises(DeniedError, match="key_latched"):
            key.sign(EVIDENCE)


def test_a_box_that_is_not_latched_has_nothing_to_finish(open_box: Opened) -> None:
    """PCR 14 stays as it is; a note that says otherwise opens and closes nothing."""
    device, key, _ = open_box
    before = device.pcr_read((HELD_PCR,))
    assert not key.resume_latch()
    assert device.pcr_read((HELD_PCR,)) == before
    assert key.latch(EVIDENCE)[0] == 2
    assert device.pcr_read((HELD_PCR,))[HELD_PCR] == sha256(before[HELD_PCR] + latch_word(EVIDENCE))
    for _ in range(2):  # for nothing else: what it was locked for stands
        key.latch(sha256(b"another case"))
    assert device.pcr_read((HELD_PCR,))[HELD_PCR] == sha256(before[HELD_PCR] + latch_word(EVIDENCE))


def test_a_sealed_secret_has_only_the_keys_way_out(open_box: Opened) -> None:
    """Its policy session must be complete; another TPM, and other bytes, are refused."""
    device, key, folder = open_box
    sealed = seal(device, key, b"secret")
    assert Sealed.parse(sealed.render()) == sealed
    assert unseal(device, key, sealed) == b"secret"
    with device.loaded(sealed.public, sealed.private) as item, device.policy_session() as session:
        with pytest.raises(DeniedError, match="tpm_refused"):
            device.unseal(item, session)
        session.pcr((IMAGE_PCR,))
        with pytest.raises(DeniedError, match="tpm_refused"):
            device.unseal(item, session)
    forged = Sealed(sealed.public, sealed.private[:-1] + bytes([sealed.private[-1] ^ 1]))
    with pytest.raises(DeniedError, match="tpm_refused"):
        unseal(device, key, forged)
    with software_tpm(folder / "other") as tpm, Device(tpm.tcti) as other:
        simulate_boot(other)
        identity = provision(other, folder / "state", OPERATORS, BUILDER.public_key())
        images = ImageSignatures.parse(simulated_signatures(BUILDER), BUILDER.public_key())
        with pytest.raises(DeniedError, match="tpm_refused"):
            unseal(other, BoundaryKey(other, identity, images, folder), sealed)


def test_the_boundary_key_as_a_private_key(open_box: Opened) -> None:
    """It signs certificates and requests with SHA-256, and gives nothing out."""
    _, key, _ = open_box
    signer = BoundarySigner(key)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(signer, hashes.SHA256())
    assert request.is_signature_valid
    assert (signer.key_size, signer.curve.name, signer.public_key()) == (256, "secp256r1", key.identity.public_key)
    with pytest.raises(ValueError, match="SHA-256"):
        signer.sign(b"x", ec.ECDSA(hashes.SHA384()))
    peer = ec.generate_private_key(ec.SECP256R1()).public_key()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pytest.raises(ValueError, match="only signs"):
        signer.exchange(ec.ECDH(), peer)
    with pytest.raises(ValueError, match="never leaves"):
        signer.private_numbers()
    with pytest.raises(ValueError, match="never leaves"):
        signer.private_bytes(*form)


async def test_a_session_never_outlives_the_device_ca(case: Case) -> None:
    """A device CA that ends in three minutes issues nothing longer; one that has ended issues nothing."""
    keeper, site = case.world.keeper, case.site
    request = x509.load_der_x509_csr(await keeper.certificate_request())
    short = certify_request(site.hub_ca, PLANT, request, datetime.now(UTC), timedelta(minutes=3))
    await keeper.install(certificate_der(short))
    await site.tell_time()
    assert (await keeper.session("agent")).ends_at == short.not_valid_after_utc.timestamp()
    await site.tell_time(unix_ms=int(short.not_valid_after_utc.timestamp() * 1000) + 1000)
    with pytest.raises(DeniedError, match="bad_certificate"):
        await keeper.session("agent")
    assert "bad_certificate" in (await keeper.status()).problem
    await site.enrol()
    assert (await keeper.session("agent")).path.exists()


async def test_a_sealed_secret_is_not_on_the_disk(case: Case) -> None:
    """Nor anywhere else in the keeper's folders; sessions are private to their reader."""
    keeper = await case.world.ready()
    await keeper.seal("agent.token", b"x" * 32)
    files = [path for path in case.site.folder.rglob("*") if path.is_file()]
    assert any(path.name == "agent.token.json" for path in files)
    assert [path for path in files if b"x" * 32 in path.read_bytes()] == []
    private = [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(path.name for path in private) == ["agent.pem", "control.pem"]
