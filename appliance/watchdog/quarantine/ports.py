# SPDX-License-Identifier: Apache-2.0
"""What the ladder needs of the world: ports; each has one real implementation, one fake, and a contract suite.

The cut is :class:`appliance.watchdog.lease.Blackout`, for it belongs to the firewall. The other two are here.
"""

from __future__ import annotations

from typing import Protocol

from appliance.keys.keeper.port import KeeperState, Latched
from appliance.keys.tpm.public import Digest
from appliance.watchdog.quarantine.case import Case


class Lock(Protocol):
    """The lock of the boundary key: the keeper, as the ladder sees it.

    Every call may raise :class:`~appliance.boundary.errors.UnavailableError` and
    :class:`~appliance.boundary.errors.DeniedError` as the keeper's port says, and may then be made again.
    """

    async def state(self) -> KeeperState:
        """What the keeper says of the key now."""
        ...

    async def lock(self, case: Digest, *, counts: bool) -> Latched:
        """Lock the key over a case's digest. A second call for the same case counts no further.

        :param counts: the key may be open yet, so it is latched. ``False``: the TPM has it locked already, from
            before this case was opened; then its counter is certified over the digest, and stays.
        """
        ...

    async def release(self, document: bytes) -> None:
        """Hand a release of both operators to the TPM, and see that it opens the key.

        :raises DeniedError: ``bad_release``: not two operators' for this box and this counter, or it does not open
            the key; the key is as locked as before. :raises RefusedError: ``bad_release``: it is none.
        """
        ...


class EvidenceTaker(Protocol):
    """Gathers what the box has to show, has it sealed by the TPM, and keeps it for good."""

    async def take(self, case: Case, latched: Latched | None) -> Digest:
        """Gather and keep the evidence of a case; the digest that both operators sign over. Bounded in time and size.

        A second call for the same case keeps a second bundle, and answers with that one's digest.

        :param latched: what locking the key has given.
        :raises BsfgError: it could not be sealed or kept, and may be tried again. :raises OSError: of the disk.
        """
        ...
