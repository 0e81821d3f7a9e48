# SPDX-License-Identifier: Apache-2.0
"""The boundary key in a real software TPM: what opens it, and everything that must not.

Where the product would refuse by itself, the test goes around it: the TPM must refuse.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.names import parse_zone
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.operators import sign
from appliance.keys.release import Release, ReleaseRequest, add_signature, new_release, verify
from appliance.keys.tpm.boundary_key import TICKET_FILE, BoundaryKey, Branch
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import (
    BOUND_PCRS,
    COUNTER_INDEX,
    IMAGE_PCR,
    RELEASE_INDEX,
    START,
    BoundaryPolicy,
    DeviceRef,
    PairSignatures,
    counter_public,
    policy_authorize_nv,
    policy_nv_equal,
    policy_or,
    policy_pcr,
    policy_signed,
)
from appliance.keys.tpm.provisioning import provision, read_counter
from appliance.keys.tpm.public import (
    Digest,
    NvAttribute,
    NvPublic,
    ecdsa_public_of,
    name_of,
    p256_key,
    rsa_public_of,
    sha256,
)
from tests.tpm import SoftwareTpm, image_key, image_signatures, people, software_tpm

MESSAGE = sha256(b"a receipt")
EVIDENCE = sha256(b"evidence")
BUILDER = image_key()
Signer = ec.EllipticCurvePrivateKey


class Box:
    """One box: its TPM, its operators, and the key as the keeper would hold it."""

    def __init__(self, tpm: SoftwareTpm, operators: int = 2) -> None:
        self.tpm = tpm
        self.folder = tpm.folder / "keeper"
        self.people, self.operators = people(operators)
        self.connect()

    def connect(self) -> None:
        """Open TPM and key."""
        self.device = Device(self.tpm.tcti)
        self.identity = provision(self.device, self.folder, self.operators, BUILDER.public_key())
        self.boot_image(BUILDER)

    def boot_image(self, builder: object = BUILDER) -> None:
        """The image that runs comes with the builder's signature over PCR 11 as it is."""
        assert isinstance(builder, type(BUILDER))
        signatures = image_signatures(builder, [self.device.pcr_read((IMAGE_PCR,))[IMAGE_PCR]])
        images = ImageSignatures.parse(signatures, self.identity.policy.image_key)
        self.key = BoundaryKey(self.device, self.identity, images, self.folder)

    def reset(self) -> None:
        """Switch the machine off and on."""
        self.device.close()
        self.tpm.reset()
        self.connect()

    def works(self) -> bool:
        """Sign, and verify the signature."""
        signature = self.key.sign(MESSAGE)
        self.identity.public_key.verify(signature, MESSAGE, ec.ECDSA(Prehashed(hashes.SHA256())))
        return True

    def tpm_refuses(self) -> bool:
        """Whether the TPM itself refuses both branches, with every claim about the counter that could be made."""
        claims = {self.identity.birth_counter}
        if self.device.nv_public(COUNTER_INDEX):
            with contextlib.suppress(DeniedError):  # it may be unwritten
                claims.add(read_counter(self.device))
        for branch, claim in itertools.product(Branch, claims):
            with pytest.raises(BsfgError, match=r"tpm_refused|tpm_altered.*nv_read_public"):  # or there is no counter
                self.key.sign_by(branch, claim, MESSAGE)
        return True

    def x(self, counter: int | None = None) -> Digest:
        """What would open the key at a counter, here and now."""
        pcrs = self.device.pcr_read(BOUND_PCRS)
        return self.identity.policy.x(read_counter(self.device) if counter is None else counter, pcrs)

    def pair(self, x: Digest, first: int = 0, second: int = 1, policy: BoundaryPolicy | None = None) -> PairSignatures:
        """Two operators' honest signatures."""
        fresh, again = (policy or self.identity.policy).release_messages(x)
        signers = (self.people[first], self.people[second])
        return PairSignatures(
            (first, second),
            (sign(signers[0], fresh), sign(signers[1], fresh)),
            (sign(signers[0], again), sign(signers[1], again)),
        )

    def import_refused(self, x: Digest, signatures: PairSignatures) -> bool:
        """Whether the TPM refuses to write these."""
        with pytest.raises(DeniedError, match="tpm_refused"):
            self.key.import_release(x, signatures)
        return True


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A healthy box with two operators."""
    with software_tpm(tmp_path / "tpm") as tpm:
        box = Box(tpm)
        yield box
        box.device.close()


@pytest.fixture
def latched(box: Box) -> Box:
    """A box in quarantine; its counter is 2."""
    assert box.works()
    box.key.latch(EVIDENCE)
    return box


def test_the_key_works_from_birth_and_survives_a_reset(box: Box) -> None:
    """No operator is needed, and neither is a second verification of the image."""
    assert box.works()
    born = box.identity
    box.reset()
    assert box.identity == born
    assert box.works()


def test_no_object_and_one_session_stay_in_the_tpm(latched: Box) -> None:
    """After use, refusal, latch and release alike."""
    box = latched
    with pytest.raises(DeniedError, match="key_latched"):
        box.key.sign(MESSAGE)
    assert box.tpm_refuses()
    assert box.import_refused(box.x(), box.pair(box.x(1)))
    box.key.import_release(box.x(), box.pair(box.x()))
    for _ in range(8):
        assert box.works()
        box.key.certify(b"nonce")
    assert box.device.handles(0x80000000) == []
    assert len(box.device.handles(0x02000000)) == 1


def test_an_increment_locks_the_key_for_good(latched: Box) -> None:
    """Also after a reset; the attestation key still certifies the locked key."""
    box = latched
    for _ in range(2):
        with pytest.raises(DeniedError, match="key_latched"):
            box.key.sign(MESSAGE)
        assert box.tpm_refuses()
        box.reset()
    with box.device.attestation_key() as (_, area):
        pass
    attested = box.key.certify(b"nonce")
    p256_key(area).verify(attested.signature, attested.statement, ec.ECDSA(hashes.SHA256()))
    assert attested.statement.count(bytes(name_of(box.identity.public))) == 1


def test_two_operators_release_it_until_the_next_latch(latched: Box) -> None:
    """Once with the index never written, once written; each release is for one counter, and old ones are useless."""
    box = latched
    old_x = box.x()
    old = box.pair(old_x)
    box.key.import_release(old_x, old)
    assert box.works()
    box.reset()
    assert box.key.branch() == (Branch.RELEASE, 2)
    assert box.works()
    box.key.latch(EVIDENCE)
    assert box.tpm_refuses()
    box.key.import_release(old_x, old)  # may be written, is useless
    assert box.tpm_refuses()
    box.key.import_release(box.x(), box.pair(box.x()))
    assert box.works()


def test_one_operator_cannot_release(latched: Box) -> None:
    """Twice, with a stranger, or in the other order; not with other data, not for another box."""
    box = latched
    x = box.x()
    good, policy = box.pair(x), box.identity.policy
    a, b = good.fresh
    _, stranger = people(2)[0]
    s = sign(stranger, policy.release_messages(x)[0])
    for fresh in ((a, a), (b, b), (b, a), (a, s), (s, b)):
        assert box.import_refused(x, PairSignatures((0, 1), fresh, fresh))
    assert box.import_refused(x, PairSignatures((0, 0), (a, a), (a, a)))
    assert box.import_refused(x, PairSignatures((1, 0), (b, a), (b, a)))
    assert box.import_refused(x, PairSignatures((0, 1), good.again, good.again))  # for the other state of the index
    assert box.import_refused(box.x(3), good)
    assert box.import_refused(x, box.pair(box.x(3)))
    mixed = (a, box.pair(box.x(3)).fresh[1])
    assert box.import_refused(x, PairSignatures((0, 1), mixed, mixed))
    other = BoundaryPolicy(DeviceRef(bytes(32)), policy.operators, policy.image_key)
    assert box.import_refused(x, box.pair(x, policy=other))
    assert box.tpm_refuses()
    box.key.import_release(x, good)  # the same call with both is taken
    assert box.works()


def test_the_release_index_has_no_other_way_in(latched: Box) -> None:
    """Not by its authValue, one operator's policy, or an empty policy session."""
    box = latched
    data = box.identity.policy.release_data(box.x())
    with pytest.raises(DeniedError, match="tpm_refused"):
        box.device.nv_write(RELEASE_INDEX, data)
    with box.device.policy_session() as session, pytest.raises(DeniedError, match="tpm_refused"):
        box.device.nv_write(RELEASE_INDEX, data, session)
    fresh, _ = box.identity.policy.release_messages(box.x())
    with box.device.policy_session() as session:
        with box.device.loaded_external(ecdsa_public_of(box.operators.keys[0])) as key:
            session.signed(key, Digest(fresh[4:36]), box.identity.policy.device, sign(box.people[0], fresh))
        with pytest.raises(DeniedError, match="tpm_refused"):
            box.device.nv_write(RELEASE_INDEX, data, session)
    assert box.tpm_refuses()


def test_the_key_has_no_password(box: Box) -> None:
    """Its authValue is empty, and no way in."""
    with (
        box.device.loaded(box.identity.public, box.identity.private) as key,
        pytest.raises(DeniedError, match="tpm_refused"),
    ):
        box.device.sign(key, MESSAGE)


@pytest.mark.parametrize("pcr", BOUND_PCRS)
def test_each_bound_pcr_locks_the_key(pcr: int, box: Box) -> None:
    """Two operators can accept the new value, with the same counter."""
    assert box.works()
    box.device.pcr_extend(pcr, EVIDENCE)
    with pytest.raises(DeniedError, match=f"PCR {pcr}"):
        box.key.sign(MESSAGE)
    assert box.tpm_refuses()
    box.key.import_release(box.x(), box.pair(box.x()))
    assert box.works()


def test_a_new_image_needs_no_operator_and_a_foreign_one_is_refused(box: Box) -> None:
    """By the product, and by the TPM; a ticket for the old image does not help."""
    assert box.works()
    box.device.pcr_extend(IMAGE_PCR, EVIDENCE)
    with pytest.raises(DeniedError, match="image_not_signed"):
        box.key.sign(MESSAGE)
    box.boot_image(image_key())
    with pytest.raises(DeniedError, match="image_not_signed"):
        box.key.sign(MESSAGE)
    foreign = image_key()
    approved = policy_pcr(START, box.device.pcr_read((IMAGE_PCR,)))
    forged = image_signatures(foreign, [box.device.pcr_read((IMAGE_PCR,))[IMAGE_PCR]])
    own = ImageSignatures.parse(forged, foreign.public_key()).over(approved, foreign.public_key())
    with (
        box.device.loaded_external(rsa_public_of(BUILDER.public_key())) as key,
        pytest.raises(DeniedError, match="tpm_refused"),
    ):
        box.device.verify_rsa(key, sha256(approved), own)
    with box.device.loaded_external(rsa_public_of(foreign.public_key())) as key:
        ticket = box.device.verify_rsa(key, sha256(approved), own)
    with box.device.policy_session() as session:
        session.pcr((IMAGE_PCR,))
        with pytest.raises(DeniedError, match="tpm_refused"):
            session.authorize(approved, box.identity.policy.image_name, ticket)
    box.boot_image(BUILDER)
    assert box.works()


def test_a_use_that_straddles_a_boot_phase_is_tried_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """PCR 11 is extended between policy and signature; the image's signatures cover both phases."""
    before = box.device.pcr_read((IMAGE_PCR,))[IMAGE_PCR]
    signatures = image_signatures(BUILDER, [before, sha256(before + EVIDENCE)])
    images = ImageSignatures.parse(signatures, BUILDER.public_key())
    box.key = BoundaryKey(box.device, box.identity, images, box.folder)
    honest = box.device.sign
    phases = [EVIDENCE]

    def next_phase(*arguments: Any) -> bytes:
        if phases:
            box.device.pcr_extend(IMAGE_PCR, phases.pop())
        return honest(*arguments)

    monkeypatch.setattr(box.device, "sign", next_phase)
    assert box.works()
    assert box.device.pcr_read((IMAGE_PCR,))[IMAGE_PCR] != before


def test_tickets_are_kept_and_a_bad_one_costs_a_verification(box: Box) -> None:
    """The file may be lost, cut or forged."""
    assert box.works()
    file = box.folder / TICKET_FILE
    good = file.read_bytes()
    forged = good.replace(good[-40:-10], b"0" * 30)
    for content in (forged, b"{", b"[]", b'{"x": 1}'):
        file.write_bytes(content)
        box.boot_image()
        assert box.works()
    file.unlink()
    box.boot_image()
    assert box.works()


def test_a_session_held_from_before_the_latch_is_refused(box: Box) -> None:
    """The increment alone would let it sign once more; the extension of PCR 14 ends it."""
    box.works()
    counter = read_counter(box.device)
    with box.device.policy_session() as held:
        box.key.satisfy(held, Branch.BIRTH, counter)
        box.device.nv_increment(COUNTER_INDEX)
        with box.device.loaded(box.identity.public, box.identity.private) as key:
            box.device.sign(key, MESSAGE, held)  # why the latch does more than increment
    box.key.import_release(box.x(), box.pair(box.x()))
    with box.device.policy_session() as held:
        box.key.satisfy(held, Branch.RELEASE, counter + 1)
        box.key.latch(EVIDENCE)
        with (
            box.device.loaded(box.identity.public, box.identity.private) as key,
            pytest.raises(DeniedError, match="tpm_refused"),
        ):
            box.device.sign(key, MESSAGE, held)


def _again(box: Box) -> None:
    box.device.nv_undefine(COUNTER_INDEX)
    assert box.tpm_refuses()
    box.device.nv_define(counter_public())
    assert box.tpm_refuses()
    box.device.nv_increment(COUNTER_INDEX)
    assert read_counter(box.device) > 2


def _as_data(box: Box) -> None:
    attributes = counter_public().attributes & ~NvAttribute.COUNTER
    box.device.nv_undefine(COUNTER_INDEX)
    box.device.nv_define(NvPublic(COUNTER_INDEX, attributes, 8))
    box.device.nv_write(COUNTER_INDEX, box.identity.birth_counter.to_bytes(8))
    assert read_counter(box.device) == box.identity.birth_counter


def _release_by_strangers(box: Box) -> None:
    keys, strangers = people(2)
    policy = BoundaryPolicy(box.identity.policy.device, strangers, box.identity.policy.image_key)
    box.device.nv_undefine(RELEASE_INDEX)
    box.device.nv_define(policy.release_public)
    data = policy.release_data(box.x())
    fresh, _ = policy.release_messages(box.x())
    with box.device.policy_session() as session:
        for person in keys:
            with box.device.loaded_external(ecdsa_public_of(person.public_key())) as key:
                session.signed(key, Digest(fresh[4:36]), policy.device, sign(person, fresh))
        box.device.nv_write(RELEASE_INDEX, data, session)


def _release_without_policy(box: Box) -> None:
    public = box.identity.policy.release_public
    box.device.nv_undefine(RELEASE_INDEX)
    box.device.nv_define(NvPublic(RELEASE_INDEX, public.attributes | NvAttribute.AUTHWRITE, 34, public.auth_policy))
    box.device.nv_write(RELEASE_INDEX, box.identity.policy.release_data(box.x()))


@pytest.mark.parametrize("attack", [_again, _as_data, _release_by_strangers, _release_without_policy])
def test_owner_authorisation_does_not_release(attack: Callable[[Box], None], latched: Box) -> None:
    """The owner may remove and remake indices; the key knows the right ones by Name. The operators can mend it."""
    box = latched
    attack(box)
    assert box.tpm_refuses()
    box.reset()  # provisioning puts the right indices back
    assert box.tpm_refuses()
    box.key.import_release(box.x(), box.pair(box.x()))
    assert box.works()


def test_two_of_three(tmp_path: Path) -> None:
    """Any two, in their order; nobody twice."""
    with software_tpm(tmp_path / "tpm") as tpm:
        box = Box(tpm, operators=3)
        assert box.works()
        for pair in box.operators.pairs:
            box.key.latch(EVIDENCE)
            assert box.tpm_refuses()
            good = box.pair(box.x(), *pair)
            for wrong in ((pair[0], pair[0]), (pair[1], pair[1]), (pair[1], pair[0])):
                assert box.import_refused(box.x(), box.pair(box.x(), *wrong))
            box.key.import_release(box.x(), good)
            assert box.works()
        box.device.close()


def test_the_whole_way_of_a_release(latched: Box) -> None:
    """Request with the TPM's certificate, two operators' tools, the file, the import; another box refuses the file."""
    box = latched
    with box.device.attestation_key() as (_, area):
        attestation_key = p256_key(area)
    pcrs = box.device.pcr_read(BOUND_PCRS)
    zone, device = parse_zone("plant-a"), box.identity.policy.device
    request = ReleaseRequest(zone, device, read_counter(box.device), pcrs, EVIDENCE, box.key.certify_counter(EVIDENCE))
    enrolled = EnrolledBox(zone, BirthPolicy.of(box.identity), box.identity.public, attestation_key)
    release = add_signature(enrolled, request, new_release(enrolled, request), box.people[1])
    with pytest.raises(DeniedError, match="bad_release"):
        verify(box.identity.policy, release)
    file = add_signature(enrolled, request, Release.parse(release.render()), box.people[0]).render()
    x, signatures = verify(box.identity.policy, Release.parse(file))
    assert x == box.x()
    box.key.import_release(x, signatures)
    assert box.works()


def test_the_tpm_computes_the_same_policies(box: Box) -> None:
    """Each formula against a trial session."""
    device, policy, counter = box.device, box.identity.policy, counter_public().written().name
    device_ref = policy.device
    pcrs = device.pcr_read(BOUND_PCRS)
    with device.policy_session(trial=True) as trial:
        trial.pcr(BOUND_PCRS)
        assert trial.digest() == policy_pcr(START, pcrs)
    with device.policy_session(trial=True) as trial:
        trial.nv_equal(COUNTER_INDEX, 77)
        assert trial.digest() == policy_nv_equal(START, counter, 77)
    with device.policy_session(trial=True) as trial:
        trial.any_of((START, MESSAGE))
        assert trial.digest() == policy_or((START, MESSAGE))
    fresh, _ = policy.release_messages(box.x())
    with (
        device.policy_session(trial=True) as trial,
        device.loaded_external(ecdsa_public_of(box.operators.keys[0])) as key,
    ):
        trial.signed(key, Digest(fresh[4:36]), device_ref, sign(box.people[0], fresh))
        assert trial.digest() == policy_signed(START, name_of(ecdsa_public_of(box.operators.keys[0])), device_ref)
    box.key.import_release(box.x(), box.pair(box.x()))
    with device.policy_session(trial=True) as trial:
        trial.authorize_nv(RELEASE_INDEX)
        assert trial.digest() == policy.y == policy_authorize_nv(policy.release_public.written().name)
    index = device.nv_public(RELEASE_INDEX)
    assert index == policy.release_public.written()
    with device.policy_session() as session:
        box.key.satisfy(session, Branch.BIRTH, 1)
        assert session.digest() == policy.auth_policy(box.identity.birth)
