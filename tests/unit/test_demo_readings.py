# SPDX-License-Identifier: Apache-2.0
"""The demo's readings of the machine: plausible on a real one, and something on a machine that hides itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from appliance.dev.demo.readings import Machine, Reading

FILES = ("stat", "meminfo", "diskstats", "net/dev")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine of which everything is known."""
    (tmp_path / "net").mkdir()
    (tmp_path / "stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n")
    (tmp_path / "meminfo").write_text(
        "MemTotal:  1000 kB\nMemFree:  10 kB\nMemAvailable:  600 kB\nHugePages_Total: 0\n"
    )
    (tmp_path / "diskstats").write_text("8 0 sda 10 0 100 5 20 0 200 9 0 0 0\n8 1 sda1 1 0 4 5 2 0 6 9 0 0 0 0 0 0 0\n")
    (tmp_path / "net" / "dev").write_text(
        "Inter-|   Receive   |  Transmit\n face |bytes packets\n"
        "    lo: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0\n  eth0:30 1 0 0 0 0 0 0 40 1 0 0 0 0 0 0\n"
    )
    return tmp_path


def named(readings: list[Reading]) -> dict[str, dict[str, int | float | str]]:
    """The values by subject."""
    return {reading.subject: reading.values for reading in readings}


def test_a_known_machine(proc: Path) -> None:
    """Units as the names say; shares are since the reading before."""
    machine = Machine(proc)
    first = named(machine.read())
    assert first["machine:cpu"]["busy_percent"] == 20.0
    assert first["machine:memory"] == {"total_bytes": 1_024_000, "available_bytes": 614_400}
    assert first["machine:disk"] == {"read_bytes": 104 * 512, "written_bytes": 206 * 512}
    assert first["machine:network"] == {"received_bytes": 1030, "sent_bytes": 2040}
    (proc / "stat").write_text("cpu  175 0 100 725 100 0 0 0 0 0\n")
    assert named(machine.read())["machine:cpu"]["busy_percent"] == 75.0
    assert named(machine.read())["machine:cpu"]["busy_percent"] == 100.0  # no tick passed: no division by zero


def test_this_machine() -> None:
    """Whatever it shows is plausible."""
    machine = Machine()
    machine.read()
    found = named(machine.read())
    assert 0 <= float(found["machine:cpu"]["busy_percent"]) <= 100
    assert float(found["machine:cpu"]["load_1m"]) == pytest.approx(os.getloadavg()[0], abs=5)
    memory = found["machine:memory"]
    assert 0 < int(memory["available_bytes"]) <= int(memory["total_bytes"])


@pytest.mark.parametrize("damage", ["", "garbage\n", "cpu one two\n", "\x00" * 100, "MemTotal: x kB\n8 0 sda\n"])
@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_read_is_left_out(proc: Path, name: str, damage: str) -> None:
    """One sensor fails, the others go on."""
    (proc / name).write_text(damage)
    expected = {"stat": "cpu", "meminfo": "memory", "diskstats": "disk", "net/dev": "network"}
    missing = {f"machine:{kind}" for file, kind in expected.items() if file == name}
    everything = {f"machine:{kind}" for kind in expected.values()}
    found = named(Machine(proc).read()).keys()
    # An empty list of disks or interfaces is one without any: that is a reading, too.
    assert found == everything - missing or (found == everything and name in ("diskstats", "net/dev"))


def test_there_is_always_something_to_send(tmp_path: Path) -> None:
    """Even where there is no /proc at all."""
    (only,) = Machine(tmp_path / "none").read()
    assert only.subject == "machine:clock"
    shutil.rmtree(tmp_path)
