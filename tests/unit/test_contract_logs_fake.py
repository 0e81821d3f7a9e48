# SPDX-License-Identifier: Apache-2.0
"""The logs in memory keep the contract of all logs."""

from __future__ import annotations

import random

import pytest

from tests.contracts.logs import PLANT, SMALL, LogsContract, Shelf
from tests.fakes.logs import FakeDisk, FakeLogs, Faults, Limits


class TestFakeLogs(LogsContract):
    """In memory; a restart keeps the disk."""

    @pytest.fixture
    def shelf(self) -> Shelf:
        """Without faults."""
        disk = FakeDisk()

        def opened() -> FakeLogs:
            return FakeLogs(PLANT, disk, Faults(random.Random(0)), {SMALL: Limits(max_records=10)})

        async def dead_letters() -> list[bytes]:
            return [letter.message for letter in disk.dead_letters.values()]

        return Shelf(opened(), opened, dead_letters)
