# SPDX-License-Identifier: Apache-2.0
"""Producers that are not served until somebody has looked: those that sent two facts under one id.

What they sent first stands, and nobody else is hindered. Which of the two facts is true, no program can tell; and a
producer that has lost count of its ids would go on to do so. While it is suspended its facts are refused as what may be
sent again later, so a producer that keeps what was refused loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.boundary.names import ProducerId
from appliance.boundary.producing import AppendOutcome, AppendResult
from appliance.boundary.reasons import Reason


@dataclass(frozen=True, slots=True)
class Suspension:
    """Why a producer is not served. :param since_unix_ms: by the wall clock, for people."""

    producer: ProducerId
    since_unix_ms: int
    detail: str

    def refusal(self) -> AppendResult:
        """What it is told."""
        return AppendResult(AppendOutcome.INVALID, reason=Reason.PRODUCER_SUSPENDED, detail=self.detail)


class SuspensionsPort(Protocol):
    """Who is suspended."""

    def of(self, producer: ProducerId) -> Suspension | None:
        """Why a producer is not served; ``None``: it is."""
        ...

    async def suspend(self, producer: ProducerId, detail: str) -> None:
        """Serve it no more, from the call on; remembered for this boot when it returns, if the disk has room."""
        ...

    def all(self) -> Sequence[Suspension]:
        """Everybody who is suspended, the first one first."""
        ...


class NobodySuspended:
    """A conflict is refused, and its producer goes on: where ids are played with, in development and in tests."""

    def of(self, producer: ProducerId) -> Suspension | None:  # noqa: ARG002
        """Nobody is."""
        return None

    async def suspend(self, producer: ProducerId, detail: str) -> None:
        """Nobody will be."""

    def all(self) -> Sequence[Suspension]:
        """Nobody."""
        return ()
