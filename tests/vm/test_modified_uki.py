# SPDX-License-Identifier: Apache-2.0
"""One bit of the kernel image is changed on the ESP: the firmware does not start it, whichever part it is in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.vm.conftest import Bench
from tests.vm.refusing import firmware_refuses
from tools.vm import pe


@pytest.mark.parametrize("part", [".cmdline", ".initrd", ".linux"])
def test_a_changed_kernel_image_is_not_started(part: str, bench: Bench, control: Callable[[], None]) -> None:
    """The firmware says so; no kernel runs."""
    control()
    box = bench.box()
    esp = box.disk.esp
    name = esp.uki()
    good = esp.read(name)
    esp.write(name, pe.changed(good, part, -1))
    assert esp.read(name) != good
    with box.running("attack") as machine:
        firmware_refuses(machine)
