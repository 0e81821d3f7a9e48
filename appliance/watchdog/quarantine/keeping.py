# SPDX-License-Identifier: Apache-2.0
"""The lock, by the keeper: a :class:`~appliance.watchdog.quarantine.ports.Lock`."""

from __future__ import annotations

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import KeeperPort, KeeperState, Latched
from appliance.keys.release import certified_counter
from appliance.keys.tpm.public import Digest


class KeeperLock:
    """Locks and releases the boundary key through its keeper."""

    def __init__(self, keeper: KeeperPort) -> None:
        self._keeper = keeper

    async def state(self) -> KeeperState:
        """As the port says."""
        return (await self._keeper.status()).state

    async def lock(self, case: Digest, *, counts: bool) -> Latched:
        """As the port says."""
        if counts:
            return await self._keeper.latch(case)
        certificate = (await self._keeper.certify(case)).counter
        return Latched(certified_counter(certificate.statement, case), certificate)

    async def release(self, document: bytes) -> None:
        """As the port says."""
        await self._keeper.import_release(document)
        status = await self._keeper.status()
        if status.state in {KeeperState.LATCHED, KeeperState.TPM_REFUSED}:
            why = "the TPM took it, and the key does not open: what was started is not what they signed"
            raise DeniedError(Reason.BAD_RELEASE, f"{why} ({status.problem})")
