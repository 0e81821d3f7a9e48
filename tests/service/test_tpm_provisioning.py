# SPDX-License-Identifier: Apache-2.0
"""Provisioning: twice, killed at every step, on a foreign or lame TPM; and the driver's errors."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.boundary.errors import IntegrityError, RefusedError, UnavailableError
from appliance.keys.tpm.boundary_key import BoundaryKey
from appliance.keys.tpm.device import NEEDED, Device
from appliance.keys.tpm.identity import BoundaryIdentity, spki_pem
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import COUNTER_INDEX, IMAGE_PCR, RELEASE_INDEX, counter_public
from appliance.keys.tpm.provisioning import KEY_FILE, load_identity, provision, read_counter
from appliance.keys.tpm.public import sha256
from tests.tpm import image_key, image_signatures, people, software_tpm

BUILDER = image_key()
_, OPERATORS = people(2)
VICTIM = (sys.executable, "-m", "tests.tpm_victim")


def works(device: Device, identity: BoundaryIdentity, folder: Path) -> bool:
    """Whether the key signs."""
    signatures = image_signatures(BUILDER, [device.pcr_read((IMAGE_PCR,))[IMAGE_PCR]])
    key = BoundaryKey(device, identity, ImageSignatures.parse(signatures, BUILDER.public_key()), folder)
    return len(key.sign(sha256(b"x"))) > 64


def test_killed_at_every_step(tmp_path: Path, root: Path) -> None:
    """Before the key file nothing is an identity, after it, it is the one; the next run completes either."""
    keys = tmp_path / "keys"
    keys.mkdir()
    for name, key in (("a", OPERATORS.keys[0]), ("b", OPERATORS.keys[1]), ("image", BUILDER.public_key())):
        (keys / f"{name}.pem").write_text(spki_pem(key))
    finished = False
    step = 0
    while not finished:
        step += 1
        assert step < 100
        with software_tpm(tmp_path / f"tpm{step}") as tpm:
            folder = tmp_path / f"keeper{step}"
            outcome = subprocess.run(
                [*VICTIM, tpm.tcti, folder, str(step), keys], cwd=root, timeout=60, capture_output=True, check=False
            )
            assert outcome.returncode in {0, -signal.SIGKILL}, outcome.stderr.decode()
            finished = outcome.returncode == 0
            found = load_identity(folder)
            if step % 2:
                tpm.reset()  # the power failed, rather than the process
            with Device(tpm.tcti) as device:
                identity = provision(device, folder, OPERATORS, BUILDER.public_key())
                assert found is None or found == identity
                assert device.handles(0x80000000) == []
                assert sorted(device.handles(0x01000000)) == [COUNTER_INDEX, RELEASE_INDEX]
                assert read_counter(device) == identity.birth_counter
                assert device.nv_public(RELEASE_INDEX) == identity.policy.release_public
                assert works(device, identity, folder)
            assert load_identity(folder) == identity
    assert step > 20


def test_twice_is_once(tmp_path: Path) -> None:
    """Other operators or another image key do not change a box that has an identity."""
    with software_tpm(tmp_path / "tpm") as tpm, Device(tpm.tcti) as device:
        first = provision(device, tmp_path, OPERATORS, BUILDER.public_key())
        content = (tmp_path / KEY_FILE).read_bytes()
        assert provision(device, tmp_path, people(3)[1], image_key().public_key()) == first
        assert (tmp_path / KEY_FILE).read_bytes() == content
        assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
        assert read_counter(device) == first.birth_counter


def test_a_lost_key_file_gives_a_new_identity_and_no_old_counter(tmp_path: Path) -> None:
    """The latch is not undone by it: the counter goes on, and nothing signed for the old box fits the new one."""
    with software_tpm(tmp_path / "tpm") as tpm, Device(tpm.tcti) as device:
        first = provision(device, tmp_path, OPERATORS, BUILDER.public_key())
        device.nv_increment(COUNTER_INDEX)
        (tmp_path / KEY_FILE).unlink()
        second = provision(device, tmp_path, OPERATORS, BUILDER.public_key())
        assert second.policy.device != first.policy.device
        assert second.birth_counter == first.birth_counter + 1
        assert works(device, second, tmp_path)


def test_another_tpm_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    """The key file belongs to one TPM, and every byte of it counts for something."""
    with software_tpm(tmp_path / "tpm") as tpm, Device(tpm.tcti) as device:
        identity = provision(device, tmp_path, OPERATORS, BUILDER.public_key())
    with software_tpm(tmp_path / "other") as tpm:
        with Device(tpm.tcti) as device, pytest.raises(IntegrityError, match="tpm_altered"):
            provision(device, tmp_path, OPERATORS, BUILDER.public_key())
        with pytest.raises(IntegrityError, match="tpm_altered"):
            Device(tpm.tcti, srk_name=identity.srk_name)
    text = (tmp_path / KEY_FILE).read_bytes()
    other = identity.policy.device.hex().encode()
    damaged = [text[:-1], b"", b"[]", text.replace(other, hashlib.sha256(other).hexdigest().encode())]
    damaged += [text.replace(b'"birth_counter":"1"', b'"birth_counter":"2"'), text.replace(b"private", b"privat3")]
    for content in damaged:
        assert content != text
        with pytest.raises(IntegrityError, match="tpm_altered"):
            BoundaryIdentity.parse(content)


def test_a_tpm_without_the_commands_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made in it."""
    with software_tpm(tmp_path / "tpm") as tpm, Device(tpm.tcti) as device:
        assert device.commands() > {int(command) for command in NEEDED}
        monkeypatch.setattr(device, "commands", lambda: frozenset({0x16A, 0x160, 0x149}))
        with pytest.raises(RefusedError, match=r"tpm_unsupported.*missing: policyauthorizenv"):
            provision(device, tmp_path, OPERATORS, BUILDER.public_key())
        assert device.handles(0x01000000) == device.handles(0x81000000) == []


def test_an_absent_tpm_is_said_to_be_absent(tmp_path: Path) -> None:
    """No device, nobody listening, gone in the middle; and a session that is not protected is not used."""
    with pytest.raises(UnavailableError, match="tpm_absent"):
        Device(f"device:{tmp_path}/tpmrm0")
    with software_tpm(tmp_path / "tpm") as tpm:
        with Device(tpm.tcti) as device, pytest.raises(UnavailableError, match="tpm_absent"):
            device.nv_define(counter_public())  # no storage root key: no protected session: nothing is sent
        with Device(tpm.tcti) as device:
            device.ensure_srk()
            tpm.stop()
            with pytest.raises(UnavailableError, match="tpm_absent"):
                device.pcr_read((11,))
        with pytest.raises(UnavailableError, match="tpm_absent"):
            Device(tpm.tcti)
