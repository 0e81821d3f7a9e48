# SPDX-License-Identifier: Apache-2.0
"""A hub's statement of the time, for one box and one question: signed by the hub's boundary key over the box's nonce.

A box with a dead clock battery cannot check any certificate's dates before it knows the time. So the dates of the
certificate that comes with a token are not asked: what counts is that the hub's boundary key signed this nonce, which
nobody can have known before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import check_device_ca
from appliance.keys.documents import base64_bytes, base64_text, hex_bytes, parse_document, render_document
from appliance.keys.operators import verifies

FORMAT: Final = "bsfg-time-token-1"
TOKEN_BYTES: Final = 4096
NONCE_BYTES: Final = 32
SHORTEST_NONCE: Final = 16
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What ``cryptography`` raises at bytes that are no certificate it knows."""
LAST_UNIX_MS: Final = 253_402_300_799_999
"""The end of the year 9999 (RFC 5280, 4.1.2.5): no certificate can name a later time."""


@dataclass(frozen=True, slots=True)
class TimeToken:
    """What a hub says the time is.

    :param zone: the hub's. :param nonce: the box's, 16 to 32 bytes. :param unix_ms: the hub's wall clock.
    """

    zone: ZoneId
    nonce: bytes
    unix_ms: int
    signature: Signature

    @staticmethod
    def statement_of(zone: ZoneId, nonce: bytes, unix_ms: int) -> bytes:
        """The bytes that are signed; one line per field, as in a receipt."""
        return f"bsfg.v1 time\nzone {zone}\nnonce {nonce.hex()}\nunix_ms {unix_ms}\n".encode()

    def statement(self) -> bytes:
        """The bytes that this token's signature is over."""
        return self.statement_of(self.zone, self.nonce, self.unix_ms)

    def render(self) -> bytes:
        """The one form of this token (RFC 8785 and a newline)."""
        return render_document(
            {
                "format": FORMAT,
                "zone": self.zone,
                "nonce": self.nonce.hex(),
                "unix_ms": self.unix_ms,
                "signature": base64_text(self.signature.value),
                "certificate": base64_text(self.signature.certificate),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a token. :raises DeniedError: ``bad_time_token``: not in its one form."""
        fields = {"zone": str, "nonce": str, "unix_ms": int, "signature": str, "certificate": str}
        try:
            values = parse_document(data, FORMAT, fields, TOKEN_BYTES)
            zone, nonce = parse_zone(values["zone"]), hex_bytes(values["nonce"])
            signature = Signature(base64_bytes(values["signature"]), base64_bytes(values["certificate"]))
            if not SHORTEST_NONCE <= len(nonce) <= NONCE_BYTES or not 0 <= values["unix_ms"] <= LAST_UNIX_MS:
                raise ValueError("nonce or time out of range")
        except (ValueError, RefusedError) as error:
            detail = error.detail if isinstance(error, RefusedError) else str(error)
            raise DeniedError(Reason.BAD_TIME_TOKEN, detail) from error
        return cls(zone, nonce, values["unix_ms"], signature)


@dataclass(frozen=True, slots=True)
class HubTrust:
    """Which boundary keys may tell the time.

    :param pinned: DER of the hub zone's device CAs, as registered at enrolment, denied ones left out. Empty at first
        contact: then any device CA that the hub CA, which the box was given beforehand, signed for the hub's zone.
    """

    zone: ZoneId
    hub_ca: x509.Certificate
    pinned: tuple[bytes, ...] = ()

    def check(self, token: TimeToken) -> None:
        """:raises DeniedError: ``bad_time_token``: of another zone, or not signed by a boundary key of this one."""
        if token.zone != self.zone:
            raise DeniedError(Reason.BAD_TIME_TOKEN, f"it is of zone {token.zone}, and the hub is {self.zone}")
        if not verifies(self._key(token.signature.certificate), token.statement(), token.signature.value):
            raise DeniedError(Reason.BAD_TIME_TOKEN, "the signature does not verify")

    def _key(self, der: bytes) -> ec.EllipticCurvePublicKey:
        if self.pinned and der not in self.pinned:
            raise DeniedError(Reason.BAD_TIME_TOKEN, "not signed with the hub's registered boundary key")
        try:
            certificate = x509.load_der_x509_certificate(der)
            check_device_ca(self.hub_ca, self.zone, certificate)
            key = certificate.public_key()
        except (*_UNREADABLE, DeniedError) as error:
            raise DeniedError(Reason.BAD_TIME_TOKEN, f"the signer's certificate: {error}") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise DeniedError(Reason.BAD_TIME_TOKEN, "the signer's key is not EC P-256")
        return key
