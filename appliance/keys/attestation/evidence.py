# SPDX-License-Identifier: Apache-2.0
"""Evidence: what a box shows the hub; a quote, the PCR values under it, and the logs that explain them.

Only the quote is signed. The PCR values are proven by its digest; the logs prove nothing by themselves, but one that
does not lead to the quoted values is a lie or a fault.
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
from appliance.keys.documents import (
    base64_bytes,
    base64_text,
    decimal_number,
    hex_bytes,
    parse_document,
    render_document,
)
from appliance.keys.keeper.port import Quote
from appliance.keys.tpm.public import Attestation

FORMAT: Final = "bsfg-evidence-1"
EVIDENCE_BYTES: Final = (FIRMWARE_LOG_BYTES + RUNTIME_LOG_BYTES) * 4 // 3 + 16 * 1024


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a box shows.

    :param pcrs: values of the SHA-256 bank. :param firmware_log: TCG PC Client event log, or empty.
    :param runtime_log: systemd's log of its measurements, or empty.
    """

    zone: ZoneId
    quote: Attestation
    pcrs: Mapping[int, bytes]
    firmware_log: bytes = b""
    runtime_log: bytes = b""

    @classmethod
    def of(cls, zone: ZoneId, quote: Quote) -> Self:
        """What the keeper quoted, as evidence of a zone's box. Logs too long to be sent are left out.

        :raises DeniedError: ``bad_evidence``: the keeper's signature is none.
        """
        try:
            attestation = Attestation(quote.attestation.statement, one_form(quote.attestation.signature))
        except ValueError as error:
            raise DeniedError(Reason.BAD_EVIDENCE, f"the quote's signature: {error}") from error
        boot = quote.boot_log if len(quote.boot_log) <= FIRMWARE_LOG_BYTES else b""
        runtime = quote.runtime_log if len(quote.runtime_log) <= RUNTIME_LOG_BYTES else b""
        return cls(zone, attestation, dict(quote.pcrs), boot, runtime)

    def render(self) -> bytes:
        """The one form of this evidence (RFC 8785 and a newline)."""
        return render_document(
            {
                "format": FORMAT,
                "zone": self.zone,
                "quote": base64_text(self.quote.statement),
                "signature": base64_text(self.quote.signature),
                "pcrs": {str(pcr): value.hex() for pcr, value in self.pcrs.items()},
                "firmware_log": base64_text(self.firmware_log),
                "runtime_log": base64_text(self.runtime_log),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read evidence. :raises RefusedError: ``bad_document``, ``bad_name``: not in its one form."""
        texts = dict.fromkeys(("zone", "quote", "signature", "firmware_log", "runtime_log"), str)
        values = parse_document(data, FORMAT, {**texts, "pcrs": dict}, EVIDENCE_BYTES)
        try:
            return cls(
                parse_zone(values["zone"]),
                Attestation(base64_bytes(values["quote"]), base64_bytes(values["signature"])),
                {decimal_number(pcr, 5): hex_bytes(value, 32) for pcr, value in values["pcrs"].items()},
                base64_bytes(values["firmware_log"]),
                base64_bytes(values["runtime_log"]),
            )
        except ValueError as error:
            raise RefusedError(Reason.BAD_DOCUMENT, str(error)) from error
