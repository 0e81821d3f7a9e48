# SPDX-License-Identifier: Apache-2.0
"""What the watchdog tells: the values of its status document, which also answer ``bsfg quarantine status``. Pure.

In quarantine the document says what happened, since when, what was done about it, and what to do next; whoever reads
nothing else can act by it. Words for a code stand in :data:`~appliance.watchdog.suspicions.SUSPICIONS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from appliance.node.documents import problem
from appliance.watchdog.assessing import Note
from appliance.watchdog.gate import Verdict
from appliance.watchdog.quarantine.journal import Done, Journal
from appliance.watchdog.quarantine.runner import Quarantine
from appliance.watchdog.quarantine.states import Darkness
from appliance.watchdog.quarantine.steps import LADDER, ORDER, Step
from appliance.watchdog.suspicions import RELEASE_STEPS, SUSPICIONS, Code, ProbeName

RESTART: Final = "Switch the box off and on once; it speaks again when everything is proven anew."
WAIT_FOR_TPM: Final = (
    "Wait a minute: the TPM is asked. If it stays, switch the box off and on once; then call the operators."
)


class State(StrEnum):
    """What the watchdog does, for people."""

    CHECKING = "checking"
    """The box has not spoken since this watchdog began; something is not proven yet."""
    OPEN = "open"
    CLOSED = "closed"
    """It has spoken before, and may not now."""
    QUARANTINED = "quarantined"
    IN_DOUBT = "in_doubt"
    """The files of a quarantine cannot be read; it is dark until the TPM has answered."""
    RELEASED = "released"
    """Two operators have released it; it is dark until it is started again."""


DARK_STATES: Final = {
    Darkness.QUARANTINED: State.QUARANTINED,
    Darkness.IN_DOUBT: State.IN_DOUBT,
    Darkness.RELEASED: State.RELEASED,
}


def quarantine_values(quarantine: Quarantine) -> dict[str, Any]:
    """How a quarantine stands; of a box that is in none, the phase alone. Times are Unix or boot milliseconds."""
    values: dict[str, Any] = {"phase": quarantine.darkness}
    ladder = quarantine.ladder
    if quarantine.darkness is Darkness.IN_DOUBT:
        return {**values, "next_step": WAIT_FOR_TPM, "cut_problem": quarantine.cut_problem}
    if ladder is None or quarantine.darkness is Darkness.NONE:
        return values
    journal, case = ladder.journal, quarantine.case
    suspicion = SUSPICIONS[journal.code]
    released = quarantine.darkness is Darkness.RELEASED
    return {
        **values,
        "code": journal.code,
        "probe": suspicion.probe,
        "cause": suspicion.cause,
        "detail": case.detail if case is not None else "",
        "next_step": RESTART if released else suspicion.next_step,
        "way_out": [] if released else list(RELEASE_STEPS),
        "since_unix_ms": case.opened_unix_ms if case is not None else _first_ms(journal),
        "case": journal.case.hex(),
        "counter": journal.latched.counter if journal.latched is not None else None,
        "evidence": journal.evidence.hex() if journal.evidence is not None else "",
        "released_unix_ms": journal.released_unix_ms or None,
        "steps": [_step(step, journal, quarantine) for step in ORDER],
        "cut_problem": quarantine.cut_problem,
        "unwritten": quarantine.unwritten,
    }


def _first_ms(journal: Journal) -> int | None:
    return min((done.unix_ms for done in journal.done), default=None)


def _step(step: Step, journal: Journal, quarantine: Quarantine) -> dict[str, Any]:
    """One step of the ladder: done and when, or what hinders it."""
    done: Done | None = next((each for each in journal.done if each.step is step), None)
    values: dict[str, Any] = {"step": step, "does": LADDER[step].does, "done": done is not None}
    if done is not None:
        return {**values, "unix_ms": done.unix_ms, "took_us": done.took_us, "tries": done.tries}
    trouble = quarantine.ladder.troubles.get(step) if quarantine.ladder is not None else None
    if trouble is None:
        return values
    return {**values, "tries": trouble.tries, "problem": trouble.problem}


def note_values(note: Note, age_s: float, wall_ms: int) -> dict[str, Any]:
    """What is wrong besides. :param age_s: seconds since it was first seen."""
    suspicion = SUSPICIONS[note.seen.code]
    return {
        "code": note.seen.code,
        "probe": suspicion.probe,
        "response": suspicion.response,
        "cause": suspicion.cause,
        "detail": note.seen.detail,
        "next_step": suspicion.next_step,
        "since_unix_ms": wall_ms - int(age_s * 1000),
        "count": note.count,
        "lasts": note.lasts,
    }


def problems_of(quarantine: Quarantine, verdict: Verdict, notes: Iterable[Note], lease: str) -> list[dict[str, str]]:
    """Everything that is wrong, what matters most first. :param lease: what the lease's thread says."""
    found = []
    ladder = quarantine.ladder
    if ladder is not None and quarantine.darkness is Darkness.QUARANTINED:
        found.append(_suspected(ladder.journal.code, quarantine.case.detail if quarantine.case else ""))
        found += [_told(trouble.problem, f"quarantine, {step}") for step, trouble in ladder.troubles.items()]
    if quarantine.cut_problem:
        found.append(_told(quarantine.cut_problem, "quarantine, cut"))
    if quarantine.unwritten:
        found.append(problem("disk_failed", quarantine.unwritten, "quarantine"))
    for each in verdict.missing:
        known = each.reason in set(Code)
        found.append(_suspected(Code(each.reason), each.detail, each.proof) if known else _missing(each))
    found += [_suspected(note.seen.code, note.seen.detail) for note in notes]
    if lease:
        found.append(_told(lease, "lease"))
    return _each_once(found)


def _missing(finding: Any) -> dict[str, str]:
    return problem(finding.reason, finding.detail, finding.proof)


def _suspected(code: Code, detail: str, where: str = "") -> dict[str, str]:
    suspicion = SUSPICIONS[code]
    named = where if where in set(ProbeName) else suspicion.probe
    return problem(code, detail, named, suspicion.next_step)


def _told(text: str, where: str) -> dict[str, str]:
    """``reason: detail``, as errors print themselves."""
    reason, _, detail = text.partition(": ")
    return problem(reason, detail, where)


def _each_once(found: list[dict[str, str]]) -> list[dict[str, str]]:
    seen: dict[tuple[str, str], dict[str, str]] = {}
    for each in found:
        seen.setdefault((each["reason"], each["where"]), each)
    return list(seen.values())
