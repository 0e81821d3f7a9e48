# SPDX-License-Identifier: Apache-2.0
"""The latch is in the TPM: another disk under the same box, older or new, does not make it speak again.

Beside it the control of all attacks: the same disks speak in this box before it is latched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from appliance.box.states import EnrolState
from tests.vm.conftest import Bench
from tools.vm import guest, pace
from tools.vm.box import Box
from tools.vm.disk import GROWN, copy_sparse
from tools.vm.frames import Frames
from tools.vm.hardware import UPLINK_MAC
from tools.vm.hub import BenchHub
from tools.vm.images import Image
from tools.vm.journey import Journey, beside, quarantined, speaking

WATCHED_S: Final = 30.0
"""How long a box that must not speak is watched."""


def test_a_latched_box_does_not_speak_from_an_older_disk(bench: Bench, control: Callable[[], None]) -> None:
    """The disk as it was before: it knows of no quarantine. Its watchdog hears of it from the TPM, and goes dark.

    What was stored on the disk that was taken out is there when it comes back.
    """
    control()
    hub, box = bench.hub(), bench.box()
    before = bench.folder / "before.raw"
    copy_sparse(box.disk.path, before)
    with hub.running():
        kept = latch(box, hub)
        had = len(hub.received())
        latched = bench.folder / "latched.raw"
        box.disk.path.replace(latched)
        before.replace(box.disk.path)
        capture = bench.folder / "older.pcap"
        with beside(box, hub, "older", capture=capture) as journey, Frames(capture, UPLINK_MAC) as frames:
            agent = journey.machine.wait_agent()
            found = guest.wait_documents(agent, quarantined, "the older disk is in quarantine, too", 240)
            assert found["watchdog"]["quarantine"]["code"] == "key_latched"
            since = time.time() + 1
            assert journey.application.stored("older", 10)
            time.sleep(pace.limit(WATCHED_S))
            assert frames.since(since) == []
            journey.machine.kill()
        assert len(hub.received()) == had, "a fact crossed from a box that is latched"
        latched.replace(box.disk.path)
        with beside(box, hub, "back") as journey:
            agent = journey.machine.wait_agent()
            found = guest.wait_documents(agent, quarantined, "its own disk is in quarantine still", 240)
            assert found["watchdog"]["quarantine"]["code"] == "operator_request"
            assert kept <= set(journey.application.own())
            journey.machine.power_off()


def test_a_latched_box_does_not_speak_from_a_new_disk(bench: Bench, control: Callable[[], None], image: Image) -> None:
    """Flashed anew, with a new voucher of its operators: the hub knows the TPM and wants a release."""
    control()
    hub, box = bench.hub(), bench.box()
    with hub.running():
        latch(box, hub)
        had = len(hub.received())
        box.disk.path.unlink()
        copy_sparse(image.raw, box.disk.path)
        box.disk.grow(GROWN)
        hub.flash(box)
        with beside(box, hub, "new") as journey:
            agent = journey.machine.wait_agent()
            guest.wait_documents(agent, _refused, "the hub does not let the new key in", 300)
            time.sleep(pace.limit(WATCHED_S))
            assert not speaking(guest.documents(agent))
            journey.machine.power_off()
        assert len(hub.received()) == had, "a fact crossed from a box that is latched"


def _refused(found: guest.Documents) -> bool:
    return guest.state(found, "enrol") == EnrolState.REFUSED


def latch(box: Box, hub: BenchHub) -> set[str]:
    """Put a box that speaks into quarantine, and cut its power; what its plant stored meanwhile."""
    with beside(box, hub, "latch") as journey:
        journey.to_ready()
        journey.cross("before")
        return _latch(journey)


def _latch(journey: Journey) -> set[str]:
    agent = journey.machine.agent
    agent.run("/usr/bin/bsfg", "quarantine", "enter", "--reason", "a test", "--yes", seconds=pace.limit(120))
    guest.wait_documents(agent, quarantined, "the box is in quarantine", 120)
    kept = journey.application.stored("latched", 20)
    journey.machine.kill()
    return kept
