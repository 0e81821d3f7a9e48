# SPDX-License-Identifier: Apache-2.0
"""Credentials of local producers: bearer tokens, of which the node keeps only SHA-256 digests."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from appliance.boundary.errors import DeniedError
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason


@dataclass(frozen=True, slots=True)
class Grant:
    """Whose a token is, and until when it is good (Unix seconds by the machine's clock; ``None``: it has no end)."""

    producer: Producer
    expires: float | None = None


class TokenTable:
    """Finds the producer of a token; takes the same time whether and where it is found.

    :param grants: by SHA-256 of the token (32 bytes). Tokens are random, so a plain digest tells nothing of them.
    """

    def __init__(self, grants: Mapping[bytes, Grant], now: Callable[[], float] = time.time) -> None:
        self._grants = tuple(grants.items())
        self._now = now

    def __call__(self, token: str) -> Producer | None:
        """The producer whose token this is, and is still good."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        found = None
        for known, grant in self._grants:
            if hmac.compare_digest(known, digest):
                found = grant
        if found is None or (found.expires is not None and self._now() >= found.expires):
            return None
        return found.producer


def bearer_token(headers: Mapping[bytes, bytes]) -> str:
    """The token of an ``Authorization: Bearer`` header. :raises DeniedError: ``bad_credential`` when there is none."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise DeniedError(Reason.BAD_CREDENTIAL, "the header 'Authorization: Bearer <token>' is missing")
    return token.strip()
