# SPDX-License-Identifier: Apache-2.0
"""TLS of the boundary: version 1.3 only, certificates on both sides, HTTP/2 only, no session that outlives a check."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

ALPN: Final = "h2"


def server_context(chain: Path, key: Path, authorities: Path) -> ssl.SSLContext:
    """The context of a listening peer; call it again for renewed files.

    :param chain: PEM: the session certificate, then its device CA.
    :param key: PEM: its private key.
    :param authorities: PEM: the hub CA that callers' chains must end in.
    """
    return _context(ssl.PROTOCOL_TLS_SERVER, chain, key, authorities)


def client_context(chain: Path, key: Path, authorities: Path) -> ssl.SSLContext:
    """The context of a dialling peer; parameters as for :func:`server_context`. The server's name is checked too."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, chain, key, authorities)


def _context(side: int, chain: Path, key: Path, authorities: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(authorities)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols([ALPN])
    if side == ssl.PROTOCOL_TLS_SERVER:
        # A resumed session would carry a proof from an earlier handshake past the end of its certificate.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


def refuses_certificate(error: ssl.SSLError) -> bool:
    """Whether an error is the other side's alert that it does not accept our certificate.

    OpenSSL's versions name these alerts differently; all say what they are about.
    """
    name = (error.reason or "").upper().replace(" ", "_")
    return "ALERT" in name and any(word in name for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED"))
