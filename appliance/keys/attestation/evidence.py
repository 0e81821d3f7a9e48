# SPDX-License-Identifier: Apache-2.0
"""Evidence: what a box shows the hub; a quote, the PCR values under it, and the logs that explain them.

Only the quote is signed. The PCR values are proven by its digest; the logs prove nothing by themselves, but one that
does not lead to the quoted values is a lie or a fault. The second format also has the certified quarantine counter and
the release that explains it; the first one is what enrolment carries, beside a counter of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.firmware_log import FIRMWARE_LOG_BYTES
from appliance.keys.attestation.quote import one_form
from appliance.keys.attestation.runtime_log import RUNTIME_LOG_BYTES
from appliance.keys.attestation.standing import Standing
from appliance.keys.documents import (
    base64_bytes,
    base64_text,
    decimal_number,
    hex_bytes,
    parse_document,
    render_document,
)
from appliance.keys.keeper.port import Certified, Quote
from appliance.keys.tpm.public import Attestation

FORMAT: Final = "bsfg-evidence-1"
STANDING_FORMAT: Final = "bsfg-evidence-2"
EVIDENCE_BYTES: Final = (FIRMWARE_LOG_BYTES + RUNTIME_LOG_BYTES) * 4 // 3 + 32 * 1024
_TEXTS: Final = ("zone", "quote", "signature", "firmware_log", "runtime_log")
_STANDING: Final = ("counter", "counter_signature", "release")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a box shows.

    :param pcrs: values of the SHA-256 bank. :param firmware_log: TCG PC Client event log, or empty.
    :param runtime_log: systemd's log of its measurements, or empty.
    :param standing: the quarantine counter; ``None``: not shown.
    """

    zone: ZoneId
    quote: Attestation
    pcrs: Mapping[int, bytes]
    firmware_log: bytes = b""
    runtime_log: bytes = b""
    standing: Standing | None = None

    @classmethod
    def of(cls, zone: ZoneId, quote: Quote, certified: Certified | None = None) -> Self:
        """What the keeper quoted, as evidence of a zone's box. Logs too long to be sent are left out.

        :param certified: what the keeper certified over the same nonce; ``None``: the counter is not shown.

        :raises DeniedError: ``bad_evidence``: the keeper's signature is none.
        """
        try:
            attestation = Attestation(quote.attestation.statement, one_form(quote.attestation.signature))
            standing = None if certified is None else _standing_of(certified)
        except ValueError as error:
            raise DeniedError(Reason.BAD_EVIDENCE, f"the keeper's signature: {error}") from error
        boot = quote.boot_log if len(quote.boot_log) <= FIRMWARE_LOG_BYTES else b""
        runtime = quote.runtime_log if len(quote.runtime_log) <= RUNTIME_LOG_BYTES else b""
        return cls(zone, attestation, dict(quote.pcrs), boot, runtime, standing)

    def render(self) -> bytes:
        """The one form of this evidence (RFC 8785 and a newline)."""
        values = {
            "format": FORMAT,
            "zone": self.zone,
            "quote": base64_text(self.quote.statement),
            "signature": base64_text(self.quote.signature),
            "pcrs": {str(pcr): value.hex() for pcr, value in self.pcrs.items()},
            "firmware_log": base64_text(self.firmware_log),
            "runtime_log": base64_text(self.runtime_log),
        }
        if self.standing is not None:
            values |= {
                "format": STANDING_FORMAT,
                "counter": base64_text(self.standing.counter.statement),
                "counter_signature": base64_text(self.standing.counter.signature),
                "release": base64_text(self.standing.release),
            }
        return render_document(values)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read evidence. :raises RefusedError: ``bad_document``, ``bad_name``: not in its one form."""
        shows = _shows_standing(data)
        fields = dict.fromkeys((*_TEXTS, *_STANDING) if shows else _TEXTS, str)
        form = STANDING_FORMAT if shows else FORMAT
        values = parse_document(data, form, {**fields, "pcrs": dict}, EVIDENCE_BYTES)
        try:
            told = [base64_bytes(values[name]) for name in _STANDING] if shows else []
            return cls(
                parse_zone(values["zone"]),
                Attestation(base64_bytes(values["quote"]), base64_bytes(values["signature"])),
                {decimal_number(pcr, 5): hex_bytes(value, 32) for pcr, value in values["pcrs"].items()},
                base64_bytes(values["firmware_log"]),
                base64_bytes(values["runtime_log"]),
                Standing(Attestation(told[0], told[1]), told[2]) if shows else None,
            )
        except ValueError as error:
            raise RefusedError(Reason.BAD_DOCUMENT, str(error)) from error


def _shows_standing(data: bytes) -> bool:
    """Whether it says to be of the second format. Its one form tells: ``format`` follows the logs' names or ends it."""
    return f'"format":"{STANDING_FORMAT}"'.encode() in data


def _standing_of(certified: Certified) -> Standing:
    told = certified.counter
    return Standing(Attestation(told.statement, one_form(told.signature)), certified.release)
