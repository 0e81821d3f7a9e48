# SPDX-License-Identifier: Apache-2.0
"""An older kernel image, signed as the new one: it starts and opens ``/var``, and its hub refuses what it measures.

It opens the disk by construction: any image of the same builder may, or no update could. What stands against it is the
smallest image number in the measurements that the builder published, which a hub takes and never gives back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.vm.conftest import Bench
from tools.vm import guest, kernels, pace
from tools.vm.box import Box
from tools.vm.images import Image
from tools.vm.journey import FACTS, beside

OLDER = "0.0.1"
QUIET_S = 60


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


def test_an_older_image_is_refused_by_the_hub(bench: Bench, image: Image, control: Callable[[], None]) -> None:
    """Facts are stored on the box as ever, and none of them reaches the hub; with the new image all of them do."""
    control()
    box, older = older_box(bench, "older")
    hub = bench.hub()
    hub.publish(older, OLDER)
    hub.publish(image.uki, image.version, only=True)
    current = bench.golden.box.disk.esp.uki()
    good = (bench.folder / "older-good.efi").read_bytes()
    with hub.running():
        with beside(box, hub, "older") as journey:
            agent = journey.machine.wait_agent()
            before = len(hub.received())
            ids = journey.application.stored("older", FACTS)
            found = guest.wait_documents(agent, refused, "the hub refuses this image", 180)
            time.sleep(pace.limit(QUIET_S))
            assert len(hub.received()) == before, "facts came from an image that is too old"
            assert found["agent"]["mode"] != "normal"
            journey.machine.power_off()
        esp = box.disk.esp
        esp.remove(esp.uki())
        esp.write(current, good)
        with beside(box, hub, "new") as journey:
            journey.to_ready()
            hub.wait_received(ids, "what was stored under the old image", 120)
            journey.machine.power_off()


def test_while_it_may_run_an_older_image_speaks(bench: Bench, image: Image, control: Callable[[], None]) -> None:
    """The control: the same image, the same hub, and only the smallest number is another."""
    control()
    box, older = older_box(bench, "older")
    hub = bench.hub()
    hub.publish(older, OLDER)
    with hub.running(), beside(box, hub, "older") as journey:
        journey.to_ready()
        journey.machine.power_off()


def refused(found: guest.Documents) -> bool:
    """The hub's answer has come to the agent."""
    problems = [problem.get("reason", "") for problem in found.get("agent", {}).get("problems", [])]
    return any(reason.startswith("attestation") for reason in problems)
