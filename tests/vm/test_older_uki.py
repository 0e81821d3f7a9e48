# SPDX-License-Identifier: Apache-2.0
"""An older kernel image, signed as the new one: it starts and opens ``/var``, and its hub refuses what it measures.

It opens the disk by construction: any image of the same builder may, or no update could. What stands against it is the
smallest image number in the measurements that the builder published, which a hub takes and never gives back.
"""

from __future__ import annotations

import time
from pathlib import Path

from tests.vm.conftest import Bench
from tools.vm import guest, kernels, pace
from tools.vm.box import Box
from tools.vm.images import Image
from tools.vm.journey import FACTS, beside

OLDER = "0.0.1"
QUIET_S = 30


def older_box(bench: Bench, name: str) -> tuple[Box, Path]:
    """A box whose only kernel image is an older one, and that image."""
    box = bench.box(name)
    esp = box.disk.esp
    current = esp.uki()
    good = bench.folder / f"{name}-good.efi"
    good.write_bytes(esp.read(current))
    older = kernels.variant(good, bench.folder / f"{name}-parts", version=OLDER)
    esp.remove(current)
    esp.write(f"EFI/Linux/appliance-{OLDER}.efi", older.read_bytes())
    return box, older


def test_an_older_image_is_refused_by_the_hub(bench: Bench, image: Image) -> None:
    """While it may run it speaks; when it may not any more, facts are stored on the box, and none reaches the hub.

    With the new image all of them do. The smallest number is the only thing that is changed in between, so the first
    part is the control. The hub starts anew with it, and asks every box what it runs.
    """
    box, older = older_box(bench, "older")
    hub = bench.hub()
    hub.publish(older, OLDER)
    current = bench.golden.box.disk.esp.uki()
    good = (bench.folder / "older-good.efi").read_bytes()
    with beside(box, hub, "older") as journey:
        with hub.running():
            journey.to_ready()
            journey.cross("allowed")
        hub.publish(image.uki, image.version, only=True)
        with hub.running():
            agent = journey.machine.agent
            found = guest.wait_documents(agent, refused, "the hub refuses this image", 180)
            before = len(hub.received())
            ids = journey.application.stored("older", FACTS)
            time.sleep(pace.limit(QUIET_S))
            assert len(hub.received()) == before, "facts came from an image that is too old"
            assert found["agent"]["mode"] != "normal"
            journey.machine.power_off()
    esp = box.disk.esp
    esp.remove(esp.uki())
    esp.write(current, good)
    with hub.running(), beside(box, hub, "new") as journey:
        journey.to_ready()
        hub.wait_received(ids, "what was stored under the old image", 120)
        journey.machine.power_off()


def refused(found: guest.Documents) -> bool:
    """The hub's answer has come to the agent."""
    problems = {problem.get("reason", "") for problem in found.get("agent", {}).get("problems", [])}
    return "attestation_failed" in problems
