# SPDX-License-Identifier: Apache-2.0
"""Taking receipts to the source of the facts, beside the pages: its countersignature may take a second, too.

Theory of operation: a crossing offers every receipt it is given; the newest is taken to the source, one at a time, and
the countersignature waits for the next page or probe to its receiver. What fails is tried again after a pause, and
stops no page.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from appliance.boundary.claims import Signal
from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.pages import Countersigned, Receipt, Signature
from appliance.boundary.transfer import Backoff

_log = logging.getLogger(__name__)

CONFIRM_AGAIN_S: Final = 60.0
"""How often the newest receipt is handed over again while nothing crosses: the source may have lost it."""
REFUSED_PAUSE_S: Final = 15.0
"""How long a receipt rests at most that the source would not or could not sign for; it was reached."""


class Confirmer:
    """Hands one crossing's receipts to the source; ``problem`` says why the last attempt failed.

    :param confirm: the source's ``confirm_receipt`` for one reader.
    :param done: told of each receipt that the source has taken.
    """

    def __init__(
        self,
        name: str,
        confirm: Callable[[Receipt], Awaitable[Signature]],
        done: Callable[[Receipt], None],
        backoff: Backoff,
    ) -> None:
        self.problem: BsfgError | None = None
        self._name = name
        self._confirm = confirm
        self._done = done
        self._away = backoff
        self._refused = Backoff(backoff.first, max(REFUSED_PAUSE_S, backoff.longest), backoff.dice)
        self._changed = Signal()
        self._offered: Receipt | None = None
        self._confirmed: Receipt | None = None
        self._confirmed_at = 0.0
        self._countersigned: Countersigned | None = None
        self._failures = 0
        self._life = 0

    @property
    def is_busy(self) -> bool:
        """Whether a receipt or a countersignature is still on its way."""
        return self._offered is not None or self._countersigned is not None

    def offer(self, receipt: Receipt | None) -> None:
        """A receipt that the receiver gave, unless the source has it already."""
        if receipt is None or receipt == self._offered:
            return
        if receipt == self._confirmed and trio.current_time() - self._confirmed_at < CONFIRM_AGAIN_S:
            return
        self._offered = receipt
        self._changed.fire()

    def forget(self) -> None:
        """Either side may have forgotten what it was given: nothing counts as handed over."""
        self._offered = self._confirmed = self._countersigned = None
        self._life += 1

    def take_countersigned(self) -> Countersigned | None:
        """What is to be handed back to the receiver, once."""
        countersigned, self._countersigned = self._countersigned, None
        return countersigned

    async def run(self) -> None:
        """Hand over what is offered, until cancelled."""
        while True:
            changed, receipt, life = self._changed.next(), self._offered, self._life
            if receipt is None:
                await changed.wait()
                continue
            try:
                signature = await self._confirm(receipt)
            except BsfgError as error:
                await self._failed(receipt, error)
                continue
            self._failures, self.problem = 0, None
            self._done(receipt)
            if life == self._life:
                self._confirmed, self._confirmed_at = receipt, trio.current_time()
                self._countersigned = Countersigned(receipt, signature)
                if receipt == self._offered:
                    self._offered = None

    async def _failed(self, receipt: Receipt, error: BsfgError) -> None:
        if self.problem is None or self.problem.reason is not error.reason:
            _log.warning("%s: receipt at %d: %s", self._name, receipt.through.offset, error)
        self.problem = error
        self._failures += 1
        is_away = isinstance(error, UnavailableError)
        await trio.sleep((self._away if is_away else self._refused).pause(self._failures))
        if not is_away and receipt == self._offered:
            self._offered = None  # this one will not do, or not yet; the next probe tells the newest
