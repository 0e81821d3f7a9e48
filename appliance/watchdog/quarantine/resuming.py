# SPDX-License-Identifier: Apache-2.0
"""Whether a box that was just switched on, or whose watchdog was started again, is in quarantine. Pure.

Three memories are asked: the disk (case and journal), the kernel (the uplink is dark since before this process), and
the TPM, which the keeper speaks for. The first two only make the answer come sooner: where they are lost or damaged
the TPM decides, and until it has answered nothing leaves the box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appliance.keys.keeper.port import KeeperState
from appliance.watchdog.quarantine.case import Case
from appliance.watchdog.quarantine.journal import Journal, Phase
from appliance.watchdog.quarantine.steps import Step
from appliance.watchdog.suspicions import SUSPICIONS, Code

DOUBT: Final = "in_doubt"
"""Why a box is dark that does not know yet."""


class Standing(StrEnum):
    """What is to be done at the start."""

    FREE = "free"
    """Nothing says that it is quarantined; it may speak when everything is proven."""
    GO_ON = "go_on"
    """It is quarantined, and the missing steps are done."""
    ANEW = "anew"
    """It is quarantined, and its case is lost: another one is opened, and all steps are done again."""
    IN_DOUBT = "in_doubt"
    """What is on the disk cannot be read; it is dark until the TPM has answered."""
    AWAITS_RESTART = "awaits_restart"
    """It was released since the machine was started; it is dark until the next start."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What was found at the start.

    :param damaged: a file of the quarantine is there and is none.
    :param dark: why the uplink is dark in this kernel; empty: it does not say; ``None``: it is not dark.
    """

    boot_id: str
    case: Case | None = None
    journal: Journal | None = None
    damaged: bool = False
    dark: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """How it goes on. :param code: what a new case is opened for. :param case, journal: what is kept."""

    standing: Standing
    code: Code | None = None
    detail: str = ""
    case: Case | None = None
    journal: Journal | None = None


def start_of(found: Memory) -> Start:
    """How a watchdog begins: by the first rule that holds."""
    return next(start for rule in RULES if (start := rule(found)) is not None)


def _journaled(found: Memory) -> Start | None:
    """The journal says quarantined."""
    case, journal = found.case, found.journal
    if journal is None or journal.phase is not Phase.QUARANTINED:
        return None
    if case is not None and case.digest() == journal.case:
        return Start(Standing.GO_ON, journal.code, case.detail, case, journal)
    if journal.has(Step.EVIDENCE):  # which holds the case
        return Start(Standing.GO_ON, journal.code, "", None, journal)
    return Start(Standing.ANEW, journal.code, "the case was lost from the disk")


def _opened(found: Memory) -> Start | None:
    """A case was opened, and it ended before the journal was written."""
    case, journal = found.case, found.journal
    if case is None or found.damaged or (journal is not None and case.digest() == journal.case):
        return None
    return Start(Standing.GO_ON, case.code, case.detail, case, Journal(case.code, case.digest()))


def _released(found: Memory) -> Start | None:
    """It was released since the machine was started."""
    journal = found.journal
    if journal is None or journal.released_boot_id != found.boot_id:
        return None
    return Start(Standing.AWAITS_RESTART, journal.code, "", found.case, journal)


def _cut(found: Memory) -> Start | None:
    """The uplink is dark, and it ended before anything was written; or the files were removed since."""
    if found.dark is None or found.dark == DOUBT:
        return None
    return Start(Standing.ANEW, *_remembered(found.dark))


def _doubtful(found: Memory) -> Start | None:
    """Something is there, and cannot be read."""
    return Start(Standing.IN_DOUBT) if found.damaged or found.dark == DOUBT else None


def _free(found: Memory) -> Start | None:
    """Nothing says anything; or it was released, and the machine was started again."""
    return Start(Standing.FREE, journal=found.journal)


RULES: Final[tuple[Callable[[Memory], Start | None], ...]] = (_journaled, _opened, _released, _cut, _doubtful, _free)
"""In their order; the last one always holds."""


def _remembered(dark: str) -> tuple[Code, str]:
    """Code and detail of a case whose only trace is in the kernel."""
    if dark in set(Code) and SUSPICIONS[Code(dark)].quarantines:
        return Code(dark), "the watchdog ended before it had written this down"
    return Code.QUARANTINE_FORGOTTEN, dark


class Answer(StrEnum):
    """What the TPM says to a doubt."""

    LOCKED = "locked"
    FREE = "free"
    WAIT = "wait"


def answer_of(state: KeeperState) -> Answer:
    """What the keeper's state says: only a TPM that has shown that the key opens ends a doubt."""
    if state is KeeperState.LATCHED:
        return Answer.LOCKED
    free = {KeeperState.READY, KeeperState.NOT_ENROLLED, KeeperState.TIME_UNKNOWN}
    return Answer.FREE if state in free else Answer.WAIT
