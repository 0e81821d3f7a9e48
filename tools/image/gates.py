# SPDX-License-Identifier: Apache-2.0
"""How large an image may become. What is over its limit ends the build: a slot that is full cannot take an update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.flash.verity import BLOCK, VeritySuperblock
from tools.image.errors import BuildError
from tools.image.uki import MAXIMUM_BYTES as UKI_BYTES

MB: Final = 10**6
PACKED_BYTES: Final[Mapping[str, int]] = {"cloud": 150 * MB, "test": 150 * MB, "metal": 400 * MB}
SLOT_BYTES: Final = 1 << 30
VERITY_BYTES: Final = 16 << 20
FILLED: Final = 0.70
"""How full a slot may be; the rest is for what later versions need."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A size and its limit, both in bytes."""

    name: str
    value: int
    limit: int

    @property
    def holds(self) -> bool:
        """Whether the size is within its limit."""
        return self.value <= self.limit

    def __str__(self) -> str:
        share = 100 * self.value / self.limit
        return f"{self.name}: {self.value / MB:.1f} MB of {self.limit / MB:.1f} MB ({share:.0f} %)"


def gates(profile: str, out: Path, packed: Path | None) -> list[Gate]:
    """All gates of an image that was built.

    :param out: its folder. :param packed: the compressed image, if there is one.
    """
    with (out / "appliance.verity.raw").open("rb") as file:
        tree = VeritySuperblock.parse(file.read(BLOCK))
    return [
        *([Gate("compressed image", packed.stat().st_size, PACKED_BYTES[profile])] if packed else []),
        Gate("kernel image", (out / "appliance.efi").stat().st_size, UKI_BYTES),
        Gate("root in its slot", tree.data_bytes, int(SLOT_BYTES * FILLED)),
        Gate("hash tree in its slot", tree.tree_bytes(), int(VERITY_BYTES * FILLED)),
    ]


def check(found: Iterable[Gate]) -> list[str]:
    """A line for each gate. :raises BuildError: one does not hold; all that do not are named."""
    listed = list(found)
    if over := [str(gate) for gate in listed if not gate.holds]:
        raise BuildError(
            "the image is too large:\n  " + "\n  ".join(over),
            "'make image-report' names the largest files; limits are in tools/image/gates.py",
        )
    return [str(gate) for gate in listed]
