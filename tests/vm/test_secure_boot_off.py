# SPDX-License-Identifier: Apache-2.0
"""Secure Boot is switched off, or other keys are enrolled beside ours: PCR 7 is another, and nothing is opened."""

from __future__ import annotations

from collections.abc import Callable

from appliance.firmware.keys import SecureBootKeys
from appliance.firmware.varstore import make_vars
from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tests.vm.refusing import opens_nothing
from tools.vm.firmware import EMPTY_VARIABLES
from tools.vm.images import build_keys


def test_without_keys_nothing_is_opened(bench: Bench, control: Callable[[], None]) -> None:
    """The firmware starts anything then, also our own image; the disk stays shut."""
    control()
    box = bench.box()
    box.without_secure_boot()
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_with_keys_that_are_not_enforced_nothing_is_opened(bench: Bench, control: Callable[[], None]) -> None:
    """Our own keys, and the switch in the firmware's setup is off."""
    control()
    box = bench.box()
    make_vars(EMPTY_VARIABLES, build_keys().secure_boot, box.variables, secure_boot=False)
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_back_with_the_old_keys_it_opens_again(bench: Bench, control: Callable[[], None]) -> None:
    """Nothing was lost: the change is undone, and the box works. So the refusals above were due to the keys alone."""
    control()
    box, before = bench.box(), bench.golden.box.variables.read_bytes()
    box.without_secure_boot()
    with box.running("attack") as machine:
        opens_nothing(machine)
    box.variables.write_bytes(before)
    with box.running("undone") as machine:
        stays_calm(machine.wait_agent())


def test_keys_of_somebody_else_start_nothing_of_ours(bench: Bench, control: Callable[[], None]) -> None:
    """A firmware with another owner does not even start the boot loader."""
    from tests.vm.refusing import firmware_refuses

    control()
    box = bench.box()
    make_vars(EMPTY_VARIABLES, SecureBootKeys.create(bench.folder / "keys"), box.variables)
    with box.running("attack") as machine:
        firmware_refuses(machine)
