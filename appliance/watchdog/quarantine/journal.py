# SPDX-License-Identifier: Apache-2.0
"""The journal of a quarantine: which steps are done, when, and what came of them. Pure.

It spares steps and remembers what they gave. It decides nothing against the TPM: a journal that is lost, damaged or
restored from an old copy of the disk changes who writes the next one, not whether the key opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.documents import (
    base64_bytes,
    base64_text,
    decimal_number,
    hex_bytes,
    parse_document,
    render_document,
)
from appliance.keys.keeper.port import Latched
from appliance.keys.tpm.public import Attestation, Digest
from appliance.watchdog.quarantine.steps import ORDER, Step
from appliance.watchdog.suspicions import SUSPICIONS, Code

FORMAT: Final = "bsfg-quarantine-1"
JOURNAL_BYTES: Final = 16 * 1024
_FIELDS: Final[Mapping[str, type]] = {
    "phase": str,
    "code": str,
    "case": str,
    "done": list,
    "counter": str,
    "statement": str,
    "signature": str,
    "evidence": str,
    "released_boot_id": str,
    "released_unix_ms": str,
}


class Phase(StrEnum):
    """How it stands."""

    QUARANTINED = "quarantined"
    RELEASED = "released"
    """Two operators released the box; it stays dark until the machine is started again."""


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was done.

    :param unix_ms: when, by the wall clock; :param boottime_ms: since the machine started; :param boot_id: which start.
    :param took_us: microseconds, of the attempt that succeeded. :param tries: how many it took in this process.
    """

    step: Step
    unix_ms: int
    boottime_ms: int
    boot_id: str
    took_us: int
    tries: int


@dataclass(frozen=True, slots=True)
class Journal:
    """How far a quarantine has come.

    :param case: the digest of its case. :param latched: what locking the key has given.
    :param evidence: the digest that operators sign over.
    :param released_boot_id: the start of the machine in which it was released; empty: it was not.
    """

    code: Code
    case: Digest
    done: tuple[Done, ...] = ()
    latched: Latched | None = None
    evidence: Digest | None = None
    phase: Phase = Phase.QUARANTINED
    released_boot_id: str = ""
    released_unix_ms: int = 0

    def has(self, step: Step) -> bool:
        """Whether a step was done."""
        return any(each.step is step for each in self.done)

    def missing(self) -> tuple[Step, ...]:
        """The steps that are left, in their order."""
        return tuple(step for step in ORDER if not self.has(step))

    def with_done(self, done: Done, latched: Latched | None = None, evidence: Digest | None = None) -> Self:
        """It, after a step; what the step gave is kept."""
        others = tuple(each for each in self.done if each.step is not done.step)
        steps = tuple(sorted((*others, done), key=lambda each: ORDER.index(each.step)))
        return replace(self, done=steps, latched=latched or self.latched, evidence=evidence or self.evidence)

    def released(self, boot_id: str, unix_ms: int) -> Self:
        """It, after two operators have released the box."""
        return replace(self, phase=Phase.RELEASED, released_boot_id=boot_id, released_unix_ms=unix_ms)

    def render(self) -> bytes:
        """The one form of this journal."""
        latched = self.latched
        return render_document(
            {
                "format": FORMAT,
                "phase": self.phase,
                "code": self.code,
                "case": self.case.hex(),
                "done": [_rendered(each) for each in self.done],
                "counter": str(latched.counter) if latched else "",
                "statement": base64_text(latched.certificate.statement) if latched else "",
                "signature": base64_text(latched.certificate.signature) if latched else "",
                "evidence": self.evidence.hex() if self.evidence else "",
                "released_boot_id": self.released_boot_id,
                "released_unix_ms": str(self.released_unix_ms),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a journal. :raises RefusedError: ``bad_document``: it is none, or says what cannot be."""
        values = parse_document(data, FORMAT, _FIELDS, JOURNAL_BYTES)
        try:
            journal = cls(
                Code(values["code"]),
                Digest(hex_bytes(values["case"], 32)),
                tuple(_done(each) for each in values["done"]),
                _latched(values),
                Digest(hex_bytes(values["evidence"], 32)) if values["evidence"] else None,
                Phase(values["phase"]),
                values["released_boot_id"],
                decimal_number(values["released_unix_ms"]),
            )
        except (ValueError, TypeError, KeyError, BsfgError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"journal: {error}") from error
        fault = journal.fault()
        if fault or journal.render() != data:
            raise RefusedError(Reason.BAD_DOCUMENT, f"journal: {fault or 'not in its one form'}")
        return journal

    def fault(self) -> str:
        """What cannot be true of a journal; empty: nothing."""
        if not SUSPICIONS[self.code].quarantines:
            return "its code does not quarantine"
        if (self.latched is not None) != self.has(Step.LOCK) or (self.evidence is not None) != self.has(Step.EVIDENCE):
            return "a step and what it gave do not agree"
        if (self.phase is Phase.RELEASED) != bool(self.released_boot_id):
            return "released, and not"
        return ""


def _rendered(done: Done) -> dict[str, Any]:
    return {
        "step": done.step,
        "unix_ms": done.unix_ms,
        "boottime_ms": done.boottime_ms,
        "boot_id": done.boot_id,
        "took_us": done.took_us,
        "tries": done.tries,
    }


def _done(values: Any) -> Done:
    numbers = [values[name] for name in ("unix_ms", "boottime_ms", "took_us", "tries")]
    if any(type(number) is not int or number < 0 for number in numbers) or not isinstance(values["boot_id"], str):
        raise ValueError("a step has numbers and the id of a boot")
    unix_ms, boottime_ms, took_us, tries = numbers
    return Done(Step(values["step"]), unix_ms, boottime_ms, values["boot_id"], took_us, tries)


def _latched(values: Mapping[str, Any]) -> Latched | None:
    if not values["counter"]:
        return None
    certificate = Attestation(base64_bytes(values["statement"]), base64_bytes(values["signature"]))
    return Latched(decimal_number(values["counter"]), certificate)
