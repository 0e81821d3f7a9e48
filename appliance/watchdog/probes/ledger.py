# SPDX-License-Identifier: Apache-2.0
"""What the agent says of logs, ledger and producers, in its status document; each five seconds.

The agent has done by itself what is to be done about a producer or a log; here it is passed on, so that one place
tells people all that is wrong. Only a ledger that contradicts a peer's signature is more than that.

An agent that is silent is no business of this probe: the gate keeps the uplink closed then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import Reason
from appliance.node.status import Problem, StatusDocument
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import Code, ProbeName

PERIOD_S: Final = 5.0
DOCUMENT: Final = Path("/run/bsfg/status/agent.json")
CODES: Final = {
    Reason.PRODUCER_SUSPENDED: Code.PRODUCER_CONFLICT,
    Reason.LOG_DAMAGED: Code.STREAM_BROKEN,
    Reason.CHAIN_BROKEN: Code.STREAM_BROKEN,
    Reason.LEDGER_DAMAGED: Code.STREAM_BROKEN,
    Reason.LEDGER_FORGED: Code.LEDGER_FORGED,
}
"""What the agent's reasons mean here; all others are for the status page alone."""


class LedgerProbe:
    """A :class:`~appliance.watchdog.probing.Probe`. :param document: the agent's."""

    name = ProbeName.LEDGER
    period_s = PERIOD_S

    def __init__(self, document: Path = DOCUMENT) -> None:
        self._document = document

    def descriptor(self) -> int | None:
        """As the port says: it is asked each period."""
        return None

    def look(self) -> Reading:
        """As the port says."""
        try:
            told = StatusDocument.read(self._document)
        except BsfgError as error:
            return Reading(self.name, facts={"agent": error.detail})
        seen = dict.fromkeys(filter(None, map(_seen, told.problems)))
        heads = {f"head {store.category}": f"{store.last_offset} {store.head}" for store in told.stores}
        return Reading(self.name, tuple(seen), facts={"mode": told.mode, **heads})

    def close(self) -> None:
        """As the port says: it holds nothing."""


def _seen(problem: Problem) -> Seen | None:
    code = CODES.get(problem.reason)  # type: ignore[call-overload]
    return None if code is None else Seen(code, f"{problem.where}: {problem.detail}")
