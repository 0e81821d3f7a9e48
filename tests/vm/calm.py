# SPDX-License-Identifier: Apache-2.0
"""What a box must say of itself when nobody has attacked it, whatever befell it: it is in no quarantine."""

from __future__ import annotations

import json

from tools.vm import guest, pace
from tools.vm.agent import Agent


def stays_calm(agent: Agent, *notes: str) -> None:
    """The box is in no quarantine, and its watchdog has noted nothing but these codes.

    A quarantine ends by a release alone, so what is asked at the end of a test is true of all of it. The watchdog is
    asked itself, by the command that people use, and not only its document read.
    """
    found = guest.wait_documents(agent, _watching, "the watchdog is up, and no probe is blind", 180)["watchdog"]
    assert found["quarantine"]["phase"] == "none", found["quarantine"]
    done = agent.run("/usr/bin/bsfg", "quarantine", "status", "--output", "json", seconds=pace.limit(60))
    assert done.code == 0, done.text + done.err.decode("utf-8", "replace")
    said = json.loads(done.text)
    assert said["phase"] == "none"
    assert {note["code"] for note in said["notes"]} <= set(notes), said["notes"]


def _watching(found: guest.Documents) -> bool:
    return guest.state(found, "watchdog") != "" and guest.state(found, "sensor") == "looking"
