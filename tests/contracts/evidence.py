# SPDX-License-Identifier: Apache-2.0
"""What every taker of evidence does: the contract of :class:`appliance.watchdog.quarantine.ports.EvidenceTaker`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from appliance.keys.keeper.port import Latched
from appliance.keys.tpm.public import Digest
from appliance.watchdog.quarantine.case import Case
from appliance.watchdog.quarantine.ports import EvidenceTaker
from tests.evidence import a_case


@dataclass(frozen=True, slots=True)
class TakerWorld:
    """A taker, and what is around it.

    :param latch: locks the key over a case. :param kept: the digests of what was kept, the oldest first.
    :param fill: so many calls find no room from now on.
    """

    taker: EvidenceTaker
    latch: Callable[[Case], Latched]
    kept: Callable[[], Sequence[Digest]]
    fill: Callable[[int], None]


class TakerContract:
    """Subclass it with a fixture ``taker_world``."""

    async def test_what_is_taken_is_kept(self, taker_world: TakerWorld) -> None:
        """The answer is the digest of what was kept, of 32 bytes."""
        case = a_case()
        digest = await taker_world.taker.take(case, taker_world.latch(case))
        assert len(digest) == 32
        assert list(taker_world.kept()) == [digest]

    async def test_a_second_call_keeps_a_second_bundle(self, taker_world: TakerWorld) -> None:
        """Nothing of the first one is lost, and operators sign over the second."""
        case = a_case()
        latched = taker_world.latch(case)
        first = await taker_world.taker.take(case, latched)
        second = await taker_world.taker.take(case, latched)
        assert list(taker_world.kept()) == [first, second]
        assert first != second

    async def test_a_key_that_was_locked_before_has_evidence_too(self, taker_world: TakerWorld) -> None:
        """Without a lock of its own."""
        digest = await taker_world.taker.take(a_case(), None)
        assert list(taker_world.kept()) == [digest]

    async def test_what_fails_may_be_tried_again(self, taker_world: TakerWorld) -> None:
        """Nothing is kept by a call that fails."""
        case = a_case()
        latched = taker_world.latch(case)
        taker_world.fill(2)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                await taker_world.taker.take(case, latched)
            assert list(taker_world.kept()) == []
        digest = await taker_world.taker.take(case, latched)
        assert list(taker_world.kept()) == [digest]
