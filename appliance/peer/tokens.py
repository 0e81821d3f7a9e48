# SPDX-License-Identifier: Apache-2.0
"""Credentials of local producers: bearer tokens, of which the node keeps only SHA-256 digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from appliance.boundary.errors import DeniedError
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason


class TokenTable:
    """Finds the producer of a token; takes the same time whether and where it is found.

    :param producers: by SHA-256 of the token (32 bytes). Tokens are random, so a plain digest tells nothing of them.
    """

    def __init__(self, producers: Mapping[bytes, Producer]) -> None:
        self._producers = tuple(producers.items())

    def __call__(self, token: str) -> Producer | None:
        """The producer whose token this is."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found = None
        for known, producer in self._producers:
            if hmac.compare_digest(known, digest):
                found = producer
        return found


def bearer_token(headers: Mapping[bytes, bytes]) -> str:
    """The token of an ``Authorization: Bearer`` header. :raises DeniedError: ``bad_credential`` when there is none."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise DeniedError(Reason.BAD_CREDENTIAL, "the header 'Authorization: Bearer <token>' is missing")
    return token.strip()
