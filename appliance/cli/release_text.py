# SPDX-License-Identifier: Apache-2.0
"""Requests, releases and box files in plain words, and as JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from appliance.boundary.errors import DeniedError
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.release import QR_BYTES, Release, ReleaseRequest, verify
from appliance.keys.tpm.policy import BOUND_PCRS, Operators
from appliance.keys.tpm.public import ecdsa_public_of, name_of

PCR_MEANING: Final = {7: "Secure Boot", 12: "kernel command line", 13: "system extensions", 15: "identity of /var"}
"""What each bound PCR says of a box (UAPI group, Linux TPM PCR registry)."""
NEEDED: Final = 2
"""How many operators must sign."""


def size_values(data: bytes) -> dict[str, Any]:
    """How large a document is, and whether one QR code holds it."""
    return {"bytes": len(data), "fits_qr": len(data) <= QR_BYTES}


def request_values(request: ReleaseRequest, box: EnrolledBox | None) -> dict[str, Any]:
    """What a request says; with the box file, how that compares with enrolment."""
    values: dict[str, Any] = {
        "document": "request",
        "zone": request.zone,
        "device": request.device.hex(),
        "counter": request.counter,
        "pcrs": _pcrs(request.pcrs, box),
        "evidence": request.evidence.hex(),
        **size_values(request.render()),
    }
    return values if box is None else {**values, **_box(box)}


def release_values(release: Release, box: EnrolledBox | None) -> dict[str, Any]:
    """What a release says; with the box file, who signed it and whether their signatures are good."""
    signed = [_signed(release, box, place) for place in range(len(release.signatures))]
    values: dict[str, Any] = {
        "document": "release",
        "device": release.device.hex(),
        "counter": release.counter,
        "pcrs": _pcrs(release.pcrs, box),
        "evidence": release.evidence.hex(),
        "signed_by": signed,
        "complete": _complete(release, box),
        **size_values(release.render()),
    }
    return values if box is None else {"zone": box.zone, **values, **_box(box)}


def box_values(box: EnrolledBox) -> dict[str, Any]:
    """What a box file says."""
    return {
        "document": "enrolled box",
        "zone": box.zone,
        "device": box.policy.device.hex(),
        "pcrs": _pcrs(box.pcrs, None),
        "operators": operator_names(box.policy.operators),
        "attestation_key": name_of(ecdsa_public_of(box.attestation_key)).hex(),
        **_box(box),
        **size_values(box.render()),
    }


def operator_names(operators: Operators) -> list[str]:
    """The Names of the operators' keys, as ``bsfg operator keys new`` printed them."""
    return [name.hex() for name in operators.names]


def words(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines for a person."""
    lines = [("document", _title(values))]
    lines += [(name, str(values[name])) for name in ("zone", "device") if name in values]
    if "counter" in values:
        lines.append(("counter", _counter(values)))
    elif "birth_counter" in values:
        lines.append(("counter", f"{values['birth_counter']} at enrolment"))
    lines += [(f"PCR {pcr}", f"{PCR_MEANING[int(pcr)]}: {_pcr(value)}") for pcr, value in values["pcrs"].items()]
    if "evidence" in values:
        lines.append(("evidence", f"SHA-256 {values['evidence']}"))
    lines += [(f"operator {place}", name) for place, name in enumerate(values.get("operators", ()), start=1)]
    if "signed_by" in values:
        lines += _signatures(values)
    if "fingerprint" in values:
        lines.append(("box file", f"SHA-256 {values['fingerprint']}"))
    return lines


def _title(values: Mapping[str, Any]) -> str:
    fits = "fits one QR code" if values["fits_qr"] else "too large for one QR code"
    return f"{values['document']}, {values['bytes']} bytes: {fits}"


def _counter(values: Mapping[str, Any]) -> str:
    if "birth_counter" not in values:
        return str(values["counter"])
    since = values["counter"] - values["birth_counter"]
    times = "the same as" if not since else f"{since} more than"
    return f"{values['counter']}: {times} at enrolment ({values['birth_counter']})"


def _pcr(value: Mapping[str, Any]) -> str:
    if value.get("changed") is None:
        return str(value["value"])
    if not value["changed"]:
        return "as at enrolment"
    return f"CHANGED since enrolment: was {value['enrolled']}, is {value['value']}"


def _signatures(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = {True: "good", False: "DOES NOT VERIFY", None: "not checked, that needs the box file"}
    lines = [
        ("signed by", f"operator {part['operator']}{' ' + part['name'] if part['name'] else ''}: {said[part['good']]}")
        for part in values["signed_by"]
    ]
    missing = NEEDED - len(values["signed_by"])
    state = "complete" if values["complete"] else f"{missing} missing" if missing > 0 else "worth nothing"
    return [*lines, ("signatures", f"{len(values['signed_by'])} of {NEEDED}: {state}")]


def _box(box: EnrolledBox) -> dict[str, Any]:
    return {"birth_counter": box.birth_counter, "fingerprint": box.fingerprint}


def _pcrs(pcrs: Mapping[int, bytes], box: EnrolledBox | None) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for pcr in sorted(set(pcrs) & set(BOUND_PCRS)):
        found[str(pcr)] = {"value": pcrs[pcr].hex()}
        if box is not None:
            found[str(pcr)] |= {"enrolled": box.pcrs[pcr].hex(), "changed": pcrs[pcr] != box.pcrs[pcr]}
    return found


def _complete(release: Release, box: EnrolledBox | None) -> bool:
    """Whether two operators signed; without the box file, whether two say that they did."""
    if box is None:
        return len({part.operator for part in release.signatures}) == len(release.signatures) == NEEDED
    try:
        verify(box.policy, release)
    except DeniedError:
        return False
    return True


def _signed(release: Release, box: EnrolledBox | None, place: int) -> dict[str, Any]:
    part = release.signatures[place]
    if box is None:
        return {"operator": part.operator + 1, "name": None, "good": None}
    names = operator_names(box.policy.operators)
    name = names[part.operator] if 0 <= part.operator < len(names) else None
    good = release.device == box.policy.device and set(release.pcrs) == set(BOUND_PCRS)
    good = good and release.is_good(box.policy, part)
    return {"operator": part.operator + 1, "name": name, "good": good}
