# SPDX-License-Identifier: Apache-2.0
"""What every lock does: the contract suite of :class:`appliance.watchdog.quarantine.ports.Lock`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.keys.keeper.port import KeeperState
from appliance.keys.release import certified_counter
from appliance.keys.tpm.public import Digest, sha256
from appliance.watchdog.quarantine.ports import Lock

CASE = sha256(b"a case")
OTHER = sha256(b"another case")
EVIDENCE = sha256(b"the evidence")
OPENS = {KeeperState.READY, KeeperState.NOT_ENROLLED, KeeperState.TIME_UNKNOWN}


@dataclass(frozen=True, slots=True)
class LockWorld:
    """A lock that is open, and its operators.

    :param signed: a release for what is locked now, over this evidence, signed by these operators (0, 1).
    :param restart: the machine is switched off and on.
    """

    lock: Lock
    signed: Callable[[Digest, Sequence[int]], Awaitable[bytes]]
    restart: Callable[[], None]


class LockContract:
    """Subclass it with a fixture ``lock_world``."""

    async def test_it_locks_once_for_a_case(self, lock_world: LockWorld) -> None:
        """A second call counts no further; the certificate says so, over the case; and a restart changes nothing."""
        lock = lock_world.lock
        assert await lock.state() in OPENS
        first = await lock.lock(CASE, counts=True)
        assert await lock.state() is KeeperState.LATCHED
        assert certified_counter(first.certificate.statement, CASE) == first.counter
        assert (await lock.lock(CASE, counts=True)).counter == first.counter
        lock_world.restart()
        assert await lock.state() is KeeperState.LATCHED
        assert (await lock.lock(CASE, counts=True)).counter == first.counter

    async def test_what_is_locked_already_is_certified_for_a_new_case(self, lock_world: LockWorld) -> None:
        """Its counter stays, and so does the release that operators may have signed."""
        lock = lock_world.lock
        first = await lock.lock(CASE, counts=True)
        again = await lock.lock(OTHER, counts=False)
        assert again.counter == first.counter
        assert certified_counter(again.certificate.statement, OTHER) == first.counter
        assert await lock.state() is KeeperState.LATCHED

    async def test_two_operators_open_it_and_nobody_else(self, lock_world: LockWorld) -> None:
        """Refused: one operator, another counter, anything that is no release. The next lock counts on."""
        lock = lock_world.lock
        first = await lock.lock(CASE, counts=True)
        good = await lock_world.signed(EVIDENCE, (0, 1))
        forged = good.replace(b'"counter":"%d"' % first.counter, b'"counter":"%d"' % (first.counter + 1))
        for wrong in (await lock_world.signed(EVIDENCE, (0,)), forged, good[:-1], b"", b"{}\n"):
            with pytest.raises(BsfgError, match="bad_release"):
                await lock.release(wrong)
            assert await lock.state() is KeeperState.LATCHED
        await lock.release(good)
        assert await lock.state() in OPENS
        await lock.release(good)
        second = await lock.lock(OTHER, counts=True)
        assert second.counter == first.counter + 1
        with pytest.raises(DeniedError, match="bad_release"):
            await lock.release(good)
        assert await lock.state() is KeeperState.LATCHED
