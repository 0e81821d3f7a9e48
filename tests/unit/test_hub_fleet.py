# SPDX-License-Identifier: Apache-2.0
"""The hub's memory of when it heard whom: it outlives the hub, and what cannot be read knows nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.boundary.names import ZoneId
from appliance.hub.fleet import RUNNING_MS, SILENT_AFTER_MS, Fleet, FleetMemory

PLANT, OTHER = ZoneId("plant-a"), ZoneId("plant-b")


class Clock:
    """A wall clock that a test sets."""

    ms = 1_795_000_000_000

    def __call__(self) -> int:
        """Now."""
        return self.ms


def test_silence_is_known_also_after_a_restart(tmp_path: Path) -> None:
    """Since the last time it was heard; who was never heard is not silent."""
    clock, path = Clock(), tmp_path / "fleet.json"
    memory = FleetMemory(path, lambda _: "fresh", clock)
    memory.heard(PLANT)
    heard = clock.ms
    memory.save()
    assert memory.silent_since(PLANT) == 0
    clock.ms += SILENT_AFTER_MS + 1
    assert (memory.silent_since(PLANT), memory.silent_since(OTHER)) == (heard, 0)
    again = FleetMemory(path, lambda _: "stale", clock)
    assert again.silent_since(PLANT) == heard
    again.save()
    fleet = Fleet.read(path, clock.ms)
    assert fleet.running
    assert fleet.zones[PLANT].attestation == "stale"
    assert fleet.zones[PLANT].silent_since(clock.ms) == heard
    assert not Fleet.read(path, clock.ms + RUNNING_MS + 1).running
    again.heard(PLANT)
    assert again.silent_since(PLANT) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format":"bsfg-fleet-2","written_unix_ms":1,"zones":{}}',
        '{"format":"bsfg-fleet-1","written_unix_ms":1,"zones":{"Plant A":{"heard_unix_ms":1,"attestation":""}}}',
        '{"format":"bsfg-fleet-1","written_unix_ms":1,"zones":{"plant-a":{"heard_unix_ms":"1","attestation":""}}}',
        '{"format":"bsfg-fleet-1","written_unix_ms":1,"zones":{"plant-a":{"heard_unix_ms":1,"attestation":"good"}}}',
    ],
)
def test_what_cannot_be_read_knows_nothing(tmp_path: Path, text: str) -> None:
    """And stops nobody."""
    path = tmp_path / "fleet.json"
    path.write_text(text)
    assert Fleet.read(path, 1) == Fleet({}, running=False)
    memory = FleetMemory(path, now_ms=Clock())
    memory.heard(PLANT)
    memory.save()
    assert PLANT in Fleet.read(path, Clock.ms).zones


def test_without_a_folder_it_is_kept_in_memory(tmp_path: Path) -> None:
    """A disk that is full, or not there, stops the memory and nothing else."""
    for memory in (FleetMemory(None), FleetMemory(tmp_path / "none" / "fleet.json")):
        memory.heard(PLANT)
        memory.save()
        assert memory.silent_since(PLANT) == 0
