# SPDX-License-Identifier: Apache-2.0
"""The case: what put the box into quarantine, written down once, before the key is locked over its digest. Pure.

The TPM's certificate of the latch carries the digest of this document, so nobody can say later that the box was
latched for something else. It has one form only, as every document here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.documents import decimal_number, parse_document, render_document
from appliance.keys.tpm.public import Digest, sha256
from appliance.watchdog.probing import DETAIL_LENGTH, READING_BYTES, Reading, Seen
from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName

FORMAT: Final = "bsfg-case-1"
CASE_BYTES: Final = READING_BYTES * (len(ProbeName) + 1)
"""More is no case: a reading of every probe, and the rest."""
_TEXT: Final = 128
_FIELDS: Final[Mapping[str, type]] = {
    "zone": str,
    "boot_id": str,
    "opened_unix_ms": str,
    "opened_boottime_ms": str,
    "code": str,
    "detail": str,
    "probe": str,
    "readings": list,
    "image": str,
}


@dataclass(frozen=True, slots=True)
class Case:
    """Why this box is in quarantine, and what it saw of itself at that moment.

    :param boot_id: the kernel's random id of that boot.
    :param opened_unix_ms: by the wall clock, which may be wrong. :param opened_boottime_ms: since the machine started.
    :param code: what triggered it; the first one that may. :param detail: of that finding, or the operator's reason.
    :param probe: who saw it. :param readings: the last one of each probe, by name.
    :param image: the version of the system that ran.
    """

    zone: ZoneId
    boot_id: str
    opened_unix_ms: int
    opened_boottime_ms: int
    code: Code
    detail: str
    probe: ProbeName
    readings: tuple[Reading, ...]
    image: str

    def render(self) -> bytes:
        """The one form of this case."""
        return render_document(
            {
                "format": FORMAT,
                "zone": self.zone,
                "boot_id": self.boot_id,
                "opened_unix_ms": str(self.opened_unix_ms),
                "opened_boottime_ms": str(self.opened_boottime_ms),
                "code": self.code,
                "detail": self.detail,
                "probe": self.probe,
                "readings": [json.loads(each.render()) for each in self.readings],
                "image": self.image,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a case. :raises RefusedError: ``bad_document``: not in its one form."""
        values = parse_document(data, FORMAT, _FIELDS, CASE_BYTES)
        try:
            case = cls(
                parse_zone(values["zone"]),
                _text(values["boot_id"]),
                decimal_number(values["opened_unix_ms"]),
                decimal_number(values["opened_boottime_ms"]),
                Code(values["code"]),
                _text(values["detail"], DETAIL_LENGTH),
                ProbeName(values["probe"]),
                tuple(_reading(each) for each in values["readings"]),
                _text(values["image"]),
            )
        except (ValueError, TypeError, BsfgError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"case: {error}") from error
        if SUSPICIONS[case.code].probe is not case.probe or case.readings != in_order(case.readings):
            raise RefusedError(Reason.BAD_DOCUMENT, "case: another probe's code, or readings out of order")
        if case.render() != data:
            raise RefusedError(Reason.BAD_DOCUMENT, "case: not in its one form")
        return case

    def digest(self) -> Digest:
        """What the latch's certificate carries: SHA-256 of the whole document."""
        return sha256(self.render())


@dataclass(frozen=True, slots=True)
class Moment:
    """Where and when a case is opened; what no probe says."""

    zone: ZoneId
    boot_id: str
    unix_ms: int
    boottime_ms: int
    image: str


def open_case(moment: Moment, trigger: Seen, readings: Iterable[Reading]) -> Case:
    """The case of a finding. :param trigger: it may quarantine. :param readings: the last ones; of each probe one.

    :raises ValueError: this finding does not quarantine a box.
    """
    suspicion = SUSPICIONS[trigger.code]
    if not suspicion.quarantines:
        raise ValueError(f"{trigger.code} does not quarantine")
    clean = Reading.parse(Reading(suspicion.probe, (trigger,)).render())
    return Case(
        moment.zone,
        moment.boot_id,
        moment.unix_ms,
        moment.boottime_ms,
        trigger.code,
        clean.seen[0].detail,
        suspicion.probe,
        in_order(Reading.parse(each.render()) for each in readings),
        moment.image,
    )


def in_order(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """One reading of each probe, the last, by its name."""
    last = {each.probe: each for each in readings}
    return tuple(last[probe] for probe in sorted(last))


def _reading(values: Any) -> Reading:
    return Reading.parse(json.dumps(values).encode())


def _text(value: Any, length: int = _TEXT) -> str:
    if not isinstance(value, str) or len(value) > length or not value.isascii() or not (value + "x").isprintable():
        raise ValueError("not a short text")
    return value
