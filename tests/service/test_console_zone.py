# SPDX-License-Identifier: Apache-2.0
"""The page of a real zone: agent, keeper, broker and TPM at work, and what it says when each of them fails.

Real are the zone's processes and their documents; the watchdog's and the site's are written here, as they would be.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.dev.layout import PLANT, Layout
from appliance.node.documents import write_status
from tests.consoles import machine, network
from tests.processes import run

ROOT = Path(__file__).resolve().parent.parent.parent


def bsfg(*arguments: str | Path) -> str:
    """Run a command that must succeed."""
    outcome = run([sys.executable, "-m", "appliance.cli", *map(str, arguments)], cwd=ROOT, limit_s=120)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


class Box:
    """A plant zone, seen as a box."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        status = layout.zone(PLANT).status_document.parent
        machine(folder)
        network(folder)
        (folder / "run/bsfg").mkdir(parents=True)
        (folder / "run/bsfg/status").symlink_to(status)
        write_status(status, "site", {"state": "accepted", "zone": "plant-a", "version": 1, "hub": "enterprise"})

    def look(self) -> tuple[int, dict[str, Any]]:
        """``bsfg box status``: exit code and document."""
        write_status(self.folder / "run/bsfg/status", "watchdog", {"state": "open", "problems": []})
        command = [sys.executable, "-m", "appliance.cli", "box", "status", "--root", str(self.folder)]
        outcome = run([*command, "--output", "json"], cwd=ROOT, limit_s=60)
        return outcome.returncode, json.loads(outcome.stdout)

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> tuple[int, dict[str, Any]]:
        """Look until it is so."""
        end = time.monotonic() + 60
        while True:
            code, document = self.look()
            if holds(document):
                return code, document
            assert time.monotonic() < end, json.dumps(document, indent=1)
            time.sleep(0.5)


def problems(document: dict[str, Any]) -> set[str]:
    """The codes, but for the one that every development environment has."""
    return {problem["reason"] for problem in document["problems"]} - {"software_tpm", "disk_fills"}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Both zones, running."""
    folder = tmp_path_factory.mktemp("zones") / "d"
    bsfg("dev", "up", "--dir", folder, "--detach")
    try:
        yield Box(tmp_path_factory.mktemp("box"), Layout.at(folder))
    finally:
        bsfg("dev", "down", "--dir", folder, "--purge")


def test_the_page_of_a_real_zone(box: Box) -> None:
    """Working; cut off; back; its agent stopped in its tracks; working; its key locked, and local work going on."""
    zones = box.layout.root
    code, document = box.until(lambda found: found["state"] == "working")
    assert (code, document["zone"], problems(document)) == (0, "plant-a", set())
    assert document["works"] == ["produce", "consume", "send", "receive"]
    assert "software_tpm" in {problem["reason"] for problem in document["problems"]}

    bsfg("dev", "fault", "--dir", zones, "link-cut")
    code, document = box.until(lambda found: found["state"] == "on_its_own")
    assert (code, document["works"], document["stopped"]) == (0, ["produce", "consume"], ["send", "receive"])
    assert problems(document) & {"link_down", "peer_timeout"}
    assert abs(document["since_unix_ms"] / 1000 - time.time()) < 60
    bsfg("dev", "fault", "--dir", zones, "link-heal")
    box.until(lambda found: found["state"] == "working")

    agent = json.loads(box.layout.zone(PLANT).status_document.read_text())["pid"]
    os.kill(agent, signal.SIGSTOP)
    try:
        code, document = box.until(lambda found: found["state"] == "stopped")
        assert (code, problems(document)) == (3, {"agent_silent"})
        assert "produce" in document["stopped"]
    finally:
        os.kill(agent, signal.SIGCONT)
    box.until(lambda found: found["state"] == "working")

    bsfg("dev", "fault", "--dir", zones, "latch", "plant-a")
    code, document = box.until(lambda found: found["state"] == "quarantined")
    assert code == 5
    assert {"produce", "consume"} <= set(document["works"])
    code, document = box.until(lambda found: "send" in found["stopped"])
    assert (code, problems(document)) == (5, {"key_latched"}), "what follows from the latch is not told beside it"
