# SPDX-License-Identifier: Apache-2.0
"""The keeper in memory keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.keys.time_token import HubTrust
from tests.contracts.keeper import HubKeeperContract, KeeperContract, World
from tests.fakes.keeper import FakeKeeper
from tests.keepers import BUILDER, HUB, OPERATORS, PLANT, Site


class TestFakeKeeper(KeeperContract):
    """In memory."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        """With a hub and operators."""
        site = Site(tmp_path / "site", "swtpm:")
        trust = HubTrust(HUB, site.hub_ca.certificate)
        return World(FakeKeeper(tmp_path, PLANT, trust, OPERATORS, BUILDER.public_key()), site)


class TestFakeHubKeeper(HubKeeperContract):
    """In memory, of a hub."""

    @pytest.fixture
    def hub(self, tmp_path: Path) -> World:
        """With operators."""
        site = Site(tmp_path / "site", "swtpm:", HUB)
        trust = HubTrust(HUB, site.hub_ca.certificate)
        return World(FakeKeeper(tmp_path, HUB, trust, OPERATORS, BUILDER.public_key()), site)
