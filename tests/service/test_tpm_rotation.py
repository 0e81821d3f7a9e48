# SPDX-License-Identifier: Apache-2.0
"""Other operators for a box that works: a new key beside the old one, killed at every step; who can release which."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError, IntegrityError, RefusedError, UnavailableError
from appliance.keys.operators import sign
from appliance.keys.tpm.boundary_key import BoundaryKey, Branch
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import BoundaryIdentity, spki_pem
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import (
    BOUND_PCRS,
    COUNTER_INDEX,
    IMAGE_PCR,
    RELEASE_INDICES,
    Operators,
    PairSignatures,
)
from appliance.keys.tpm.provisioning import load_identity, provision, read_counter
from appliance.keys.tpm.public import sha256
from appliance.keys.tpm.rotation import NEXT_FILE, abandon, commit, load_next, rotate
from tests.processes import running
from tests.tpm import SoftwareTpm, image_key, image_signatures, people, software_tpm

BUILDER = image_key()
(ALICE, BOB, CAROL), _ = people(3)
Person = ec.EllipticCurvePrivateKey
MESSAGE = sha256(b"a receipt")
EVIDENCE = sha256(b"evidence")


def operators(*persons: Person) -> Operators:
    """Their public halves."""
    return Operators(tuple(person.public_key() for person in persons))


OLD, NEW = operators(ALICE, BOB), operators(ALICE, CAROL)


class Box:
    """A box that works for Alice and Bob, and is to work for Alice and Carol."""

    def __init__(self, device: Device, folder: Path) -> None:
        self.device, self.folder = device, folder
        provision(device, folder, OLD, BUILDER.public_key())

    @property
    def images(self) -> ImageSignatures:
        """The builder's, over PCR 11 as it is."""
        text = image_signatures(BUILDER, [self.device.pcr_read((IMAGE_PCR,))[IMAGE_PCR]])
        return ImageSignatures.parse(text, BUILDER.public_key())

    def key(self, identity: BoundaryIdentity | None = None) -> BoundaryKey:
        """A key in use: the current one unless it is said which."""
        identity = identity or load_identity(self.folder)
        assert identity is not None
        return BoundaryKey(self.device, identity, self.images, self.folder)

    def rotate(self, to: Operators = NEW) -> BoundaryIdentity:
        """Make the new key."""
        return rotate(self.device, self.key(), self.folder, to)

    def commit(self) -> BoundaryIdentity:
        """Switch to it."""
        return commit(self.device, self.folder, self.images)

    def indices(self) -> list[int]:
        """The NV indices in the TPM."""
        return sorted(self.device.handles(0x01000000))

    def release(self, identity: BoundaryIdentity, *signers: Person) -> None:
        """Have two persons release a key at the counter as it is."""
        x = identity.policy.x(read_counter(self.device), self.device.pcr_read(BOUND_PCRS))
        fresh, again = identity.policy.release_messages(x)
        first, second = signers
        signatures = PairSignatures(
            (0, 1), (sign(first, fresh), sign(second, fresh)), (sign(first, again), sign(second, again))
        )
        self.key(identity).import_release(x, signatures)

    def opens(self, identity: BoundaryIdentity) -> bool:
        """Whether the TPM lets this key sign by either branch, whatever the product says."""
        for branch in Branch:
            for claim in {identity.birth_counter, read_counter(self.device)}:
                try:
                    self.key(identity).sign_by(branch, claim, MESSAGE)
                except BsfgError:
                    continue
                return True
        return False


@contextmanager
def opened(tpm: SoftwareTpm) -> Iterator[Box]:
    """A box on a TPM."""
    with Device(tpm.tcti) as device:
        yield Box(device, tpm.folder / "keeper")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A healthy box."""
    with software_tpm(tmp_path / "tpm") as tpm, opened(tpm) as box:
        yield box


def test_the_old_key_stays_in_use_until_the_switch(box: Box) -> None:
    """And is released by its own operators; the new one works from its birth, for the new ones alone."""
    old = box.key().identity
    new = box.rotate()
    assert box.rotate() == new == load_next(box.folder)
    assert load_identity(box.folder) == old
    assert {old.policy.release_index, new.policy.release_index} == set(RELEASE_INDICES)
    assert new.policy.device != old.policy.device
    assert box.opens(old)
    assert box.opens(new)
    assert box.commit() == box.commit() == new == load_identity(box.folder)
    assert load_next(box.folder) is None
    assert box.indices() == [COUNTER_INDEX, new.policy.release_index]
    box.key().latch(EVIDENCE)
    assert not box.opens(new)
    for wrong in ((ALICE, BOB), (BOB, CAROL), (CAROL, ALICE), (BOB, BOB)):
        with pytest.raises(DeniedError, match="tpm_refused"):
            box.release(new, *wrong)
    assert not box.opens(new)
    box.release(new, ALICE, CAROL)
    assert box.opens(new)


def test_old_operators_cannot_release_the_new_key_by_the_old_index(box: Box) -> None:
    """Root may make the old index again; what they write there opens the old key, which the hub denies."""
    old, new = box.key().identity, box.rotate()
    box.commit()
    box.key().latch(EVIDENCE)
    box.device.nv_define(old.policy.release_public)
    box.release(old, ALICE, BOB)
    assert box.opens(old)
    assert not box.opens(new)


def test_a_latch_between_leaves_the_old_key_to_its_operators(box: Box) -> None:
    """A new key is no way out of quarantine: neither one made before the latch, nor one made after it."""
    old, new = box.key().identity, box.rotate()
    box.key().latch(EVIDENCE)
    for attempt in (box.commit, box.rotate):
        with pytest.raises(DeniedError, match="key_latched"):
            attempt()
    assert not box.opens(old)
    assert not box.opens(new)
    assert load_identity(box.folder) == old
    box.release(old, ALICE, BOB)
    assert box.opens(old)
    with pytest.raises(DeniedError, match="key_latched"):
        box.commit()  # the key of before the latch is locked for good but for its operators; begin again
    abandon(box.device, box.folder)
    assert box.indices() == [COUNTER_INDEX, old.policy.release_index]
    again = box.rotate()
    assert again.birth_counter == old.birth_counter + 1
    assert box.commit() == again
    assert box.opens(again)


def test_a_change_is_finished_or_abandoned_before_another(box: Box) -> None:
    """And every second change uses the first place again."""
    old = box.key().identity
    box.rotate()
    with pytest.raises(RefusedError, match="bad_input"):
        box.rotate(operators(BOB, CAROL))
    assert abandon(box.device, box.folder) == old == abandon(box.device, box.folder)
    assert box.opens(old)
    first = box.rotate()
    box.commit()
    box.key().latch(EVIDENCE)
    box.release(first, ALICE, CAROL)
    second = box.rotate(operators(BOB, CAROL, ALICE))
    assert second.policy.release_index == old.policy.release_index
    assert box.commit() == second
    assert box.opens(second)
    (box.folder / NEXT_FILE).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="tpm_altered"):
        box.commit()


def test_without_a_key_there_is_nothing_to_change(tmp_path: Path) -> None:
    """Said, and nothing made."""
    with software_tpm(tmp_path / "tpm") as tpm, Device(tpm.tcti) as device:
        device.ensure_srk()
        with pytest.raises(UnavailableError, match="not_ready"):
            abandon(device, tmp_path)
        assert device.handles(0x01000000) == []


def test_killed_at_every_step(tmp_path: Path, root: Path) -> None:
    """The box has one key, whole, at every moment; the next run completes the change."""
    keys = tmp_path / "keys"
    keys.mkdir()
    for name, person in (("a", ALICE), ("c", CAROL)):
        (keys / f"{name}.pem").write_text(spki_pem(person.public_key()))
    with software_tpm(tmp_path / "tpm") as tpm, opened(tpm) as box:
        old = box.key().identity
        (keys / "image.json").write_bytes(
            image_signatures(BUILDER, [box.device.pcr_read((IMAGE_PCR,))[IMAGE_PCR]]),
        )
    command = [sys.executable, "-m", "tests.rotation_victim", str(keys)]
    finished, step, switched = False, 0, 0
    with running(command, cwd=root, limit_s=220, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victims:
        assert victims.stdin is not None
        assert victims.stdout is not None
        while not finished:
            step += 1
            assert step < 150
            folder = shutil.copytree(tmp_path / "tpm", tmp_path / f"tpm{step}")
            with software_tpm(folder) as tpm:
                print(tpm.tcti, folder / "keeper", step, file=victims.stdin, flush=True)
                ended = int(victims.stdout.readline())
                assert ended in {0, -signal.SIGKILL}
                finished = ended == 0
                if step % 2:
                    tpm.reset()  # the power failed, rather than the process
                with opened(tpm) as box:
                    found = box.key().identity
                    assert box.opens(found)
                    if found == old:
                        assert box.rotate().policy.operators == NEW
                    else:
                        switched += 1
                    new = box.commit()
                    assert new.policy.operators == NEW
                    assert found in (old, new)
                    assert box.opens(new)
                    assert box.indices() == sorted([COUNTER_INDEX, new.policy.release_index])
                    assert box.device.handles(0x80000000) == []
                    assert read_counter(box.device) == old.birth_counter
            shutil.rmtree(folder)
    assert step > 30
    assert switched > 1
