# SPDX-License-Identifier: Apache-2.0
"""``/var`` is full: producers hear so, nothing confirmed is lost, and when there is room the box goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tools.vm import guest, pace
from tools.vm.application import confirmed
from tools.vm.journey import beside, speaking

FILL = """
import errno, os, sys
path, left = sys.argv[1], int(sys.argv[2])
block = os.urandom(1 << 20)
written = 0
with open(path, "wb", buffering=0) as file:
    for size in (1 << 20, 1 << 12, 1):
        while True:
            try:
                written += file.write(block[:size])
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                break
    os.fsync(file.fileno())
print(written)
"""
FREE = "import os, sys; os.unlink(sys.argv[1]); os.sync()"
BALLAST = "/var/ballast"


def test_a_full_disk_is_said_and_survived(bench: Bench, control: Callable[[], None]) -> None:
    """Facts that are answered as stored while the disk is full are stored; the others hear an error, not silence."""
    control()
    hub, box = bench.hub(), bench.box()
    with hub.running(), beside(box, hub, "full") as journey:
        journey.to_ready()
        agent, application = journey.machine.agent, journey.application
        before = application.stored("before", 100)
        agent.python(FILL, BALLAST, "0", seconds=pace.limit(240))
        answers = application.append("full", 2000, patience=10)
        stored = confirmed(answers)
        heard = [answer for name, answer in answers.items() if name == "error" or name not in stored]
        assert len(stored) == 2000 or heard, "some producer heard nothing"
        agent.python(FREE, BALLAST)
        deadline = time.monotonic() + pace.limit(120)
        after: set[str] = set()
        while len(after) < 100 and time.monotonic() < deadline:
            after = confirmed(application.append("after", 100, patience=60))
        assert len(after) == 100, "the box does not go on when there is room again"
        guest.wait_documents(agent, speaking, "the box speaks to its hub again", 240)
        own = application.own()
        assert before | stored | after <= set(own), "confirmed facts are lost"
        assert len(own) == len(set(own))
        hub.wait_received(before | stored | after, "everything confirmed reaches the hub", 180)
        stays_calm(agent, "disk_full")
        journey.machine.power_off()
    with hub.running(), beside(box, hub, "again") as journey:
        journey.to_ready()
        assert set(own) <= set(journey.application.own())
        stays_calm(journey.machine.agent)
        journey.machine.power_off()
