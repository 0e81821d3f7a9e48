# SPDX-License-Identifier: Apache-2.0
"""``bsfg status``: what a hub knows of its boxes, in words."""

from __future__ import annotations

import time

import click
import pytest

from appliance.cli.status import _print_boxes
from appliance.node.status import PeerStatus, StatusDocument


def hub(*peers: PeerStatus) -> StatusDocument:
    """A hub's status document."""
    return StatusDocument("hub", "enterprise", "0", 1, True, "normal", 1, 1, 1, "tpm", peers=peers)


def test_silence_and_quarantine_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Since when a box is silent, that its attestation is stale, why it is in quarantine, and over which evidence."""
    now_ms = int(time.time() * 1000)
    quiet = PeerStatus(
        "plant-a",
        attestation="stale",
        silent_since_unix_ms=now_ms - 3_600_000,
        quarantine="quarantined",
        quarantine_code="secure_boot_off",
        evidence="ab" * 32,
    )
    well = PeerStatus("plant-b", last_call_unix_ms=now_ms, attestation="fresh", quarantine="released")
    _print_boxes([hub(quiet, well, PeerStatus("plant-c"))])
    lines = [" ".join(line.split()) for line in click.unstyle(capsys.readouterr().out).strip().splitlines()]
    assert lines[2] == f"enterprise plant-a silent for 60 min stale quarantined secure_boot_off {'ab' * 8}"
    assert lines[3] == "enterprise plant-b 0 s ago fresh released - -"
    assert len(lines) == 4
    _print_boxes([hub(PeerStatus("plant-c"))])
    assert capsys.readouterr().out == ""
