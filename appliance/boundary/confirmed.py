# SPDX-License-Identifier: Apache-2.0
"""Whether the ledger still says what peers have confirmed: looked at when the node starts, and each hour.

The chain over what a peer was served is computed anew from the first row on, and must lead to the head that the peer's
newest receipt names. Nobody waits for it.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, IntegrityError
from appliance.boundary.policy import ZonePolicy
from appliance.boundary.reasons import Reason
from appliance.boundary.source import Source

EVERY_S: Final = 3600.0
PAUSE_S: Final = 1.0
"""Between two logs, and before what could not be looked at is tried again."""

_log = logging.getLogger(__name__)


class ConfirmedCheck:
    """Looks at every log of every peer in turn."""

    def __init__(self, source: Source, policy: ZonePolicy, every_s: float = EVERY_S) -> None:
        self.contradictions: dict[str, BsfgError] = {}
        """What was found, by category and peer; it stays."""
        self.rounds = 0
        self._source, self._policy, self._every_s = source, policy, every_s

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            self.rounds += 1
            await trio.sleep(self._every_s)

    async def look(self) -> None:
        """Once at everything; what cannot be looked at now is left for the next time."""
        for reader, peer in self._policy.peers.items():
            for category in sorted(peer.fetch & set(self._policy.categories)):
                try:
                    receipt = await self._source.contradicted(reader, category)
                except BsfgError as error:
                    _log.info("%s for %s cannot be compared now: %s", category, reader, error)
                    continue
                if receipt is not None:
                    through = receipt.through
                    detail = f"{category}: {reader} confirmed offset {through.offset} as {through.head.hex()[:16]}"
                    found = IntegrityError(Reason.LEDGER_FORGED, detail)
                    _log.critical("%s", found)
                    self.contradictions[f"{category} {reader}"] = found
                await trio.sleep(PAUSE_S)
