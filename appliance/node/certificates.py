# SPDX-License-Identifier: Apache-2.0
"""When certificates end, and when somebody should hear of it: one rule per kind of certificate. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from appliance.boundary.reasons import Reason
from appliance.keys.certificates import BACKDATE
from appliance.node.status import CertificateStatus, Problem

DAY_S: Final = 86_400


class CertificateKind(StrEnum):
    """What a certificate is for."""

    SESSION = "session"
    DEVICE_CA = "device_ca"
    HUB_CA = "hub_ca"
    LOCAL = "local"


class Alarm(StrEnum):
    """Whether somebody should look."""

    NONE = ""
    SOON = "soon"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class AlarmRule:
    """From when on a kind is a problem, and what to do then.

    :param left_s: less than so much time left is a problem.
    """

    left_s: int
    hint: str


RULES: Final = {
    CertificateKind.SESSION: AlarmRule(
        180, "it is renewed at half its life, so renewal fails: see the keeper's state; local work goes on"
    ),
    CertificateKind.DEVICE_CA: AlarmRule(30 * DAY_S, "enrol the box again: 'bsfg enrol'; it keeps its key"),
    CertificateKind.HUB_CA: AlarmRule(
        90 * DAY_S,
        "plan a new hub CA: every box must be enrolled again under it; nothing crosses once this one has ended",
    ),
    CertificateKind.LOCAL: AlarmRule(14 * DAY_S, "renew it: 'bsfg credential'; local TLS clients refuse it after that"),
}


def describe(name: str, kind: CertificateKind, certificate: x509.Certificate, now: float | None) -> CertificateStatus:
    """What a status document says of a certificate.

    :param now: Unix seconds, boundary time (wall clock for local ones); ``None``: unknown, so nothing is said of what
        is left.
    """
    ends_at = certificate.not_valid_after_utc.timestamp()
    life_s = ends_at - certificate.not_valid_before_utc.timestamp() - BACKDATE.total_seconds()
    remaining_s = None if now is None else int(ends_at - now)
    alarm = _alarm(kind, remaining_s, life_s)
    return CertificateStatus(name, kind, common_name(certificate), int(ends_at * 1000), remaining_s, alarm)


def limited(name: str, kind: CertificateKind, ends_at: float, remaining_s: int | None) -> CertificateStatus:
    """As :func:`describe`, for a certificate of which only its end is known (Unix seconds)."""
    alarm = _alarm(kind, remaining_s, RULES[kind].left_s / 0.4)
    return CertificateStatus(name, kind, name, int(ends_at * 1000), remaining_s, alarm)


def problems(certificates: Iterable[CertificateStatus]) -> list[Problem]:
    """A problem for each certificate with an alarm."""
    found = []
    for one in certificates:
        if one.alarm:
            left = "has ended" if one.alarm == Alarm.ENDED else f"ends in {_span(one.remaining_s or 0)}"
            hint = RULES[CertificateKind(one.kind)].hint
            found.append(Problem(Reason.CERTIFICATE_ENDS, f"{one.subject} {left}", hint, f"certificate {one.name}"))
    return found


def common_name(certificate: x509.Certificate) -> str:
    """What people call it; it decides nothing."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()


def _alarm(kind: CertificateKind, remaining_s: int | None, life_s: float) -> Alarm:
    if remaining_s is None:
        return Alarm.NONE
    if remaining_s <= 0:
        return Alarm.ENDED
    # One that was made for a short life must not be born with an alarm: half of it is when renewal is due.
    return Alarm.SOON if remaining_s < min(RULES[kind].left_s, life_s * 0.4) else Alarm.NONE


def _span(seconds: int) -> str:
    for size, unit in ((DAY_S, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
