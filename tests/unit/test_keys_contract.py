# SPDX-License-Identifier: Apache-2.0
"""Software keys and fake keys keep the same contract."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.keys.devca import ensure_pki
from appliance.keys.software import SoftwareKeys
from tests.contracts.keys import HUB, PLANT, STATEMENT, STRANGER, KeysContract, World
from tests.fakes.keys import FakeKeys


class TestSoftwareKeys(KeysContract):
    """On files."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """The stranger comes from another CA."""
        root = tmp_path / "keys"
        here = {PLANT: root / "plant", HUB: root / "hub"}
        ensure_pki(root / "ca", here)
        ensure_pki(root / "other-ca", {STRANGER: root / "stranger"})
        return World(
            SoftwareKeys.load(PLANT, here[PLANT]),
            SoftwareKeys.load(HUB, here[HUB]),
            SoftwareKeys.load(STRANGER, root / "stranger"),
        )

    def test_they_say_what_they_are(self, world: World) -> None:
        """Nobody can take them for keys in a TPM."""
        assert isinstance(world.plant, SoftwareKeys)
        assert world.plant.kind == "software"

    async def test_a_signature_can_be_checked_with_openssl(self, world: World, tmp_path: Path) -> None:
        """As the documentation says it can: by people, without this product."""
        signature = await world.plant.sign(STATEMENT)
        key = x509.load_der_x509_certificate(signature.certificate).public_key()
        (tmp_path / "key").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        (tmp_path / "signature").write_bytes(signature.value)
        (tmp_path / "statement").write_bytes(STATEMENT)
        command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "signature", "statement"]
        assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).stdout == b"Verified OK\n"


class TestFakeKeys(KeysContract):
    """In memory."""

    @pytest.fixture
    def world(self) -> World:
        """Plant and hub know each other."""
        return World(FakeKeys(PLANT, {PLANT, HUB}), FakeKeys(HUB, {PLANT, HUB}), FakeKeys(STRANGER, {STRANGER}))

    async def test_the_same_statement_has_the_same_signature(self, world: World) -> None:
        """So that a simulation leaves the same trace each time."""
        assert await world.plant.sign(STATEMENT) == await FakeKeys(PLANT, set()).sign(STATEMENT)
