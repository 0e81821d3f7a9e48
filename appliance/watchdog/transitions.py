# SPDX-License-Identifier: Apache-2.0
"""How the watchdog's state changes, as a table. Data; ``docs/reference/quarantine.md`` and its picture are made of it.

``tests/unit/test_watchdog_transitions.py`` brings about each line and sees that the state becomes what it says, and
that no other change happens on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from appliance.watchdog.reporting import State

_S = State


@dataclass(frozen=True, slots=True)
class Transition:
    """One change. :param begin: the state before; ``None``: the watchdog is started."""

    begin: State | None
    event: str
    end: State


TRANSITIONS: Final = (
    Transition(None, "no quarantine is known", _S.CHECKING),
    Transition(None, "a quarantine is known", _S.QUARANTINED),
    Transition(None, "its files cannot be read", _S.IN_DOUBT),
    Transition(None, "released since power-on", _S.RELEASED),
    Transition(_S.CHECKING, "everything is proven", _S.OPEN),
    Transition(_S.OPEN, "a proof is missing", _S.CLOSED),
    Transition(_S.CLOSED, "everything is proven", _S.OPEN),
    Transition(_S.CHECKING, "a finding quarantines", _S.QUARANTINED),
    Transition(_S.OPEN, "a finding quarantines", _S.QUARANTINED),
    Transition(_S.CLOSED, "a finding quarantines", _S.QUARANTINED),
    Transition(_S.IN_DOUBT, "the TPM has the key locked", _S.QUARANTINED),
    Transition(_S.IN_DOUBT, "the TPM shows that the key opens", _S.CHECKING),
    Transition(_S.QUARANTINED, "two operators release it", _S.RELEASED),
)
"""The table; what it does not say does not happen. An operator's request is a finding that quarantines."""

LEAVES: Final = {
    _S.CHECKING: "addresses, neighbours, names and time, at a low rate",
    _S.OPEN: "that, and the agent's and the broker's packets to the hub",
    _S.CLOSED: "as in checking",
    _S.QUARANTINED: "nothing at all",
    _S.IN_DOUBT: "nothing at all",
    _S.RELEASED: "nothing at all, until the machine is started again",
}
"""What leaves the uplink in each state."""
