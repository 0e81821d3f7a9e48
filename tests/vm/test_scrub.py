# SPDX-License-Identifier: Apache-2.0
"""A block of the root that nobody reads is changed: the scrub reads it, and the box goes into quarantine by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from appliance.watchdog.probes.scrub import FIRST_AFTER_S
from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tools.vm import guest, pace, roots
from tools.vm.journey import quarantined

ROUND_S: Final = 120.0
"""What a round may take on an idle machine, whose disk and hashing are emulated."""


def test_a_changed_block_that_nobody_reads_is_found(bench: Bench, control: Callable[[], None]) -> None:
    """Four minutes after the start the first round begins; the kernel's word about that block is enough."""
    control()
    box = bench.box()
    roots.damage_seldom_read_file(box.disk, bench.folder / "root.raw")
    with box.running("attack") as machine:
        agent = machine.wait_agent()
        stays_calm(agent)
        wanted = FIRST_AFTER_S / pace.limit(1.0) + ROUND_S
        found = guest.wait_documents(agent, quarantined, "the scrub finds it", wanted)["watchdog"]["quarantine"]
        assert (found["code"], found["probe"]) == ("verity_corrupt", "verity")
