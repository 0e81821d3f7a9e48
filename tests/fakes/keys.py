# SPDX-License-Identifier: Apache-2.0
"""Keys in memory for simulations: quick, and the same signature for the same statement in every run."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.keys.registry import STATEMENT_PREFIX


@dataclass(frozen=True, slots=True)
class FakeKeys:
    """A :class:`appliance.boundary.ports.KeysPort` by HMAC under a key that everybody could derive.

    :param registered: the zones whose boundary key this node knows.
    """

    zone: ZoneId
    registered: Collection[ZoneId]

    @property
    def kind(self) -> Literal["fake"]:
        """How the boundary key is held."""
        return "fake"

    async def sign(self, statement: bytes) -> Signature:
        """As the port says. :raises ValueError: it does not begin as statements do."""
        if not statement.startswith(STATEMENT_PREFIX):
            raise ValueError("the boundary key signs statements of this product only")
        return Signature(_mac(self.zone, statement), _certificate(self.zone))

    def verify(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """As the port says."""
        return (
            zone in self.registered
            and signature.certificate == _certificate(zone)
            and statement.startswith(STATEMENT_PREFIX)
            and hmac.compare_digest(signature.value, _mac(zone, statement))
        )


def _certificate(zone: ZoneId) -> bytes:
    return f"fake certificate of {zone}".encode()


def _mac(zone: ZoneId, statement: bytes) -> bytes:
    return hmac.digest(f"fake key of {zone}".encode(), statement, hashlib.sha256)
