# SPDX-License-Identifier: Apache-2.0
"""The ladder's state: which step is due, and when one that failed is tried again. Pure; steps are done elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from appliance.boundary.errors import DeniedError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import Latched
from appliance.keys.release import Release
from appliance.keys.tpm.public import Digest
from appliance.watchdog.quarantine.journal import Done, Journal, Phase
from appliance.watchdog.quarantine.steps import LADDER, ORDER, Step

PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before the next attempt at a step that failed; the last one for ever."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a step is not done yet. :param again_at: when it is tried again, in the caller's clock."""

    problem: str
    tries: int
    again_at: float


@dataclass(slots=True)
class Ladder:
    """One quarantine on its way. Times are seconds of any clock that only grows."""

    journal: Journal
    troubles: dict[Step, Trouble] = field(default_factory=dict)

    def due(self, now: float) -> Step | None:
        """The next step to be done now; ``None``: none is due yet, or all are done.

        A step that others need not wait for does not hold them up while it is tried again.
        """
        for step in self.journal.missing():
            trouble = self.troubles.get(step)
            if trouble is None or now >= trouble.again_at:
                return step
            if LADDER[step].waits:
                return None
        return None

    def wait_s(self, now: float) -> float | None:
        """How long until a step is due; ``None``: all are done."""
        if self.due(now) is not None:
            return 0.0
        waits = []
        for step in self.journal.missing():
            waits.append(self.troubles[step].again_at - now)
            if LADDER[step].waits:
                break
        return max(0.0, min(waits)) if waits else None

    def succeeded(self, done: Done, latched: Latched | None = None, evidence: Digest | None = None) -> None:
        """A step was done."""
        self.troubles.pop(done.step, None)
        self.journal = self.journal.with_done(done, latched, evidence)

    def failed(self, step: Step, problem: str, now: float) -> None:
        """A step could not be done; it is tried again, for ever."""
        tries = self.tries(step) + 1
        self.troubles[step] = Trouble(problem, tries, now + PAUSES_S[min(tries, len(PAUSES_S)) - 1])

    def tries(self, step: Step) -> int:
        """How often a step has failed in this process."""
        return self.troubles[step].tries if step in self.troubles else 0

    def check_release(self, document: bytes) -> Release:
        """A release that answers this quarantine, by what the watchdog knows; the TPM checks the signatures.

        :raises RefusedError: ``bad_release``: it is none; ``not_quarantined``: the box was released already.
        :raises UnavailableError: ``not_ready``: there is nothing yet that operators could have signed.
        :raises DeniedError: ``bad_release``: for other evidence, or another counter.
        """
        if self.journal.phase is Phase.RELEASED:
            raise RefusedError(Reason.NOT_QUARANTINED, "the box is released already; it waits for a restart")
        release = Release.parse(document)
        if self.journal.evidence is None or self.journal.latched is None:
            left = ", ".join(step for step in ORDER if not self.journal.has(step))
            raise UnavailableError(Reason.NOT_READY, f"not done yet: {left}")
        if release.evidence != self.journal.evidence:
            raise DeniedError(
                Reason.BAD_RELEASE,
                f"over evidence {release.evidence.hex()[:16]}; this box has {self.journal.evidence.hex()[:16]}",
            )
        counter = self.journal.latched.counter
        if release.counter != counter:
            raise DeniedError(Reason.BAD_RELEASE, f"it is for counter {release.counter}; here it is {counter}")
        return release
