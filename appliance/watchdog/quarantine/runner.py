# SPDX-License-Identifier: Apache-2.0
"""Quarantine as it is done: the cut at once, then step by step, each tried until it holds.

Theory of operation: :meth:`Quarantine.enter` cuts the uplink in the caller's own task, before it returns; nothing else
is needed for that. A task of its own then does the other steps of :data:`~appliance.watchdog.quarantine.steps.LADDER`
and writes down each one. At the start :meth:`Quarantine.resume` finds out whether the box was in quarantine, makes it
dark again before anything else, and the same task does what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.public import Digest
from appliance.watchdog.lease import Blackout
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.quarantine.case import Case, Moment, open_case
from appliance.watchdog.quarantine.folder import CaseFolder
from appliance.watchdog.quarantine.journal import Done, Journal, Phase
from appliance.watchdog.quarantine.ladder import Ladder
from appliance.watchdog.quarantine.ports import EvidenceTaker, Lock
from appliance.watchdog.quarantine.resuming import DOUBT, Answer, Standing, Start, answer_of, start_of
from appliance.watchdog.quarantine.states import TRANSITIONS, Darkness, Event
from appliance.watchdog.quarantine.steps import Step
from appliance.watchdog.suspicions import Code

STEP_S: Final = 120.0
"""No attempt at a step takes longer; keeper and collector have deadlines of their own, which are shorter."""
DOUBT_EVERY_S: Final = 1.0
_LOCKED_BEFORE: Final = "the TPM has it locked, and the disk knows of no quarantine"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class World:
    """What quarantine needs of the box.

    :param tell: write the status document now. :param moment: where and when it is.
    :param clock: seconds that only grow. :param blocking: calls what writes to the disk.
    :param step_done: called after each step, before it is written down (``False``) and again afterwards; for tests,
        which end the process there.
    """

    blackout: Blackout
    lock: Lock
    evidence: EvidenceTaker
    folder: CaseFolder
    moment: Callable[[], Moment]
    tell: Callable[[], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    blocking: Callable[..., Awaitable[None]] = trio.to_thread.run_sync
    step_done: Callable[[Step, bool], None] = lambda _step, _written: None


class Quarantine:
    """The one way into quarantine and out of it. For one trio task at a time, but for what is said of each call."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.darkness = Darkness.NONE
        self.ladder: Ladder | None = None
        self.case: Case | None = None
        self.cut_problem = ""
        """Why the uplink could not be made dark; empty: it was, or need not be."""
        self.unwritten = ""
        """Why the journal on the disk is behind; empty: it is not."""
        self._entered = trio.Event()
        self._writing = trio.Lock()

    @property
    def known(self) -> bool:
        """Whether this box knows why its key is locked and PCR 14 extended: from the cut until its next start."""
        return self.darkness in {Darkness.QUARANTINED, Darkness.RELEASED}

    def awaits_release(self) -> Digest | None:
        """The evidence that operators are to sign over; ``None``: not in quarantine, or it is not complete."""
        if self.darkness is not Darkness.QUARANTINED or self.ladder is None:
            return None
        return self.ladder.journal.evidence

    # -- in ------------------------------------------------------------------------------------------------------------

    def resume(self) -> Start:
        """At the start: whether the box is in quarantine. It is dark when this returns, if it must be. Blocking."""
        try:
            dark = self._world.blackout.darkened()
        except BsfgError as error:
            _log.warning("whether the uplink is dark cannot be seen: %s", error)
            dark = None
        moment = self._world.moment()
        start = start_of(self._world.folder.memory(moment.boot_id, dark))
        match start.standing:
            case Standing.FREE:
                return start
            case Standing.IN_DOUBT:
                self._move(Event.DAMAGED)
                self.cut(DOUBT)
            case Standing.AWAITS_RESTART if start.journal:
                self._move(Event.WAITED)
                self.case, self.ladder = start.case, Ladder(start.journal)
                self.cut(start.journal.code)
            case Standing.GO_ON if start.journal:
                self.case, self.ladder = start.case, Ladder(start.journal)
                self._begin(start.journal.code)
            case _:
                self.enter(Seen(start.code or Code.QUARANTINE_FORGOTTEN, start.detail), (), Event.REMEMBERED)
        _log.critical("the box starts in the dark: %s", start.standing)
        self._entered.set()
        return start

    def enter(self, seen: Seen, readings: Iterable[Reading], event: Event = Event.FINDING) -> bool:
        """Cut the uplink, now, and have the other steps done. From any state but quarantine itself.

        Blocking, for the milliseconds that one transaction of the kernel takes.

        :param seen: a finding that quarantines. :param readings: the last one of each probe.
        :param event: what it is to the state machine.
        :return: whether this call did it; else the box was in quarantine, or is released and dark until its restart.
        """
        if (self.darkness, event) not in TRANSITIONS:
            _log.warning("in quarantine already; besides: %s %s", seen.code, seen.detail)
            return False
        self._move(event)
        began = self._world.clock()
        self.cut(seen.code)
        took_us = self._us(began)
        self.case = open_case(self._world.moment(), seen, readings)
        self.ladder = Ladder(Journal(self.case.code, self.case.digest()))
        self._cut_done(took_us)
        _log.critical("QUARANTINE: %s: %s", seen.code, seen.detail)
        self._entered.set()
        return True

    def cut(self, why: str) -> bool:
        """Make the uplink dark. Raises nothing: what fails is a problem, and is tried again. Blocking."""
        try:
            self._world.blackout.dark(why)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next step must be taken all the same
            self.cut_problem = str(error)
            _log.critical("the uplink cannot be made dark: %s", error)
            return False
        self.cut_problem = ""
        return True

    def _move(self, event: Event) -> None:
        self.darkness = TRANSITIONS[self.darkness, event]

    def _begin(self, code: Code) -> None:
        self._move(Event.REMEMBERED)
        began = self._world.clock()
        self.cut(code)
        self._cut_done(self._us(began))

    def _cut_done(self, took_us: int) -> None:
        if self.ladder is None or self.cut_problem:
            return
        if not self.ladder.journal.has(Step.CUT):
            self._done(Step.CUT, took_us)
        self._world.step_done(Step.CUT, False)

    # -- step by step --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what is due, until cancelled; nothing as long as the box is not in quarantine."""
        while True:
            await self._entered.wait()
            self._entered = trio.Event()
            while self.darkness is Darkness.IN_DOUBT:
                await self._ask()
            await self._climb()

    async def _ask(self) -> None:
        """Let the TPM end the doubt."""
        try:
            answer = answer_of(await self._world.lock.state())
        except BsfgError as error:
            _log.warning("in doubt, and the keeper does not answer: %s", error)
            answer = Answer.WAIT
        if self.darkness is not Darkness.IN_DOUBT:
            return
        if answer is Answer.LOCKED:
            self.enter(Seen(Code.KEY_LATCHED, _LOCKED_BEFORE), (), Event.LOCKED)
        elif answer is Answer.FREE:
            await self._world.blocking(self._world.folder.set_aside)
            self._light()
        if self.darkness is Darkness.IN_DOUBT:
            await trio.sleep(DOUBT_EVERY_S)

    def _light(self) -> None:
        if self.darkness is not Darkness.IN_DOUBT:
            return
        try:
            self._world.blackout.light()
        except BsfgError as error:
            _log.warning("the dark cannot be ended: %s", error)
            return
        self._move(Event.OPENS)
        _log.warning("the files of a quarantine were damaged; the TPM says that there is none")

    async def _climb(self) -> None:
        while self.darkness is Darkness.QUARANTINED and self.ladder is not None:
            now = self._world.clock()
            step = self.ladder.due(now)
            if step is not None:
                await self._attempt(step)
            elif (wait_s := self.ladder.wait_s(now)) is not None:
                await trio.sleep(wait_s)
            else:
                return

    async def _attempt(self, step: Step) -> None:
        ladder, began = self.ladder, self._world.clock()
        if ladder is None:
            return
        try:
            with trio.fail_after(STEP_S):
                await self._do(step, ladder, began)
        except trio.TooSlowError:
            ladder.failed(step, f"no answer within {STEP_S:g} s", self._world.clock())
        except (BsfgError, OSError) as error:
            ladder.failed(step, str(error), self._world.clock())
        except Exception as defect:  # noqa: BLE001 - the next attempt may succeed; to give up would be no better
            _log.exception("step %s", step)
            ladder.failed(step, f"{type(defect).__name__}: {defect}", self._world.clock())
        else:
            self._world.step_done(step, False)
            await self._write()
            self._world.step_done(step, True)
            return
        _log.error("quarantine, step %s: %s", step, ladder.troubles[step].problem)

    async def _do(self, step: Step, ladder: Ladder, began: float) -> None:
        """One attempt. :raises BsfgError, OSError: it failed."""
        match step:
            case Step.CUT:
                if not self.cut(ladder.journal.code):
                    raise UnavailableError(Reason.FIREWALL_FAULT, self.cut_problem)
                self._done(step, self._us(began))
            case Step.CASE:
                if self.case is not None:
                    await self._world.blocking(self._world.folder.keep_case, self.case)
                self._done(step, self._us(began))
            case Step.LOCK:
                counts = ladder.journal.code is not Code.KEY_LATCHED
                latched = await self._world.lock.lock(ladder.journal.case, counts=counts)
                ladder.succeeded(self._made(step, self._us(began)), latched=latched)
            case Step.EVIDENCE:
                if self.case is None:
                    raise UnavailableError(Reason.INTERNAL, "there is no case")
                evidence = await self._world.evidence.take(self.case, ladder.journal.latched)
                ladder.succeeded(self._made(step, self._us(began)), evidence=evidence)
            case Step.TOLD:
                await self._world.tell()
                _log.critical("%s", self.banner())
                self._done(step, self._us(began))

    def _done(self, step: Step, took_us: int) -> None:
        if self.ladder is not None:
            self.ladder.succeeded(self._made(step, took_us))

    def _made(self, step: Step, took_us: int) -> Done:
        at = self._world.moment()
        tries = self.ladder.tries(step) + 1 if self.ladder else 1
        return Done(step, at.unix_ms, at.boottime_ms, at.boot_id, took_us, tries)

    async def _write(self) -> None:
        """Keep the journal. A disk that takes nothing does not end a quarantine: the TPM and this process know it."""
        if self.ladder is None:
            return
        async with self._writing:
            try:
                await self._world.blocking(self._world.folder.keep_journal, self.ladder.journal)
                self.unwritten = ""
            except OSError as error:
                self.unwritten = str(error)
                _log.error("the quarantine's journal cannot be written: %s", error)

    def _us(self, began: float) -> int:
        return max(0, int((self._world.clock() - began) * 1e6))

    def banner(self) -> str:
        """What a log and a screen say of it, in one line."""
        journal = self.ladder.journal if self.ladder else None
        if journal is None or journal.evidence is None:
            return "BOX IN QUARANTINE"
        counter = journal.latched.counter if journal.latched else "?"
        return f"BOX IN QUARANTINE: {journal.code}, counter {counter}, evidence {journal.evidence.hex()}"

    # -- out -----------------------------------------------------------------------------------------------------------

    async def release(self, document: bytes) -> None:
        """Take a release of both operators. The box stays dark until the machine is started again.

        :raises RefusedError: ``not_quarantined``, ``bad_release``. :raises DeniedError: ``bad_release``.
        :raises UnavailableError: ``not_ready``; ``disk_failed``: the TPM took it, and it cannot be written down.
        """
        if self.ladder is None or self.darkness not in {Darkness.QUARANTINED, Darkness.RELEASED}:
            raise RefusedError(Reason.NOT_QUARANTINED)
        ladder = self.ladder
        ladder.check_release(document)
        await self._world.lock.release(document)
        at = self._world.moment()
        async with self._writing:
            if ladder.journal.phase is Phase.RELEASED:  # by somebody who was a moment earlier
                return
            released = ladder.journal.released(at.boot_id, at.unix_ms)
            try:
                await self._world.blocking(self._world.folder.keep_journal, released)
            except OSError as error:
                raise UnavailableError(Reason.DISK_FAILED, f"the release cannot be written down: {error}") from error
            ladder.journal = ladder.journal.released(at.boot_id, at.unix_ms)
            self._move(Event.RELEASE)
        _log.critical("the box was released by two operators; it stays dark until it is started again")
