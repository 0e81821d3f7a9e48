# SPDX-License-Identifier: Apache-2.0
"""Who looks at what the gate wants proven: small objects that each look once, when they are asked to.

None of them believes a clock on the wall: a status document counts as alive when it is another one than last time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import KeeperPort
from appliance.node.status import StatusDocument
from appliance.watchdog.gate import KEEPER_SIGHTS, Finding, Proof, Sight

KEEPER_PATIENCE_S: Final = 5.0
DOCUMENT_ALIVE_S: Final = 10.0
"""A document that did not change for so long was left behind."""


class Look(Protocol):
    """Looks at one thing."""

    async def look(self) -> Sequence[Finding]:
        """What is seen now. Raises nothing but cancellation, and takes a few seconds at most."""
        ...


class KeeperLook:
    """Asks the keeper, which answers whatever its TPM does."""

    def __init__(self, keeper: KeeperPort) -> None:
        self._keeper = keeper

    async def look(self) -> Sequence[Finding]:
        """As the protocol says."""
        with trio.move_on_after(KEEPER_PATIENCE_S):
            try:
                status = await self._keeper.status()
            except BsfgError as error:
                return [Finding(Proof.KEEPER, Sight.SILENT, error.reason, error.detail)]
            sight = KEEPER_SIGHTS[status.state]
            if sight is Sight.HOLDS:
                return [Finding(Proof.KEEPER, sight)]
            reason, _, detail = status.problem.partition(": ")
            known = reason in set(Reason)
            return [
                Finding(Proof.KEEPER, sight, reason if known else Reason.NOT_READY, detail if known else status.state)
            ]
        return [Finding(Proof.KEEPER, Sight.SILENT, Reason.KEEPER_UNAVAILABLE, f"silent for {KEEPER_PATIENCE_S:g} s")]


class AgentLook:
    """Reads the agent's status document.

    :param clock: seconds that only grow.
    """

    def __init__(self, document: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._document = document
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._changed_at: float | None = None

    async def look(self) -> Sequence[Finding]:
        """As the protocol says."""
        return await trio.to_thread.run_sync(self.read)

    def read(self) -> list[Finding]:
        """What the document says; blocking."""
        try:
            found = self._stamp()
            document = StatusDocument.read(self._document)
        except (OSError, BsfgError) as error:
            return self._silent(f"{self._document.name}: {error}")
        if self._seen is not None and found != self._seen:
            self._changed_at = self._clock()
        self._seen = found
        if self._changed_at is None or self._clock() - self._changed_at > DOCUMENT_ALIVE_S:
            return self._silent("its status document does not change")
        broker = document.broker
        if document.ready and broker.connected and broker.durable:
            return [Finding(Proof.AGENT, Sight.HOLDS), Finding(Proof.BROKER, Sight.HOLDS)]
        what = "no durable broker" if not (broker.connected and broker.durable) else "its logs are being settled"
        return [Finding(Proof.AGENT, Sight.HOLDS), Finding(Proof.BROKER, Sight.SILENT, Reason.NOT_READY, what)]

    def _stamp(self) -> tuple[int, int]:
        state = os.stat(self._document)
        return state.st_ino, state.st_mtime_ns

    @staticmethod
    def _silent(detail: str) -> list[Finding]:
        return [Finding(proof, Sight.SILENT, Reason.NOT_READY, detail) for proof in (Proof.AGENT, Proof.BROKER)]
