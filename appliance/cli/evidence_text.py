# SPDX-License-Identifier: Apache-2.0
"""Evidence, its seal and what they prove, in plain words, and as JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from appliance.keys.keeper.values import to_json
from appliance.keys.tpm.policy import HELD_PCR
from appliance.watchdog.evidence.bundle import Bundle, Seal, SourceState, digest_of
from appliance.watchdog.evidence.verifying import Report
from appliance.watchdog.suspicions import SUSPICIONS

LAST_LINES: Final = 12
"""So many entries of the journal are shown to people; programs get all."""


def bundle_values(bundle: Bundle, data: bytes) -> dict[str, Any]:
    """What evidence says. Times are Unix milliseconds by the box's wall clock."""
    case = bundle.opened
    suspicion = SUSPICIONS[case.code]
    return {
        "document": "evidence",
        "zone": bundle.zone,
        "number": bundle.number,
        "sha256": digest_of(data).hex(),
        "bytes": len(data),
        "code": case.code.value,
        "cause": suspicion.cause,
        "detail": case.detail,
        "seen_by": case.probe.value,
        "benign": suspicion.benign,
        "next_step": suspicion.next_step,
        "opened_unix_ms": case.opened_unix_ms,
        "gathered_unix_ms": bundle.times.unix_ms,
        "boot_id": bundle.boot_id,
        "same_boot": bundle.boot_id == case.boot_id,
        "counter": bundle.latch.counter if bundle.latch is not None else None,
        "image": {**bundle.image, "version": case.image},
        "findings": [
            {"probe": reading.probe.value, "code": seen.code.value, "detail": seen.detail}
            for reading in (*case.readings, *bundle.readings)
            for seen in reading.seen
        ],
        "logs": [to_json(log) for log in bundle.logs],
        "firewall": {name: to_json(each) for name, each in bundle.firewall.items()},
        "files": dict(bundle.files),
        "journal": [to_json(line) for line in bundle.journal],
        "firmware_log_bytes": len(bundle.firmware_log),
        "runtime_log_bytes": len(bundle.runtime_log),
        "sources": [to_json(note) for note in bundle.sources],
        "withheld": bundle.withheld,
        "previous": bundle.previous,
    }


def seal_values(seal: Seal) -> dict[str, Any]:
    """What a seal says."""
    return {
        "document": "seal",
        "zone": seal.zone,
        "bundle": seal.bundle.hex(),
        "pcrs": {str(pcr): value.hex() for pcr, value in seal.pcrs.items()},
        "latched_in_this_boot": seal.pcrs.get(HELD_PCR) != bytes(32),
    }


def report_values(report: Report) -> dict[str, Any]:
    """What was proven."""
    return {
        "proven": list(report.proven),
        "boxs_word": list(report.word),
        "differs": list(report.findings),
        "zone": report.bundle.zone,
        "code": report.bundle.opened.code.value,
        "sha256": report.digest.hex(),
        "counter": report.counter,
        "image": report.image,
        "tpm_clock_ms": report.clock.clock_ms,
        "tpm_resets": report.clock.reset_count,
        "locked_at_tpm_clock_ms": report.latched_clock.clock_ms if report.latched_clock is not None else None,
        "lock": report.lock.value,
    }


def report_words(report: Report) -> list[tuple[str, str]]:
    """The lines for a person."""
    lines = [("evidence", f"SHA-256 {report.digest.hex()}"), ("zone", report.bundle.zone)]
    lines += [("proven", each) for each in report.proven]
    lines += [("DIFFERS", each) for each in report.findings]
    return lines + [("the box says", each) for each in report.word]


def words(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines for a person."""
    if values["document"] == "seal":
        return [
            ("document", f"seal of evidence SHA-256 {values['bundle']}"),
            ("zone", values["zone"]),
            ("lock", "in the boot of the seal" if values["latched_in_this_boot"] else "in an earlier boot, or none"),
        ]
    lines = [
        ("document", f"evidence {values['number']}, {values['bytes']} bytes, SHA-256 {values['sha256']}"),
        ("zone", values["zone"]),
        ("why", f"{values['code']}: {values['cause']}"),
        ("what exactly", values["detail"] or "not said"),
        ("seen by", f"the probe {values['seen_by']}"),
        ("could also be", values["benign"]),
        ("next", values["next_step"]),
        ("opened", _moment(values["opened_unix_ms"])),
        ("gathered", f"{_moment(values['gathered_unix_ms'])}{'' if values['same_boot'] else ', after another start'}"),
        ("counter", str(values["counter"]) if values["counter"] is not None else "locked before this case"),
        ("image", ", ".join(f"{name} {value}" for name, value in sorted(values["image"].items()) if value)),
    ]
    lines += [("found", f"{each['code']} by {each['probe']}: {each['detail']}") for each in _once(values["findings"])]
    lines += [("log", f"{each['name']}: {each['offset']} facts, head {each['head'] or '-'}") for each in values["logs"]]
    lines += [
        (f"source {note['name']}", f"{note['state']} {note['detail']}".strip())
        for note in values["sources"]
        if note["state"] != SourceState.PRESENT
    ]
    if values["withheld"]:
        lines.append(("withheld", f"in {values['withheld']} entries of the journal something looked like a secret"))
    lines += [
        ("journal", f"{_moment(int(line['at_us']) // 1000)} {line['unit']}: {line['text']}")
        for line in values["journal"][-LAST_LINES:]
    ]
    return [*lines, ("", "Nothing of this was checked; 'bsfg evidence verify' does that.")]


def _once(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    """Each finding once, though a probe has said it twice."""
    return list({tuple(each.values()): each for each in findings}.values())


def _moment(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(' ', 'seconds')[:19]} UTC by the box's wall clock"
