# SPDX-License-Identifier: Apache-2.0
"""Which tests of virtual machines are run: a boot takes a minute or two, so not every change runs them all."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

SMOKE: Final = ("first_boot", "second_boot", "modified_uki")
"""With every change."""
ROTATING: Final = (
    "boot_counting",
    "command_line",
    "flipped_root",
    "full_var",
    "hardening",
    "hub_absent",
    "killed_under_load",
    "older_uki",
    "other_tpm",
    "power_button",
    "recovery_key",
    "sandbox",
    "secure_boot_off",
    "small_memory",
    "swapped_var",
    "units_by_smbios",
    "unsigned_uki",
    "writable_places",
    "wrong_clock",
)
"""Two of them with every change, chosen by its hash, so that all come up again and again."""
HARNESS: Final = ("machinery", "firmware_ovmf")
"""Tests of the harness itself, and of the firmware alone; they need no image."""
PER_CHANGE: Final = 2


class Part(StrEnum):
    """What to run."""

    SMOKE = "smoke"
    ROTATING = "rotating"
    ALL = "all"


def choose(part: Part, seed: str) -> list[str]:
    """The names of the tests of a part, in order. :param seed: for ``rotating``: the hash of the commit."""
    if part is Part.SMOKE:
        return [*HARNESS, *SMOKE]
    if part is Part.ALL:
        return [*HARNESS, *SMOKE, *ROTATING]
    ranked = sorted(ROTATING, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
    return sorted(ranked[:PER_CHANGE])
