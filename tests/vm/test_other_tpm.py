# SPDX-License-Identifier: Apache-2.0
"""The disk is put into another box, or the TPM is exchanged or taken out: nothing is opened."""

from __future__ import annotations

from collections.abc import Callable

from tests.vm.conftest import Bench
from tests.vm.refusing import opens_nothing
from tools.vm.machine import Machine


def test_a_disk_does_not_open_beside_another_tpm(bench: Bench, control: Callable[[], None]) -> None:
    """Of the same vendor, in the same firmware with the same keys."""
    control()
    box = bench.box()
    box.other_tpm(bench.golden.vendor)
    with box.running("attack") as machine:
        opens_nothing(machine, to_the_end=True)


def test_a_disk_does_not_open_without_a_tpm(bench: Bench, control: Callable[[], None]) -> None:
    """There is no other way in: nobody is asked for a passphrase."""
    control()
    box = bench.box()
    with Machine(box.hardware(None), box.folder, "attack") as machine:
        opens_nothing(machine)


def test_back_in_its_own_box_the_disk_opens(bench: Bench, control: Callable[[], None]) -> None:
    """The attempts above have spoiled nothing, and counted nothing."""
    control()
    box, guest = bench.box(), bench.box("guest")
    guest.other_tpm(bench.golden.vendor)
    with Machine(guest.hardware(None), guest.folder, "attack") as machine:
        opens_nothing(machine)
    guest.disk.path.replace(box.disk.path)
    with box.running("home") as machine:
        machine.wait_agent()
