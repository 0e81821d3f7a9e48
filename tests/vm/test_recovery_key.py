# SPDX-License-Identifier: Apache-2.0
"""The recovery key of the disk: shown once, at the first boot; it opens that disk without any TPM."""

from __future__ import annotations

import re
import secrets
import subprocess
from pathlib import Path

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tools.vm.children import program
from tools.vm.journey import beside

KEY = re.compile(r"\b(?:[0-9a-f]{8} ){7}[0-9a-f]{8}\b")


def opens(volume: Path, key: bytes, file: Path) -> bool:
    """Whether a key opens a LUKS volume, as cryptsetup says on a machine without any TPM."""
    file.write_bytes(key)
    command = [program("cryptsetup"), "open", "--test-passphrase", "--key-file", str(file), str(volume)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_key_is_shown_once_and_opens_the_disk(bench: Bench, work: Path) -> None:
    """What the first boot showed opens the volume; another key does not; a second boot shows none."""
    shown = KEY.findall(bench.golden.report["serial"])
    assert len(shown) == 1
    key = bytes.fromhex(shown[0].replace(" ", ""))
    hub, box = bench.hub(), bench.box()
    volume = work / "var.luks"
    box.disk.extract(box.disk.partition("var"), volume)
    assert opens(volume, key, work / "key")
    assert not opens(volume, secrets.token_bytes(32), work / "key")
    with hub.running(), beside(box, hub, "second") as journey:
        journey.to_ready()
        found = journey.machine.agent.run("/usr/bin/ls", "-A", "/run/bsfg-recovery")
        stays_calm(journey.machine.agent)
        journey.machine.power_off()
        assert not KEY.search(journey.machine.serial.text)
    assert found.text.strip() == ""
