# SPDX-License-Identifier: Apache-2.0
"""The box's side of trust: it fetches the time for the keeper, and shows the hub what the keeper's TPM quotes.

A schedule that knows nothing of sockets says what is next and when; a thin loop does it. The keeper never dials: the
agent carries its nonces and quotes to the hub, and can alter neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

import trio

from appliance.boundary.claims import Signal
from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.boundary.trust import AttestationAnswer, TrustPort
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.keeper.port import KeeperPort, KeeperState

TIME_EVERY_S: Final = 600.0
ATTEST_EVERY_S: Final = 300.0
LOOK_EVERY_S: Final = 2.0
"""How often the keeper is asked what it needs."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Between attempts that the hub refuses: each may cost it a signature."""
AWAY_PAUSE_S: Final = 10.0
"""Between attempts that reach nobody: a box whose time is unknown waits for the link and nothing else."""
SHORTEST_GAP_S: Final = 5.0
"""Between two attempts that were asked for, however often that happens."""
_SPREAD: Final = 0.1
"""So much of an interval is left to chance, so that boxes that started together do not call together."""

_log = logging.getLogger(__name__)


class Duty(StrEnum):
    """What a box does about trust; earlier ones first when both are due."""

    TIME = "time"
    ATTEST = "attest"


@dataclass(slots=True)
class _Plan:
    every_s: float
    due: float = float("-inf")
    tried: float = float("-inf")
    failures: int = 0


class TrustSchedule:
    """When which duty is due: both at once, at first. Times are seconds of any clock that only grows.

    :param random: spreads intervals and pauses.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._plans = {Duty.TIME: _Plan(TIME_EVERY_S), Duty.ATTEST: _Plan(ATTEST_EVERY_S)}

    def next(self) -> tuple[Duty, float]:
        """What is due next, and when."""
        duty = min(self._plans, key=lambda duty: self._plans[duty].due)
        return duty, self._plans[duty].due

    def done(self, duty: Duty, now: float) -> None:
        """It worked: again after its interval."""
        plan = self._plans[duty]
        plan.failures, plan.tried = 0, now
        plan.due = now + plan.every_s * self._random.uniform(1 - _SPREAD, 1)

    def failed(self, duty: Duty, now: float, longest_s: float = LONGEST_PAUSE_S) -> None:
        """It did not: again after a pause that doubles, up to ``longest_s``, half of it left to chance."""
        plan = self._plans[duty]
        plan.failures, plan.tried = plan.failures + 1, now
        pause = min(FIRST_PAUSE_S * 2 ** min(plan.failures - 1, 16), longest_s)
        plan.due = now + pause * self._random.uniform(0.5, 1)

    def wanted(self, duty: Duty, now: float) -> None:
        """Somebody needs it before its time; a pause after a failure is kept, and so is the shortest gap."""
        plan = self._plans[duty]
        if not plan.failures:
            plan.due = min(plan.due, max(now, plan.tried + SHORTEST_GAP_S))

    def hopeful(self, duty: Duty, now: float) -> None:
        """What made it fail has changed: no pause, but for the shortest gap."""
        plan = self._plans[duty]
        plan.failures = 0
        self.wanted(duty, now)


class TrustLoop:
    """Keeps the keeper's time and the hub's verdict fresh.

    :param changed: called when what :meth:`problems` says may have changed.
    """

    def __init__(
        self,
        zone: ZoneId,
        keeper: KeeperPort,
        hub: TrustPort,
        *,
        changed: Callable[[], None] = lambda: None,
        random: Random | None = None,
    ) -> None:
        self._zone = zone
        self._keeper = keeper
        self._hub = hub
        self._changed = changed
        self._schedule = TrustSchedule(random or Random())  # noqa: S311 - spreads calls
        self._woken = Signal()
        self._problems: dict[Duty, BsfgError] = {}
        self._state: KeeperState | None = None
        self.boundary_unix_ms: int | None = None
        """Boundary time as the last token told it; ``None``: none yet."""
        self.answer: AttestationAnswer | None = None
        """What the hub said last."""

    def problems(self) -> list[tuple[str, BsfgError]]:
        """What is wrong now, by duty."""
        return [(duty.value, self._problems[duty]) for duty in Duty if duty in self._problems]

    def heard(self, error: BsfgError) -> None:
        """The hub refused a call: if that is because it wants to see evidence, it is shown soon."""
        if error.reason in {Reason.ATTESTATION_STALE, Reason.BOX_QUARANTINED}:
            self._schedule.wanted(Duty.ATTEST, trio.current_time())
            self._woken.fire()

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_keeper)
            while True:
                woken = self._woken.next()
                duty, due = self._schedule.next()
                if due > trio.current_time():
                    with trio.move_on_at(due):
                        await woken.wait()
                    continue
                await self._attempt(duty)

    async def _watch_keeper(self) -> None:
        """The keeper says when it knows no time, when it was enrolled, and when its TPM is well again."""
        while True:
            try:
                state = (await self._keeper.status()).state
            except BsfgError:
                state = None
            now = trio.current_time()
            if state is KeeperState.TIME_UNKNOWN:
                self._schedule.wanted(Duty.TIME, now)
                self._woken.fire()
            was_enrolled = self._state is KeeperState.NOT_ENROLLED and state not in {None, KeeperState.NOT_ENROLLED}
            if was_enrolled or (state is KeeperState.READY and self._state not in {None, KeeperState.READY}):
                self._schedule.hopeful(Duty.ATTEST, now)
                self._woken.fire()
            self._state = state or self._state
            await trio.sleep(LOOK_EVERY_S)

    async def _attempt(self, duty: Duty) -> None:
        problem: BsfgError | None = None
        try:
            await (self._get_time() if duty is Duty.TIME else self._attest())
        except BsfgError as error:
            longest_s = AWAY_PAUSE_S if error.reason is Reason.LINK_DOWN else LONGEST_PAUSE_S
            self._schedule.failed(duty, trio.current_time(), longest_s)
            problem = error
        else:
            self._schedule.done(duty, trio.current_time())
        self._note(duty, problem)

    async def _get_time(self) -> None:
        token = await self._hub.get_time(await self._keeper.time_nonce())
        self.boundary_unix_ms = await self._keeper.set_time(token)

    async def _attest(self) -> None:
        """Show evidence. What the hub does not like about it may be over soon: a boot under way, a file just replaced.

        :raises DeniedError: ``attestation_failed``, with the hub's findings.
        """
        nonce = await self._hub.begin_attestation(self._zone)
        certified, quote = await self._keeper.certify(nonce), await self._keeper.quote(nonce)
        answer = await self._hub.attest(self._zone, Evidence.of(self._zone, quote, certified).render())
        self.answer = answer
        if not answer.accepted:
            raise DeniedError(Reason.ATTESTATION_FAILED, "; ".join(answer.findings)[:512])

    def _note(self, duty: Duty, problem: BsfgError | None) -> None:
        before = self._problems.pop(duty, None)
        if problem is not None:
            self._problems[duty] = problem
        if str(before) != str(problem):
            _log.log(
                logging.INFO if problem is None else logging.WARNING, "%s: %s", duty.value, problem or "works again"
            )
        self._changed()
