# SPDX-License-Identifier: Apache-2.0
"""Every kind of tampering of the table: nothing is seen before, its own code and no other then, nothing after."""

from __future__ import annotations

import random
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName
from tests.benign import BENIGN, Benign
from tests.boxspace import BoxSpace, boxspace
from tests.tampering import TAMPERINGS, Ground, Tampering, configured

OF_OURS = {
    *(ProbeName.VERITY, ProbeName.KERNEL, ProbeName.FIRMWARE, ProbeName.MOUNTS, ProbeName.CONFIGURATION),
    *(ProbeName.EXECUTABLES, ProbeName.HARDWARE, ProbeName.DISK),
}


@pytest.fixture(scope="module")
def space() -> Iterator[BoxSpace]:
    """Namespaces that all scenes share, one after another."""
    with boxspace() as made:
        yield made


def test_every_code_of_these_probes_is_attacked() -> None:
    """A code without an attack proves nothing."""
    assert {each.code for each in TAMPERINGS} == {code for code in Code if SUSPICIONS[code].probe in OF_OURS}


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda each: each.label)
def test_tampering_is_seen_and_told_apart(tampering: Tampering, tmp_path: Path, space: BoxSpace) -> None:
    """With what exactly, for people."""
    with tampering.scene(Ground(tmp_path, space)) as scene:
        for _ in range(6):
            clean = scene.probe.look()
            assert (clean.seen, clean.blind) == ((), "")
        scene.inject()
        reading = scene.look_for(tampering.code)
        assert reading.blind == ""
        assert all(each.detail for each in reading.seen)
        if not scene.lasting:
            scene.undo()
            assert scene.probe.look().seen == ()


@pytest.mark.parametrize("benign", BENIGN, ids=lambda each: each.what)
def test_what_is_benign_puts_nobody_into_quarantine(benign: Benign, tmp_path: Path, space: BoxSpace) -> None:
    """Some of each here; the bench does thousands."""
    chance = random.Random(benign.what)
    with benign.calm(Ground(tmp_path, space)) as calm:
        seen = {each.code for _ in range(6) for each in calm.look(chance).seen}
    assert seen <= benign.notes


def test_a_drop_in_of_a_new_folder_is_told(tmp_path: Path, space: BoxSpace) -> None:
    """The folder comes, is looked at while it is empty, and then the file comes: the kernel tells of each."""
    with configured(Ground(tmp_path, space)) as (at, probe):
        descriptor = probe.descriptor()
        assert descriptor is not None
        assert probe.look().seen == ()
        folder = at.root / "run/systemd/system.control/bsfg-agent.service.d"
        folder.mkdir(parents=True)
        assert select.select([descriptor], [], [], 1.0)[0]
        assert probe.look().seen == ()
        (folder / "50.conf").write_text("[Service]", "utf-8")
        assert select.select([descriptor], [], [], 1.0)[0]
        assert [each.code for each in probe.look().seen] == [Code.UNIT_FOREIGN]
