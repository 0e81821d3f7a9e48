# SPDX-License-Identifier: Apache-2.0
"""The fleet as a hub knows it, and evidence that is brought to the hub; for ``bsfg hub``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.output import age
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.store import Box, Quarantine
from appliance.hub.fleet import Fleet, Heard
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.enrolment.rules import BoxState
from appliance.watchdog.evidence.bundle import Bundle
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.evidence.verifying import verify


def fleet_values(office: EnrolmentOffice, boxes: Sequence[Box], now_ms: int | None = None) -> list[dict[str, Any]]:
    """All boxes. Times are Unix milliseconds by the hub's wall clock; 0: never, or not known."""
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    fleet, quarantines = Fleet.read(office.folder.fleet, now), office.quarantines()
    return [_box_values(box, fleet, quarantines.get(box.fingerprint), now) for box in boxes]


def _box_values(box: Box, fleet: Fleet, quarantine: Quarantine | None, now_ms: int) -> dict[str, Any]:
    counts = box.state in {BoxState.ENROLLED, BoxState.QUARANTINED}
    heard = fleet.zones.get(box.zone, Heard()) if counts else Heard()
    return {
        "zone": box.zone,
        "state": box.state.value,
        "fingerprint": box.fingerprint,
        "vendor": box.record.vendor if box.record is not None else "",
        "changed_unix_ms": box.changed_unix_ms,
        "reason": box.note,
        "heard_unix_ms": heard.unix_ms,
        "silent_since_unix_ms": heard.silent_since(now_ms),
        "attestation": heard.attestation if fleet.running else "",
        "quarantine": None if quarantine is None else _quarantine_values(box, quarantine),
    }


def _quarantine_values(box: Box, found: Quarantine) -> dict[str, Any]:
    return {
        "state": "quarantined" if box.state is BoxState.QUARANTINED else "released" if found.released_unix_ms else "",
        "counter": found.counter,
        "code": found.code,
        "evidence": found.evidence,
        "opened_unix_ms": found.opened_unix_ms,
        "known_unix_ms": found.known_unix_ms,
        "released_unix_ms": found.released_unix_ms,
    }


def fleet_rows(values: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The lines of a table."""
    return [
        [
            each["zone"],
            each["state"],
            each["fingerprint"][:16],
            _moment(each["changed_unix_ms"]),
            _silence(each),
            each["attestation"] or "-",
            _quarantine(each["quarantine"]),
            each["reason"],
        ]
        for each in values
    ]


def _silence(values: Mapping[str, Any]) -> str:
    if since := values["silent_since_unix_ms"]:
        return f"SILENT since {_moment(since)}"
    return f"{age(time.time() - values['heard_unix_ms'] / 1000)} ago" if values["heard_unix_ms"] else "-"


def _quarantine(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    evidence = f"evidence {found['evidence'][:16]}".rstrip()
    what = f"{found['code']}, {evidence}" if found["code"] else f"{evidence} not imported"
    when = f" {_moment(found['released_unix_ms'])}" if found["released_unix_ms"] else ""
    return f"{found['state']}{when}: {what}".strip()


def take_evidence(office: EnrolmentOffice, bundle: bytes, seal: bytes) -> dict[str, Any]:
    """Check a bundle against the zone's box, keep it, and mark the box. What came of it.

    :raises RefusedError: ``bad_document``; ``unknown_box``: the zone has none.
    :raises DeniedError: ``bad_evidence``: it is not of the box that has the zone, or was changed.
    """
    zone = Bundle.parse(bundle).zone
    box = office.of_zone(zone)
    if box is None or box.record is None:
        raise RefusedError(Reason.UNKNOWN_BOX, f"zone {zone} has no box")
    enrolled = box.record.for_release()
    published = _measurements(office)
    if published is not None and not published.signed_by(enrolled.policy.image_key):
        published = None  # of another builder; what is proven does not depend on them
    report = verify(bundle, seal, enrolled, published)
    if report.bundle.latch is None and report.counter <= enrolled.birth_counter:
        raise DeniedError(Reason.BAD_EVIDENCE, "the key was never locked: this is no evidence of a quarantine")
    store = EvidenceStore(office.folder.evidence / zone)
    if store.find(report.digest) is None:
        store.add(bundle, seal)
    case = report.bundle.opened
    stands = office.quarantine(
        zone,
        report.counter,
        code=case.code.value,
        evidence=report.digest.hex(),
        opened_unix_ms=case.opened_unix_ms,
    )
    return {
        "zone": zone,
        "state": BoxState.QUARANTINED.value if stands else "released before",
        "code": case.code.value,
        "counter": report.counter,
        "evidence": report.digest.hex(),
        "image": report.image,
        "differs": list(report.findings),
    }


def _measurements(office: EnrolmentOffice) -> Measurements | None:
    """What the hub has of its builder, if it is there; evidence is proven without it."""
    try:
        return Measurements.parse(office.folder.measurements.read_bytes())
    except (OSError, RefusedError):
        return None


def _moment(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(" ", "minutes")[:16]
