# SPDX-License-Identifier: Apache-2.0
"""The demo as a newcomer runs it: it ends by itself, proves what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from appliance.dev.demo.story import BURST_FACTS, DUPLICATES, KILLED, SESSION_S


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that were started with something in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has just ended
                continue
            if str(folder) in words:
                found.append(words)
    return found


def test_the_demo(tmp_path: Path) -> None:
    """One run, about a minute: links cut, processes killed, a box latched and released; nothing lost, both audited."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "from appliance.cli.main import main; main()", "demo", "--output", "json"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["proven"] is True
    readings, orders = report["directions"]
    for direction in (readings, orders):
        assert (direction["lost"], direction["doubled"], direction["lag"]) == (0, 0, 0)
        assert direction["digests"] == "equal"
    assert readings["stored"] >= 2 * BURST_FACTS
    # A retry whose first answer was lost in a kill is told "duplicate", too.
    assert readings["duplicate"] >= DUPLICATES
    assert readings["rejected"] == 1
    assert readings["sent"] == readings["stored"] + readings["duplicate"] + readings["rejected"]
    assert orders["stored"] + orders["duplicate"] == orders["sent"] > 0
    assert {"normal", "autonomous", "reconciling"} <= {change["mode"] for change in report["mode_changes"]}
    assert report["processes_killed"] == len(KILLED) == 6
    for process in KILLED:
        assert f"killed {process}" in run.stderr
    assert report["conflicting_duplicate"].startswith("conflicting_duplicate")
    for zone, keys in report["keys"].items():
        assert (keys["held_by"], keys["boundary_key_certified"]) == ("swtpm", True), zone
        assert "simulated TPM vendor" in keys["tpm_vendor"]
        assert keys["sessions_renewed"] >= 4  # each service of a zone, twice
    assert report["keys"]["enterprise"]["handshakes_accepted"] >= 3
    assert report["keys"]["enterprise"]["handshakes_refused"] >= len(report["impostors"]) == 2
    assert {attempt["reason"] for attempt in report["impostors"]} == {"bad_certificate"}
    latch = report["latch"]
    assert latch["counter"] == 2
    assert 0 < latch["silent_s"] <= SESSION_S + 2
    assert latch["stored"] > 0
    for zone in ("plant-a", "enterprise"):
        audit = report["audit"][zone]
        assert audit["intact"] is True
        assert audit["facts"] >= readings["stored"] + orders["stored"]
        assert audit["receipts"] >= audit["countersigned"] > 0
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []
