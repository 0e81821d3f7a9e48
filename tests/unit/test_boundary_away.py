# SPDX-License-Identifier: Apache-2.0
"""What counts as: the boundary cannot be reached. A crossing tells its observer, and the zone is autonomous."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from appliance.boundary.crossing import Crossing, Observer
from appliance.boundary.errors import DeniedError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.reasons import Reason

PLANT, HUB, AUDIT = ZoneId("plant-a"), ZoneId("enterprise"), Category("audit")
OF_THE_LINK = (Reason.LINK_DOWN, Reason.PEER_TIMEOUT)
OF_A_PROOF = (
    *(Reason.BAD_CERTIFICATE, Reason.UNKNOWN_PEER, Reason.ATTESTATION_STALE, Reason.ATTESTATION_FAILED),
    *(Reason.NO_SESSION, Reason.NOT_ENROLLED, Reason.TIME_UNKNOWN, Reason.KEY_LATCHED, Reason.KEEPER_UNAVAILABLE),
    *(Reason.TPM_ABSENT, Reason.TPM_BUSY, Reason.TPM_REFUSED, Reason.TPM_FAULT),
)
OF_THE_PEER = (Reason.CATEGORY_DENIED, Reason.BUSY, Reason.PEER_FAULT, Reason.BUFFER_FULL)


class Refusing:
    """A peer that answers every call with one error."""

    def __init__(self, reason: Reason) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        async def refuse(*_: object) -> None:
            await trio.lowlevel.checkpoint()
            raise DeniedError(self._reason)

        return refuse


@pytest.mark.parametrize(
    ("reason", "is_away"),
    [*((reason, True) for reason in OF_THE_LINK + OF_A_PROOF), *((reason, False) for reason in OF_THE_PEER)],
)
async def test_who_may_not_speak_is_away(reason: Reason, is_away: bool, autojump_clock: trio.testing.MockClock) -> None:
    """Without a link, or without a proof on either side; a peer that refuses one category was reached."""
    away: list[str] = []
    peer: Any = Refusing(reason)
    observer = Observer(unreachable=away.append)
    crossing = Crossing("pull audit", AUDIT, HUB, PLANT, peer, peer, observer=observer)
    with trio.move_on_after(5):
        await crossing.run()
    assert crossing.status.problem is not None
    assert crossing.status.problem.reason is reason
    assert bool(away) is is_away
