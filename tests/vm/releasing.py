# SPDX-License-Identifier: Apache-2.0
"""What the operators do with the evidence of a quarantined box, by the product's own commands, with no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from appliance.dev.offline import OPERATORS, Offline
from tools.vm.hub import ZONE, BenchHub
from tools.vm.images import ROOT


def signed_by_both(hub: BenchHub, request: Path, evidence: Path, folder: Path) -> Path:
    """Verify the evidence as one of the hub's box, and have both operators sign; the release. The seal is beside it."""
    signed, box_file = folder / "release.json", folder / "box.json"
    bsfg("hub", "boxes", "export", ZONE, "--out", str(box_file), "--office", str(hub.alone.office.path))
    verdict = bsfg("evidence", "verify", str(evidence), "--box", str(box_file), "--output", "json")
    assert json.loads(verdict), "the evidence of the box is verified offline"
    offline = Offline(hub.alone.environment.layout.offline)
    for name in OPERATORS:
        bsfg(
            *("release", "sign", str(signed), "--box", str(box_file), "--request", str(request), "--yes"),
            *("--key", str(offline.operator_file(name)), "--evidence", str(evidence)),
            *("--passphrase-file", str(offline.passphrase_file)),
        )
    return signed


def bsfg(*command: str) -> str:
    """One of the product's commands on this host, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "appliance.cli", *command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, f"bsfg {' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout
