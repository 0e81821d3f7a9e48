# SPDX-License-Identifier: Apache-2.0
"""Vouchers: an enrolment operator's word, signed offline, that one TPM may enrol for one zone, once, until a day.

The TPM is named by its fingerprint (:func:`appliance.keys.tpm.endorsement.fingerprint_of`), which ``bsfg enrol
fingerprint`` shows at the box. A voucher in wrong hands is worth nothing at another TPM.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.documents import (
    base64_bytes,
    base64_text,
    hex_bytes,
    is_signed,
    parse_document,
    render_document,
    sign_document,
)

VOUCHER_FORMAT: Final = "bsfg-voucher-1"
VOUCHER_BYTES: Final = 1024
LAST_UNIX_MS: Final = 253_402_300_799_999
"""The end of the year 9999."""
_KIND: Final = "voucher"
_FIELDS: Final = {"zone": str, "fingerprint": str, "expires_unix_ms": int, "serial": str, "signature": str}


@dataclass(frozen=True, slots=True)
class Voucher:
    """A voucher.

    :param fingerprint: of the TPM, 64 hex digits. :param expires_unix_ms: by the hub's clock.
    :param serial: 16 bytes as hex; a hub takes each once. :param signature: ECDSA, DER, in its one form.
    """

    zone: ZoneId
    fingerprint: str
    expires_unix_ms: int
    serial: str
    signature: bytes

    def _values(self) -> dict[str, Any]:
        return {
            "format": VOUCHER_FORMAT,
            "zone": self.zone,
            "fingerprint": self.fingerprint,
            "expires_unix_ms": self.expires_unix_ms,
            "serial": self.serial,
        }

    def render(self) -> bytes:
        """The one form of this voucher."""
        return render_document({**self._values(), "signature": base64_text(self.signature)})

    def is_signed_by(self, key: ec.EllipticCurvePublicKey) -> bool:
        """Whether this enrolment operator signed it."""
        return is_signed(key, _KIND, self._values(), self.signature)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a voucher. :raises RefusedError: ``bad_voucher``: not in its one form.

        :raises DeniedError: ``bad_voucher``: a value is none that a voucher has.
        """
        values = parse_document(data, VOUCHER_FORMAT, _FIELDS, VOUCHER_BYTES, Reason.BAD_VOUCHER)
        try:
            hex_bytes(values["fingerprint"], 32)
            hex_bytes(values["serial"], 16)
            if not 0 <= values["expires_unix_ms"] <= LAST_UNIX_MS:
                raise ValueError("the day of expiry is out of range")
            zone, signature = parse_zone(values["zone"]), base64_bytes(values["signature"])
        except (ValueError, BsfgError) as error:
            raise DeniedError(Reason.BAD_VOUCHER, str(error)) from error
        return cls(zone, values["fingerprint"], values["expires_unix_ms"], values["serial"], signature)


def new_voucher(key: ec.EllipticCurvePrivateKey, zone: ZoneId, fingerprint: str, expires_unix_ms: int) -> Voucher:
    """Sign a voucher. :raises DeniedError: ``bad_voucher``: no fingerprint, or no day that can be."""
    blank = Voucher(zone, fingerprint, expires_unix_ms, secrets.token_hex(16), b"")
    signed = Voucher(zone, fingerprint, expires_unix_ms, blank.serial, sign_document(key, _KIND, blank._values()))
    return Voucher.parse(signed.render())


def check_voucher(
    voucher: Voucher, operators: Sequence[ec.EllipticCurvePublicKey], zone: ZoneId, fingerprint: str, unix_ms: int
) -> None:
    """A voucher lets this TPM enrol for this zone now; whether it was used before is the hub's to know.

    :param operators: the enrolment operators that this hub knows.
    :raises DeniedError: ``bad_voucher``: nobody of them signed it, or it is for another zone; ``voucher_foreign``: for
        another TPM; ``voucher_expired``.
    """
    if not any(voucher.is_signed_by(key) for key in operators):
        raise DeniedError(Reason.BAD_VOUCHER, "not signed by an enrolment operator of this hub")
    if voucher.zone != zone:
        raise DeniedError(Reason.BAD_VOUCHER, f"it is for zone {voucher.zone}, not {zone}")
    if voucher.fingerprint != fingerprint:
        raise DeniedError(
            Reason.VOUCHER_FOREIGN, f"it names {voucher.fingerprint[:16]}…, this TPM is {fingerprint[:16]}…"
        )
    if unix_ms >= voucher.expires_unix_ms:
        day = datetime.fromtimestamp(voucher.expires_unix_ms / 1000, UTC)
        raise DeniedError(Reason.VOUCHER_EXPIRED, f"on {day:%Y-%m-%d %H:%M} UTC")
