# SPDX-License-Identifier: Apache-2.0
"""A newer system that cannot start: after its tries the one before it is started again, with nobody at the box."""

from __future__ import annotations

from collections.abc import Callable

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tests.vm.refusing import opens_nothing
from tools.image.build import TRIES
from tools.vm import kernels
from tools.vm.journey import beside

OTHER_ROOT = "0" * 64


def test_a_bad_system_is_left_after_its_tries(bench: Bench, control: Callable[[], None]) -> None:
    """It is signed and newer, so it is tried first; its root is not there. The count on the ESP goes down each time."""
    control()
    hub, box = bench.hub(), bench.box()
    esp = box.disk.esp
    name = esp.uki()
    good = bench.folder / "good.efi"
    good.write_bytes(esp.read(name))
    line = kernels.command_line(good)
    bad_line = line.replace(kernels.root_hash(line), OTHER_ROOT)
    bad = kernels.variant(good, bench.folder / "parts", command_line=bad_line, version="99.0.0")
    esp.write(f"EFI/Linux/appliance-99.0.0+{TRIES}.efi", bad.read_bytes())
    for attempt in range(1, TRIES + 1):
        with box.running(f"try-{attempt}") as machine:
            opens_nothing(machine)
        assert f"EFI/Linux/appliance-99.0.0+{TRIES - attempt}-{attempt}.efi" in esp.names()
    with hub.running(), beside(box, hub, "back") as journey:
        journey.to_ready()
        assert kernels.root_hash(line) in journey.seen["cmdline"]
        stays_calm(journey.machine.agent)
        journey.machine.power_off()
    assert name in esp.names(), "the good system has kept its name: it stays blessed"
