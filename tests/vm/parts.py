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
    "boot_counting": 650,
    "command_line": 390,
    "flipped_root": 520,
    "full_var": 400,
    "hardening": 260,
    "hub_absent": 140,
    "hung": 260,
    "installer": 290,
    "killed_under_load": 510,
    "latched": 600,
    "load_options": 180,
    "older_uki": 330,
    "older_var": 290,
    "other_tpm": 180,
    "power_button": 170,
    "recovery_key": 130,
    "sandbox": 200,
    "scrub": 330,
    "secure_boot_off": 230,
    "small_memory": 300,
    "swapped_var": 370,
    "tampered": 430,
    "units_by_smbios": 180,
    "unsigned_uki": 60,
    "writable_places": 330,
    "wrong_clock": 340,
}
"""As many of them with every change as fit, chosen by its hash, so that all come up again and again. With each: seconds
that it takes on a two-core machine without KVM, and almost idle."""
METAL: Final = ("stick",)
"""On the image for boxes, profile ``metal``, which must be built first; the others want profile ``test``."""
HARNESS: Final = ("machinery", "firmware_ovmf")
"""Tests of the harness itself, and of the firmware alone; they need no image."""
BUDGET_S: Final = 660
"""What a change's part of the rotating tests may take, on that machine."""


class Part(StrEnum):
    """What to run."""

    SMOKE = "smoke"
    ROTATING = "rotating"
    METAL = "metal"
    ALL = "all"
    """But for ``metal``."""


def choose(part: Part, seed: str) -> list[str]:
    """The names of the tests of a part, in order. :param seed: for ``rotating``: the hash of the commit.

    The hash puts the rotating tests in an order; each is taken that still fits into :data:`BUDGET_S`.
    """
    if part is Part.SMOKE:
        return [*HARNESS, *SMOKE]
    if part is Part.METAL:
        return list(METAL)
    if part is Part.ALL:
        return [*HARNESS, *SMOKE, *ROTATING]
    left, chosen = BUDGET_S, []
    for name in sorted(ROTATING, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest()):
        if ROTATING[name] <= left:
            left -= ROTATING[name]
            chosen.append(name)
    return sorted(chosen)
