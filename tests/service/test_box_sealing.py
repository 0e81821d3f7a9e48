# SPDX-License-Identifier: Apache-2.0
"""systemd-creds itself on software TPMs: what seals the local root of a box. The boot is simulated."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import UnavailableError
from appliance.box.sealing import PROGRAM, SystemdCreds
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import spki_pem
from appliance.keys.tpm.simulated_boot import simulate_boot, simulated_signatures, simulated_word
from tests.conftest import IN_CI
from tests.contracts.sealing import SECRET, SealContract, World
from tests.tpm import SoftwareTpm


def boot(tpm: SoftwareTpm, *, addition: bool = False) -> None:
    """Reset a TPM and extend it as a boot would. :param addition: a command line that somebody added to (PCR 12)."""
    tpm.reset()
    device = Device(tpm.tcti, None, lambda _: None)
    try:
        simulate_boot(device)
        if addition:
            device.pcr_extend(12, simulated_word(1))
    finally:
        device.close()


class TestSystemdCreds(SealContract):
    """Real, but for the TPM, which is software."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        """Two boxes of one image."""
        if shutil.which(PROGRAM) is None:
            (pytest.fail if IN_CI else pytest.skip)(f"{PROGRAM} is missing")
        key = rsa.generate_private_key(65537, 2048)
        (tmp_path / "image.pem").write_text(spki_pem(key.public_key()))
        (tmp_path / "signatures.json").write_bytes(simulated_signatures(key))
        tpms = [SoftwareTpm(tmp_path / name).start() for name in ("one", "other")]
        try:
            for tpm in tpms:
                boot(tpm)
            one, other = (
                SystemdCreds(tmp_path / "image.pem", tmp_path / "signatures.json", tpm.tcti, pause_s=0.0)
                for tpm in tpms
            )
            yield World(one, other, lambda: boot(tpms[0], addition=True), lambda: boot(tpms[0]))
        finally:
            for tpm in tpms:
                tpm.stop()

    def test_a_var_in_its_place_does_not_open_it(self, world: World) -> None:
        """The initrd measures which volume it opened (PCR 15): the file alone, on another volume, is worth nothing."""
        sealed = world.seal.seal(SECRET)
        assert isinstance(world.seal, SystemdCreds)
        device = Device(world.seal.device, None, lambda _: None)
        try:
            device.pcr_extend(15, simulated_word(1))
        finally:
            device.close()
        with pytest.raises(UnavailableError):
            world.seal.open(sealed)
        world.restore()
        assert world.seal.open(sealed) == SECRET

    def test_no_other_builder_s_signature_opens_it(self, world: World, tmp_path: Path) -> None:
        """What PCR 11 may be is said by whoever holds the image key, and by nobody else."""
        sealed = world.seal.seal(SECRET)
        good = (tmp_path / "signatures.json").read_bytes()
        stranger = rsa.generate_private_key(65537, 2048)
        (tmp_path / "signatures.json").write_bytes(simulated_signatures(stranger))
        with pytest.raises(Exception, match="bad_local_keys"):
            world.seal.open(sealed)
        (tmp_path / "signatures.json").write_bytes(good)
        world.restore()  # of the sessions that the failed attempts left in a TPM without a resource manager
        assert world.seal.open(sealed) == SECRET
