# SPDX-License-Identifier: Apache-2.0
"""The ladder into quarantine, as a table: what is done, in which order, and why in this one. Data.

``docs/reference/quarantine.md`` is made from it, and a test compares what the watchdog does with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Step(StrEnum):
    """The steps, in their order."""

    CUT = "cut"
    CASE = "case"
    LOCK = "lock"
    EVIDENCE = "evidence"
    TOLD = "told"


@dataclass(frozen=True, slots=True)
class Rung:
    """One step.

    :param does: in plain words. :param why_here: why not earlier or later. :param again: why it may be done twice.
    :param fails: what happens while it cannot be done.
    :param waits: whether the next step waits for it.
    """

    does: str
    why_here: str
    again: str
    fails: str
    waits: bool = True


LADDER: Final[Mapping[Step, Rung]] = {
    Step.CUT: Rung(
        does="the lease ends and the uplink goes dark in one transaction of the kernel, in the task that heard of it; "
        "then a wall is built beside the firewall",
        why_here="nothing may leave while the rest is done; it needs neither the disk nor the TPM",
        again="an element that stands in a set is put there once more",
        fails="where the firewall is not whole the wall alone must do; the lease's own thread tries each second, "
        "and the lease ends by itself within five",
        waits=False,
    ),
    Step.CASE: Rung(
        does="what triggered it, and the last reading of each probe, are written to the disk",
        why_here="the lock is certified over its digest, so nobody can say later that it was for something else",
        again="the file is replaced by the same one",
        fails="a disk that takes nothing keeps nobody from locking the key; the case is in memory and written later",
        waits=False,
    ),
    Step.LOCK: Rung(
        does="the TPM's counter is incremented and certified over the case, PCR 14 is extended, and sessions end",
        why_here="from here on it outlives the machine: the TPM itself refuses the boundary key",
        again="the keeper sees by the counter that it is locked already, and counts no further",
        fails="it is tried for ever, with growing pauses; the keeper uses the key for nothing meanwhile",
    ),
    Step.EVIDENCE: Rung(
        does="what the box can show is gathered, sealed by a quote and the certified counter, and kept",
        why_here="it holds the certificate of the lock, and operators sign over its digest",
        again="a second bundle is kept beside the first one; the last one counts",
        fails="it is tried for ever, with growing pauses; without it there is no release",
    ),
    Step.TOLD: Rung(
        does="the status says quarantined, with the code, the case, the evidence and the next step",
        why_here="whoever reads it finds all that a release takes; that the box is dark is told from the first second",
        again="the status is written each second anyway",
        fails="a full memory file system keeps nobody from anything else",
    ),
}
"""The table. What it does not say the watchdog does not do."""

ORDER: Final = tuple(LADDER)
