# SPDX-License-Identifier: Apache-2.0
"""Whether the box may speak: what must be proven, and how long a proof is good for. Pure.

Theory of operation: whoever looks at something tells the gate a :class:`Finding`. What *holds* is good for a while, so
that a service may restart without the link being cut. What *fails* closes at once and until it holds again. That
nobody could be asked (*silent*) changes nothing by itself: the last proof gets older, and then it is none.

A further probe is one more name in the rules, and somebody who tells the gate about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from appliance.keys.keeper.port import KeeperState


class Proof(StrEnum):
    """What must be proven before anything but address and time requests leaves the box."""

    KEEPER = "keeper"
    """The keeper runs and its TPM answers for the key."""
    AGENT = "agent"
    """The agent's main loop comes round, so its ledger is open."""
    BROKER = "broker"
    """nats-facts is the durable broker it must be, and every log was settled with the ledger."""


class Sight(StrEnum):
    """What came of looking."""

    HOLDS = "holds"
    SILENT = "silent"
    FAILS = "fails"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen. :param reason: a reason code, unless it holds."""

    proof: str
    sight: Sight
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the box may speak now, and what is missing if not."""

    open: bool
    missing: tuple[Finding, ...] = ()


MAX_AGE_S: Final[Mapping[str, float]] = {Proof.KEEPER: 30.0, Proof.AGENT: 30.0, Proof.BROKER: 60.0}
"""How long each proof is good for. Shorter than this, a restart does not cut the link."""

NEVER: Final = "never seen"
"""The detail of a proof that nobody has looked at yet."""

KEEPER_SIGHTS: Final[Mapping[KeeperState, Sight]] = {
    KeeperState.READY: Sight.HOLDS,
    KeeperState.NOT_ENROLLED: Sight.HOLDS,
    KeeperState.TIME_UNKNOWN: Sight.HOLDS,
    KeeperState.NOT_PROVISIONED: Sight.SILENT,
    KeeperState.TPM_BUSY: Sight.SILENT,
    KeeperState.TPM_ABSENT: Sight.SILENT,
    KeeperState.LATCHED: Sight.FAILS,
    KeeperState.TPM_REFUSED: Sight.FAILS,
    KeeperState.TPM_FAULT: Sight.FAILS,
}
"""What the keeper's state proves: in the first three its TPM has shown that the key opens under this boot."""


@dataclass(slots=True)
class _Known:
    held_at: float | None = None
    last: Finding | None = None


@dataclass(slots=True)
class Gate:
    """Times are seconds of any clock that only grows. :param max_age_s: by proof; every one is needed."""

    max_age_s: Mapping[str, float] = field(default_factory=lambda: MAX_AGE_S)
    _known: dict[str, _Known] = field(init=False)

    def __post_init__(self) -> None:
        self._known = {proof: _Known() for proof in self.max_age_s}

    def expect(self, max_age_s: Mapping[str, float]) -> None:
        """Further proofs are needed from now on, each with how long it is good for."""
        self.max_age_s = {**self.max_age_s, **max_age_s}
        self._known |= {proof: _Known() for proof in max_age_s if proof not in self._known}

    def saw(self, finding: Finding, now: float) -> None:
        """Somebody looked. :raises KeyError: at something that no rule is about."""
        known = self._known[finding.proof]
        known.last = finding
        if finding.sight is Sight.HOLDS:
            known.held_at = now
        elif finding.sight is Sight.FAILS:
            known.held_at = None

    def judge(self, now: float) -> Verdict:
        """Whether everything is proven now."""
        missing = tuple(self._missing(proof, now) for proof in self.max_age_s if not self._good(proof, now))
        return Verdict(not missing, missing)

    def _good(self, proof: str, now: float) -> bool:
        held_at = self._known[proof].held_at
        return held_at is not None and now - held_at <= self.max_age_s[proof]

    def _missing(self, proof: str, now: float) -> Finding:
        known = self._known[proof]
        if known.last is not None and known.last.sight is not Sight.HOLDS:
            return known.last
        age = NEVER if known.held_at is None else f"seen {now - known.held_at:.0f} s ago"
        return Finding(proof, Sight.SILENT, "not_ready", age)
