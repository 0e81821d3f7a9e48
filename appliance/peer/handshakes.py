# SPDX-License-Identifier: Apache-2.0
"""Counts of handshakes: how many proved a zone, and why the others did not."""

from __future__ import annotations

import ssl
from collections import Counter

from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import Reason
from appliance.peer.tls import refuses_certificate

TLS_REFUSED = "tls"
"""No TLS 1.3 came about, for another cause than a certificate."""
NO_HTTP2 = "no_http2"
TIMED_OUT = "timeout"


class HandshakeCounts:
    """Since the process started; what one side of the boundary saw."""

    def __init__(self) -> None:
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        """By reason code, or one of the words of this module."""

    def refuse(self, error: BsfgError | ssl.SSLError | str) -> None:
        """Count a handshake that came to nothing."""
        self.refused[_word(error)] += 1


def _word(error: BsfgError | ssl.SSLError | str) -> str:
    if isinstance(error, BsfgError):
        return str(error.reason)
    if isinstance(error, str):
        return error
    is_about_certificates = isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE" in (error.reason or "")
    return str(Reason.BAD_CERTIFICATE) if is_about_certificates or refuses_certificate(error) else TLS_REFUSED
