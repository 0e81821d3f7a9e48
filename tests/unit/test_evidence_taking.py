# SPDX-License-Identifier: Apache-2.0
"""Both takers of evidence pass the one contract: the real one (on a **simulated** keeper), and the fake."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from appliance.keys.keeper.port import Latched
from appliance.keys.tpm.public import Attestation
from appliance.watchdog.evidence.bundle import digest_of
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.evidence.taking import KeptEvidence
from tests.contracts.evidence import TakerContract, TakerWorld
from tests.evidence import SimulatedQuarantine, some_sources
from tests.fakes.quarantine import FakeTaker


class TestKeptEvidence(TakerContract):
    """The real one."""

    @pytest.fixture
    def taker_world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TakerWorld:
        """On a folder; its disk fills when a test says so."""
        store, keeper, add = EvidenceStore(tmp_path / "evidence"), SimulatedQuarantine(), EvidenceStore._write
        failures = [0]

        def failing(self: EvidenceStore, *parts: Any) -> None:
            if failures[0]:
                failures[0] -= 1
                raise OSError(errno.ENOSPC, "No space left on device")
            add(self, *parts)

        monkeypatch.setattr(EvidenceStore, "_write", failing)
        asked: Any = keeper
        return TakerWorld(
            KeptEvidence(asked, some_sources(), store),
            lambda case: keeper.latch(case.digest()),
            lambda: [digest_of(each.read()[0]) for each in store.all()],
            lambda times: failures.__setitem__(0, times),
        )


class TestFakeTaker(TakerContract):
    """The one in memory."""

    @pytest.fixture
    def taker_world(self) -> TakerWorld:
        """It fills when a test says so."""
        fake = FakeTaker()

        def fill(times: int) -> None:
            fake.full = times

        return TakerWorld(
            fake,
            lambda _: Latched(2, Attestation(b"", b"")),
            lambda: [fake.digest(number) for number in range(len(fake.kept))],
            fill,
        )
