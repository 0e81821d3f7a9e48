# SPDX-License-Identifier: Apache-2.0
"""Which tests of virtual machines are run: a boot takes a minute or two, so not every change runs them all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

SMOKE: Final = ("first_boot", "second_boot", "modified_uki")
"""With every change."""
ROTATING: Final[Mapping[str, int]] = {
    "boot_counting": 240,
    "command_line": 360,
    "flipped_root": 300,
    "full_var": 300,
    "hardening": 150,
    "hub_absent": 180,
    "installer": 400,
    "killed_under_load": 400,
    "older_uki": 400,
    "other_tpm": 240,
    "power_button": 150,
    "recovery_key": 150,
    "sandbox": 200,
    "secure_boot_off": 300,
    "small_memory": 150,
    "swapped_var": 400,
    "tampered": 420,
    "units_by_smbios": 150,
    "unsigned_uki": 90,
    "wrong_clock": 300,
    "writable_places": 150,
}
"""As many of them with every change as fit, chosen by its hash, so that all come up again and again. With each: seconds
that it takes on an idle two-core machine without KVM."""
HARNESS: Final = ("machinery", "firmware_ovmf")
"""Tests of the harness itself, and of the firmware alone; they need no image."""
BUDGET_S: Final = 480
"""What a change's part of the rotating tests may take, on that machine."""


class Part(StrEnum):
    """What to run."""

    SMOKE = "smoke"
    ROTATING = "rotating"
    ALL = "all"


def choose(part: Part, seed: str) -> list[str]:
    """The names of the tests of a part, in order. :param seed: for ``rotating``: the hash of the commit.

    The hash puts the rotating tests in an order; each is taken that still fits into :data:`BUDGET_S`.
    """
    if part is Part.SMOKE:
        return [*HARNESS, *SMOKE]
    if part is Part.ALL:
        return [*HARNESS, *SMOKE, *ROTATING]
    left, chosen = BUDGET_S, []
    for name in sorted(ROTATING, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest()):
        if ROTATING[name] <= left:
            left -= ROTATING[name]
            chosen.append(name)
    return sorted(chosen)
