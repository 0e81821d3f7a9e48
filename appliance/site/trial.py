# SPDX-License-Identifier: Apache-2.0
"""A new configuration is on trial: without contact with the hub within ten minutes it is taken back.

No clock, no file: times are seconds of the boottime clock, given by the caller; boots are told apart by their id. Only
time in which the box runs counts, and it goes on counting after a reboot.

====== ============================= =======
state  when                          then
====== ============================= =======
trial  contact                       kept
trial  600 s have been spent         reverted
trial  another boot id               trial; at least 30 s of the old boot count
====== ============================= =======
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

LIMIT_S: Final = 600.0
"""How long a new configuration has."""
LEAST_BOOT_S: Final = 30.0
"""What a boot costs at least: one that a configuration brings down at once must not go on for ever."""


class Verdict(StrEnum):
    """What becomes of a configuration on trial."""

    WAIT = "wait"
    KEEP = "keep"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    :param digest: of the document on trial. :param boot: id of the boot in which it was last noted.
    :param spent_s: what was spent before ``since_s``. :param booted_s: what of it was spent in this boot.
    :param since_s: boottime when this was noted.
    """

    digest: str
    version: int
    boot: str
    spent_s: float
    booted_s: float
    since_s: float

    @classmethod
    def begin(cls, digest: str, version: int, boot: str, now: float) -> Trial:
        """A configuration was taken just now."""
        return cls(digest, version, boot, 0.0, 0.0, now)

    def noted(self, boot: str, now: float) -> Trial:
        """The same, as of now; to be kept on disk now and then, and at the start of each boot."""
        if boot != self.boot:
            spent = self.spent_s + max(0.0, LEAST_BOOT_S - self.booted_s)
            # the boottime clock began with the boot, and all of it counts
            return replace(self, boot=boot, spent_s=spent + now, booted_s=now, since_s=now)
        passed = max(0.0, now - self.since_s)
        return replace(self, spent_s=self.spent_s + passed, booted_s=self.booted_s + passed, since_s=now)

    def left(self, boot: str, now: float) -> float:
        """Seconds that are left; 0 or more."""
        return max(0.0, LIMIT_S - self.noted(boot, now).spent_s)

    def verdict(self, boot: str, now: float, *, contact: bool) -> Verdict:
        """What is to be done. Contact counts however late it is noticed: the way to the hub works."""
        if contact:
            return Verdict.KEEP
        return Verdict.WAIT if self.left(boot, now) > 0 else Verdict.REVERT

    def document(self) -> dict[str, Any]:
        """As it is kept on disk."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def parse(cls, values: Any) -> Trial:
        """What :meth:`document` made. :raises ValueError: anything else."""
        kinds = {"digest": str, "version": int, "boot": str, "spent_s": float, "booted_s": float, "since_s": float}
        if not isinstance(values, dict) or values.keys() != kinds.keys():
            raise ValueError("not a trial")
        if not all(type(values[name]) is kind for name, kind in kinds.items()):
            raise ValueError("not a trial: a field has another type")
        return cls(**values)
