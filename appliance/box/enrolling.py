# SPDX-License-Identifier: Apache-2.0
"""Enrolling over the network until the hub has let this box in: what to do next and when, and the loop that does it.

Whatever happens is said in a status document, and tried again: the hub may be down, an operator may not have decided, a
refusal may be mended at the hub. Only a grant ends it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.box.states import EnrolState
from appliance.keys.enrolment import boxside
from appliance.keys.enrolment.documents import Grant, Pending
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.port import KeeperPort, KeeperState
from appliance.keys.tpm.endorsement import fingerprint_of
from appliance.node.documents import problem_of

FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 60.0
"""Between attempts that reach nobody."""
WAITING_PAUSE_S: Final = 10.0
"""While an operator has yet to decide."""
REFUSED_PAUSE_S: Final = 120.0
"""After a refusal, which costs the hub a challenge each time."""
KEEPER_PAUSE_S: Final = 2.0
SAY_EVERY_S: Final = 4.0
"""A status document that is older than ten seconds counts as left behind."""
_NOT_YET: Final = frozenset(
    {KeeperState.NOT_PROVISIONED, KeeperState.TPM_ABSENT, KeeperState.TPM_BUSY, KeeperState.LATCHED}
)
"""Nothing can be proven now. A latched box cannot ask for a certificate."""

_log = logging.getLogger(__name__)

Answer = Grant | Pending | BsfgError


@dataclass(slots=True)
class Standing:
    """What came of the attempts so far, and when to make the next. :param random: spreads pauses."""

    random: Random = field(default_factory=Random)
    state: EnrolState = EnrolState.CALLING
    problem: BsfgError | None = None
    failures: int = 0

    def note(self, answer: Answer) -> float:
        """An attempt's answer; seconds until the next one."""
        if isinstance(answer, Grant):
            self.state, self.problem = EnrolState.ENROLLED, None
            return 0.0
        if isinstance(answer, Pending):
            self.state, self.problem, self.failures = EnrolState.WAITING, None, 0
            return WAITING_PAUSE_S
        self.problem = answer
        if not isinstance(answer, UnavailableError):
            self.state, self.failures = EnrolState.REFUSED, 0
            return REFUSED_PAUSE_S
        self.state = EnrolState.CALLING
        self.failures += 1
        return min(FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 10), LONGEST_PAUSE_S) * self.random.uniform(0.5, 1)


class Enrolling:
    """The loop.

    :param send: carries a document to the hub and brings its answer. :param voucher: read anew for each attempt.
    :param say: writes the status document; blocking.
    """

    def __init__(
        self,
        keeper: KeeperPort,
        send: Callable[[bytes], Awaitable[bytes]],
        zone: ZoneId,
        pki: PkiFolder,
        voucher: Path,
        say: Callable[[dict[str, Any]], None],
    ) -> None:
        self._keeper, self._send, self._zone, self._pki = keeper, send, zone, pki
        self._voucher = voucher
        self._say = say
        self._fingerprint = ""
        self._since_unix_ms = time.time_ns() // 1_000_000
        self.standing = Standing()

    async def run(self) -> None:
        """Return when the box is enrolled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_saying)
            while not await self._enrolled():
                await trio.sleep(self._note(await self._attempt()))
                if self.standing.state is EnrolState.ENROLLED:
                    break
            self._become(EnrolState.ENROLLED)
            nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(self._report)
        _log.info("%s is enrolled", self._zone)

    async def _enrolled(self) -> bool:
        """Whether the keeper has a certificate; waits until its TPM can say so."""
        while True:
            try:
                status = await self._keeper.status()
            except BsfgError as error:
                self.standing.problem = error
            else:
                if status.state not in _NOT_YET:
                    return status.state is not KeeperState.NOT_ENROLLED
            await trio.sleep(KEEPER_PAUSE_S)

    async def _attempt(self) -> Answer:
        try:
            if not self._fingerprint:
                self._fingerprint = fingerprint_of((await self._keeper.describe()).ek_public)
            papers = boxside.Papers(await trio.to_thread.run_sync(self._read_voucher))
            return await boxside.enrol(self._keeper, self._send, self._zone, self._pki, papers)
        except BsfgError as error:
            return error

    def _read_voucher(self) -> bytes:
        try:
            return self._voucher.read_bytes()
        except OSError:
            return b""

    def _note(self, answer: Answer) -> float:
        before, problem = self.standing.state, str(self.standing.problem)
        pause_s = self.standing.note(answer)
        if (self.standing.state, str(self.standing.problem)) != (before, problem):
            _log.info("%s %s", self.standing.state, self.standing.problem or "")
        self._become(self.standing.state, before)
        return pause_s

    def _become(self, state: EnrolState, before: EnrolState | None = None) -> None:
        if state is not (before or self.standing.state):
            self._since_unix_ms = time.time_ns() // 1_000_000
        self.standing.state = state
        if state is EnrolState.ENROLLED:
            self.standing.problem = None

    async def _keep_saying(self) -> None:
        while True:
            await trio.to_thread.run_sync(self._report)
            await trio.sleep(SAY_EVERY_S)

    def _report(self) -> None:
        found = self.standing.problem
        self._say(
            {
                "state": self.standing.state,
                "since_unix_ms": self._since_unix_ms,
                "zone": self._zone,
                "fingerprint": self._fingerprint,
                "voucher": self._voucher.is_file(),
                "problems": [] if found is None else [problem_of(found, "enrolment")],
            }
        )
