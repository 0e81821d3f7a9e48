# SPDX-License-Identifier: Apache-2.0
"""The keeper process on a real software TPM keeps the contract, through its socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.keeper import HubKeeperContract, KeeperContract, World
from tests.keepers import HUB, Site, running_keeper
from tests.tpm import software_tpm


class TestKeeperProcess(KeeperContract):
    """A process, a socket, a TPM."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        """One for each test."""
        with software_tpm(tmp_path / "tpm") as tpm:
            site = Site(tmp_path / "site", tpm.tcti)
            with running_keeper(site):
                yield World(site.client, site)


class TestHubKeeperProcess(HubKeeperContract):
    """The same, of a hub."""

    @pytest.fixture
    def hub(self, tmp_path: Path) -> Iterator[World]:
        """One for each test."""
        with software_tpm(tmp_path / "tpm") as tpm:
            site = Site(tmp_path / "site", tpm.tcti, HUB)
            with running_keeper(site):
                yield World(site.client, site)
