# SPDX-License-Identifier: Apache-2.0
"""The keys port on a keeper: the boundary key signs in the TPM, the registry tells whose signatures are good."""

from __future__ import annotations

from typing import Protocol

from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.registry import STATEMENT_PREFIX


class Verifier(Protocol):
    """What tells whose signatures are good: a registry."""

    def verifies(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """Whether a registered boundary key of that zone signed the statement."""
        ...


class KeeperKeys:
    """A :class:`appliance.boundary.ports.KeysPort`.

    :param kind: ``tpm`` or ``swtpm``, as the keeper's status says; status documents show it.
    """

    def __init__(self, keeper: KeeperPort, registry: Verifier, kind: str) -> None:
        self._keeper = keeper
        self._registry = registry
        self._kind = kind

    @property
    def kind(self) -> str:
        """How the boundary key is held; status documents show it."""
        return self._kind

    async def sign(self, statement: bytes) -> Signature:
        """As the port says."""
        if not statement.startswith(STATEMENT_PREFIX):
            raise ValueError("the boundary key signs statements of this product only")
        return await self._keeper.sign(statement)

    def verify(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """As the port says."""
        return self._registry.verifies(zone, statement, signature)
