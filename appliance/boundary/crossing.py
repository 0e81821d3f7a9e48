# SPDX-License-Identifier: Apache-2.0
"""One category crossing in one direction: the transfer table, carried out over a source and a sink.

A pull is a remote source and the local sink; a push is the local source and a remote sink. This module does not know
which: it is run by the side that dials, and obeys the frontier, the credit and the pauses the sink answers with.
Receipts go beside the pages (:mod:`appliance.boundary.confirming`): no page waits for a signature.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import trio

from appliance.boundary.claims import Signal
from appliance.boundary.confirming import Confirmer
from appliance.boundary.errors import BsfgError, PositionError, RefusedError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import (
    MAX_PAGE_BYTES,
    MAX_PAGE_FACTS,
    START,
    FetchRequest,
    Page,
    PageAnswer,
    Position,
    Receipt,
    Signature,
)
from appliance.boundary.ports import SinkPort, SourcePort
from appliance.boundary.reasons import Reason
from appliance.boundary.transfer import Backoff, Event, Step, TransferMachine

_log = logging.getLogger(__name__)

_AWAY = frozenset(
    (
        Reason.LINK_DOWN,
        Reason.PEER_TIMEOUT,
        # The peer, or we: one of the two may not speak to the other now.
        Reason.BAD_CERTIFICATE,
        Reason.UNKNOWN_PEER,
        Reason.ATTESTATION_STALE,
        Reason.ATTESTATION_FAILED,
        Reason.NO_SESSION,
        Reason.NOT_ENROLLED,
        Reason.TIME_UNKNOWN,
        Reason.KEY_LATCHED,
        Reason.KEEPER_UNAVAILABLE,
        Reason.TPM_ABSENT,
        Reason.TPM_BUSY,
        Reason.TPM_REFUSED,
        Reason.TPM_FAULT,
    )
)
"""Reasons that mean: the boundary itself cannot be reached, be it for want of a link or of a proof of who we are."""

RECEIPT_LOOK_MS = 100
"""How soon the receiver is asked again, at first, for a receipt that it is still signing."""


@dataclass(slots=True)
class CrossingStatus:
    """What a crossing looks like from outside; lag in facts, times on trio's clock."""

    name: str
    step: Step = Step.LOCATE
    offset: int = 0
    epoch: bytes = b""
    lag: int = 0
    facts: int = 0
    pages: int = 0
    gaps: int = 0
    confirmed: int = 0
    reachable: bool = False
    last_exchange: float | None = None
    problem: BsfgError | None = None
    receipt_problem: BsfgError | None = None
    """Why receipts do not get through; facts cross all the same."""

    def problems(self) -> Iterator[tuple[BsfgError, str]]:
        """What is wrong now, and where."""
        if self.problem is not None:
            yield self.problem, self.name
        if self.receipt_problem is not None and self.receipt_problem is not self.problem:
            yield self.receipt_problem, f"{self.name}, receipts"


@dataclass(frozen=True, slots=True)
class Observer:
    """Who is told that the peer was reached (and whether facts still wait) or could not be."""

    reached: Callable[[str, bool], None] = field(default=lambda name, behind: None)
    unreachable: Callable[[str], None] = field(default=lambda name: None)


class Crossing:
    """Carries one category of facts from ``origin`` to ``reader`` until cancelled.

    ``back`` is shared by the crossings of one peer: fired when the peer was reached again, it ends their pauses.
    """

    def __init__(
        self,
        name: str,
        category: Category,
        origin: ZoneId,
        reader: ZoneId,
        source: SourcePort,
        sink: SinkPort,
        *,
        wait_ms: int = 5000,
        page_facts: int = MAX_PAGE_FACTS - 1,
        backoff: Backoff | None = None,
        observer: Observer | None = None,
        back: Signal | None = None,
    ) -> None:
        self.status = CrossingStatus(name)
        self.category, self._origin, self._reader = category, origin, reader
        self._source, self._sink = source, sink
        self._wait_ms, self._page_facts = wait_ms, page_facts
        self._backoff = backoff or Backoff()
        self._confirmer = Confirmer(name, self._confirm_receipt, self._confirmed, self._backoff)
        self._looks = 0
        self._observer = observer or Observer()
        self._back = back or Signal()
        self._machine = TransferMachine()
        self._epoch = b""
        self._at: Position = START
        self._first_look = True
        self._page: Page | None = None
        self._prefetched: Page | None = None
        self._credit = page_facts
        self._steps: dict[Step, Callable[[], Awaitable[Event]]] = {
            Step.LOCATE: self._locate,
            Step.FETCH: self._fetch,
            Step.COMMIT: self._commit,
            Step.CONFIRM: self._confirm,
            Step.PAUSE: self._pause,
        }

    async def run(self) -> None:
        """Walk the table for ever, and hand over receipts beside it; ends only by cancellation or a defect."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._confirmer.run)
            while True:
                await self._step()

    async def _step(self) -> None:
        """Carry out one step and take its transition."""
        try:
            event = await self._steps[self._machine.step]()
        except PositionError as error:
            event = self._moved(error)
        except BsfgError as error:
            event = self._failed(error)
        self.status.step = self._machine.apply(event)
        self.status.receipt_problem = self._confirmer.problem

    # -- steps -------------------------------------------------------------------------------------------------------

    async def _locate(self) -> Event:
        self._prefetched = None
        answer = await self._sink.append_page(self._origin, self._probe())
        self._epoch, self._at = answer.epoch, answer.frontier
        self._credit = self._page_facts
        self._confirmer.forget()  # either side may have forgotten what it was given
        self._confirmer.offer(answer.receipt)
        self._first_look, self._looks = True, 0
        return Event.LOCATED

    async def _fetch(self) -> Event:
        page, self._prefetched = self._prefetched, None
        if page is None:
            # The first look does not wait: whether there is a backlog must be known at once.
            page = await self._fetch_after(self._at, 0 if self._first_look else self._patience_ms())
            self._first_look = False
        self._check(page)
        self._epoch, self._page = page.epoch, page
        self._update(page)
        if page.is_probe:
            return Event.EMPTY
        return Event.PAGE

    async def _commit(self) -> Event:
        page = self._page
        if page is None:
            raise AssertionError("the table leads here from FETCH alone")
        answer = await self._append(page)
        if answer.frontier == page.after:
            return await self._hold(answer)
        self.status.facts += len(page.facts)
        self.status.gaps += len(page.gaps)
        self.status.pages += 1
        self._at = answer.frontier
        self._update(page)
        self._exchanged(behind=page.pending > 0)
        return await self._obey(answer)

    async def _confirm(self) -> Event:
        if self._epoch:
            answer = await self._sink.append_page(self._origin, self._probe(), self._confirmer.take_countersigned())
            if answer.frontier != self._at:
                self._at = answer.frontier
                return Event.MOVED
            self._confirmer.offer(answer.receipt)
            is_newest = self._at == START or (answer.receipt is not None and answer.receipt.through == self._at)
            # Somebody is still signing: look again soon, and ever less often, for that may take as long as it likes.
            self._looks = 0 if is_newest and not self._confirmer.is_busy else self._looks + 1
        self._exchanged(behind=self.status.lag > 0)
        return Event.CONFIRMED

    async def _pause(self) -> Event:
        with trio.move_on_after(self._backoff.pause(max(1, self._machine.failures))):
            await self._back.next().wait()  # another crossing has reached the peer
        return Event.RESTED

    # -- inside ------------------------------------------------------------------------------------------------------

    def _probe(self) -> Page:
        return Page(self._origin, self.category, self._epoch, START, START)

    async def _fetch_after(self, after: Position, wait_ms: int) -> Page:
        request = FetchRequest(
            self.category, self._epoch, after, min(self._credit, self._page_facts), MAX_PAGE_BYTES, wait_ms
        )
        return await self._source.fetch_page(self._reader, request)

    async def _append(self, page: Page) -> PageAnswer:
        """Hand a page over, and get the next one meanwhile if more is waiting."""
        outcome: PageAnswer | BsfgError
        async with trio.open_nursery() as nursery:
            if page.pending > 0:
                nursery.start_soon(self._prefetch, page.through)
            try:
                outcome = await self._sink.append_page(self._origin, page, self._confirmer.take_countersigned())
            except BsfgError as error:  # raised again outside, so that it does not come as a group
                nursery.cancel_scope.cancel()
                outcome = error
        if isinstance(outcome, BsfgError):
            raise outcome
        return outcome

    async def _prefetch(self, after: Position) -> None:
        """Get the next page while this one is being committed; if that fails, the next step finds out by itself."""
        try:
            self._prefetched = await self._fetch_after(after, 0)
        except BsfgError:
            self._prefetched = None

    def _check(self, page: Page) -> None:
        """A page must be the answer to what was asked, whoever sent it."""
        if page.origin != self._origin or page.category != self.category or page.after != self._at:
            raise PositionError(Reason.OUT_OF_ORDER, f"asked after {self._at.offset}, got after {page.after.offset}")
        if self._epoch and page.epoch != self._epoch:
            raise PositionError(Reason.LOG_DIVERGED, "the page is of another epoch", epoch=page.epoch)

    async def _hold(self, answer: PageAnswer) -> Event:
        """The receiver took nothing of the page and said when to come again: its buffer is full."""
        full = RefusedError(Reason.BUFFER_FULL, f"{self.status.name}: the receiver takes nothing now")
        if self.status.problem is None:
            _log.warning("%s", full)
        self._observer.reached(self.status.name, True)
        self.status.problem = full
        self._prefetched = None
        return await self._obey(answer)

    async def _obey(self, answer: PageAnswer) -> Event:
        self._credit = max(1, min(answer.credit_facts, self._page_facts))
        if answer.retry_after_ms > 0:
            await trio.sleep(answer.retry_after_ms / 1000)
        self._confirmer.offer(answer.receipt)
        self._looks = 0
        return Event.COMMITTED

    def _patience_ms(self) -> int:
        """How long to wait for facts: less while a receipt or a countersignature is on its way."""
        if self._looks == 0 and not self._confirmer.is_busy:
            return self._wait_ms
        return min(self._wait_ms, RECEIPT_LOOK_MS << min(self._looks, 16))

    async def _confirm_receipt(self, receipt: Receipt) -> Signature:
        return await self._source.confirm_receipt(self._reader, receipt)

    def _confirmed(self, receipt: Receipt) -> None:
        self.status.confirmed = receipt.through.offset

    def _update(self, page: Page) -> None:
        status = self.status
        status.offset, status.epoch = self._at.offset, page.epoch
        status.lag = page.pending + (0 if self._at == page.through else len(page.facts))

    def _exchanged(self, *, behind: bool) -> None:
        """Both sides have answered, one of which is the peer."""
        self.status.reachable, self.status.problem = True, None
        self.status.last_exchange = trio.current_time()
        self._observer.reached(self.status.name, behind)

    def _moved(self, error: PositionError) -> Event:
        _log.info("%s: %s", self.status.name, error)
        if error.reason is Reason.LOG_DIVERGED or not error.epoch:
            self._epoch = error.epoch  # none: the sink's newest is where to go on
        return Event.MOVED if error.reason is not Reason.TOO_MANY_EPOCHS else self._failed(error)

    def _failed(self, error: BsfgError) -> Event:
        if self.status.problem is None or self.status.problem.reason is not error.reason:
            _log.warning("%s: %s", self.status.name, error)
        self.status.problem = error
        self._epoch = b""  # located anew: the sink's newest epoch is the one to go on with
        if error.reason in _AWAY:
            self.status.reachable = False
            self._observer.unreachable(self.status.name)
        return Event.FAILED
