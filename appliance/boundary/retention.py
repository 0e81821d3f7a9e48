# SPDX-License-Identifier: Apache-2.0
"""Retention of a zone's own facts: what every addressee has confirmed is trimmed, oldest first; nothing else ever is.

For ``reject`` categories only; ``drop-oldest`` ones leave it to the broker, and readers are told the gap. The newest
``hold_back`` share of the buffer stays although it is confirmed, so that a peer restored from an older copy can be
refilled. Only *unconfirmed* facts can fill the buffer: at :data:`FULL_SHARE` producers hear ``buffer_full``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import Category
from appliance.boundary.policy import WhenFull, ZonePolicy
from appliance.boundary.ports import LedgerPort, LogPort
from appliance.boundary.reasons import Reason
from appliance.boundary.records import Incident, LogState
from appliance.boundary.store import StoreBuffer

_log = logging.getLogger(__name__)

FULL_SHARE: Final = 0.8
"""Share of ``max_bytes`` that unconfirmed facts may take."""
HOLD_BACK_SHARE: Final = 0.5
"""Share of ``max_bytes`` that is kept although it is confirmed."""
TRIM_STEP_SHARE: Final = 0.05
"""Share of ``max_bytes`` that is trimmed at a time, at least: each trim leaves a note in the ledger."""
LOOK_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about a buffer: trim everything in front of ``before`` (0: nothing), refuse new facts."""

    before: int = 0
    full: bool = False


def plan(state: LogState, confirmed: int, max_bytes: int) -> Plan:
    """Decide from what the log holds and the offset every addressee has confirmed. Pure; sizes are averages."""
    held = state.last - state.first + 1
    if held <= 0:
        return Plan()
    each = max(1.0, state.size / held)
    unconfirmed = min(held, state.last - confirmed)
    if state.size < max_bytes * (HOLD_BACK_SHARE + TRIM_STEP_SHARE):
        return Plan(full=unconfirmed * each > max_bytes * FULL_SHARE)
    excess = int((state.size - max_bytes * HOLD_BACK_SHARE) / each)
    before = min(state.first + excess, confirmed + 1, state.last)  # the newest fact always stays
    return Plan(before if before > state.first else 0, unconfirmed * each > max_bytes * FULL_SHARE)


class Trimmer:
    """Looks after the store buffers of a zone."""

    def __init__(self, policy: ZonePolicy, stores: Mapping[Category, StoreBuffer], ledger: LedgerPort) -> None:
        self._policy = policy
        self._stores = {
            category: store
            for category, store in stores.items()
            if policy.categories[category].when_full is WhenFull.REJECT
        }
        self._ledger = ledger

    async def run(self) -> None:
        """Look at every buffer now and then, until cancelled; what fails is tried again."""
        while True:
            for category, store in self._stores.items():
                try:
                    await self.look(category, store)
                except BsfgError as error:
                    _log.debug("%s: %s", category, error)
            await trio.sleep(LOOK_EVERY_S)

    async def look(self, category: Category, store: StoreBuffer) -> Plan:
        """Decide for one buffer and carry it out."""
        log = await store.settled()
        state = await log.state()
        decided = plan(state, await self._confirmed(category, store, log), self._policy.categories[category].max_bytes)
        store.refusal = RefusedError(Reason.BUFFER_FULL, f"{category}: unconfirmed facts") if decided.full else None
        if decided.before:
            await log.trim(decided.before)
            detail = f"{category}: facts {state.first} to {decided.before - 1} are confirmed by all and were trimmed"
            facts = {"category": category, "first": str(state.first), "last": str(decided.before - 1)}
            await self._ledger.note(Incident(Reason.TRIMMED, detail, {**facts, "head": store.end.head.hex()}))
            _log.info("%s", detail)
        return decided

    async def _confirmed(self, category: Category, store: StoreBuffer, log: LogPort) -> int:
        """The offset in front of which every peer that may fetch the category has confirmed what is addressed to it.

        0 without any such peer.
        """
        account, confirmed = store.log_id(log.epoch), []
        for reader in [peer for peer, policy in self._policy.peers.items() if category in policy.fetch]:
            receipt = await self._ledger.last_receipt(store.log_id(log.epoch_for(reader)), reader)
            offset = receipt.through.offset if receipt is not None else 0
            missing = await self._ledger.rows(account, offset, 1, reader)
            confirmed.append(missing[0].offset - 1 if missing else store.end.offset)
        return min(confirmed, default=0)
