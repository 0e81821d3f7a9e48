# SPDX-License-Identifier: Apache-2.0
"""The running system's log of its own measurements: phases, disks, machine id; systemd writes it.

Format: JSON text sequences (RFC 7464) of records that follow TCG's CEL-JSON but carry no number;
``/run/log/systemd/tpm2-measure.log`` (https://systemd.io/TPM2_PCR_MEASUREMENTS). The log comes from the box and may be
anything: its size and its number of records are bounded, and what does not fit is refused as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.documents import hex_bytes

RUNTIME_LOG_BYTES: Final = 128 * 1024
"""A boot writes a dozen records of 300 bytes."""
RECORDS: Final = 512
PCRS: Final = 24
_SEPARATOR: Final = b"\x1e"


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """One measurement. :param what: systemd's words for it, for people: ``phase: ready``."""

    pcr: int
    digest: bytes
    what: str = ""


def parse_runtime_log(data: bytes) -> tuple[RuntimeEvent, ...]:
    """Read a log. Records about NV indices and without a SHA-256 digest are no business of the SHA-256 PCRs.

    :raises DeniedError: ``bad_evidence``: too long, or not such a log.
    """
    try:
        if len(data) > RUNTIME_LOG_BYTES:
            raise ValueError(f"more than {RUNTIME_LOG_BYTES} bytes")
        first, *records = data.split(_SEPARATOR)
        if first or len(records) > RECORDS:
            raise ValueError(f"not a sequence of at most {RECORDS} records")
        parsed = [_record(json.loads(record)) for record in records]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DeniedError(Reason.BAD_EVIDENCE, f"the system's log of measurements: {error!r}"[:200]) from error
    return tuple(event for event in parsed if event is not None)


def replay_runtime_log(events: Iterable[RuntimeEvent], values: Mapping[int, bytes]) -> dict[int, bytes]:
    """Where the events lead, from where the firmware's log ended; a PCR that it does not name begins with zeros."""
    after = dict(values)
    for event in events:
        after[event.pcr] = hashlib.sha256(after.get(event.pcr, bytes(32)) + event.digest).digest()
    return after


def _record(values: Any) -> RuntimeEvent | None:
    if "pcr" not in values and "nv_index" in values:
        return None
    pcr = values["pcr"]
    if type(pcr) is not int or not 0 <= pcr < PCRS:
        raise ValueError("a PCR that is none")
    digests = [digest["digest"] for digest in values["digests"] if digest["hashAlg"] == "sha256"]
    if len(digests) > 1:
        raise ValueError("two digests of one algorithm")
    return RuntimeEvent(pcr, hex_bytes(digests[0], 32), _what(values)) if digests else None


def _what(values: Mapping[str, Any]) -> str:
    content = values.get("content")
    if values.get("content_type") != "systemd" or not isinstance(content, dict):
        return ""
    kind, text = content.get("eventType"), content.get("string")
    parts = [part for part in (kind, text) if isinstance(part, str)]
    return ": ".join(parts)[:120].encode("unicode_escape").decode("ascii")
