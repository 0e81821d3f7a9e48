# SPDX-License-Identifier: Apache-2.0
"""Signing receipts for what was received, beside the pages: a signature takes a TPM up to a second.

Theory of operation: whoever commits a page only says that a receipt is due. One loop signs, one receipt at a time, for
where the log stands when its turn comes, and never holds the log's lock meanwhile; so whatever was committed while a
signature was under way is in the next one. A receipt is good once the ledger has it. When the key cannot be used
(latched, its keeper away), pages are committed as ever, and what is due waits and is tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

from appliance.boundary.claims import Signal
from appliance.boundary.errors import BsfgError, IntegrityError
from appliance.boundary.forward import ForwardBuffer
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import START, Receipt
from appliance.boundary.ports import KeysPort, LedgerPort
from appliance.boundary.records import Incident
from appliance.boundary.transfer import Backoff

_log = logging.getLogger(__name__)

LONGEST_PAUSE_S: Final = 15.0
"""How long signing rests at most before it is tried again."""


class ReceiptSigner:
    """Signs what is due for all logs of a zone, one after the other: a TPM does one thing at a time.

    ``problem`` says why nothing can be signed now; ``waiting`` for how many logs.
    """

    def __init__(
        self,
        zone: ZoneId,
        ledger: LedgerPort,
        keys: KeysPort,
        *,
        wall_clock_ms: Callable[[], int],
        note: Callable[[Incident], None],
        backoff: Backoff | None = None,
    ) -> None:
        self.problem: BsfgError | None = None
        self.keeping = trio.Lock()
        """Held while a receipt goes into the ledger, so that an older one does not come to stand behind it."""
        self._zone = zone
        self._ledger = ledger
        self._keys = keys
        self._wall_clock_ms = wall_clock_ms
        self._note = note
        self._backoff = backoff or Backoff(longest=LONGEST_PAUSE_S)
        self._due: dict[ForwardBuffer, None] = {}
        self._changed = Signal()
        self._failures = 0

    @property
    def waiting(self) -> int:
        """How many logs have a receipt due that is not signed yet."""
        return len(self._due)

    def want(self, buffer: ForwardBuffer) -> None:
        """A receipt is due for where this log stands."""
        self._due.setdefault(buffer)
        self._changed.fire()

    async def run(self) -> None:
        """Sign what is due until cancelled; what fails is tried again."""
        while True:
            changed = self._changed.next()
            if not self._due:
                await changed.wait()
                continue
            buffer = next(iter(self._due))
            del self._due[buffer]  # due again from here on is for what comes from here on
            try:
                await self._sign(buffer)
            except IntegrityError as error:  # that log alone gets no receipt, until it is asked for one again
                _log.error("%s %s: %s", buffer.log_id.origin, buffer.log_id.category, error)
            except BsfgError:
                self._due.setdefault(buffer)  # behind the others
                self._failures += 1
                await trio.sleep(self._backoff.pause(self._failures))
            else:
                self._failures = 0

    async def _sign(self, buffer: ForwardBuffer) -> None:
        async with buffer.lock:
            await buffer.settled()
            through, held = buffer.frontier, buffer.receipted
        if through == START or (held is not None and held.through.offset >= through.offset):
            return
        buffer.signed_at = trio.current_time()
        log = buffer.log_id
        unsigned = Receipt(log.origin, self._zone, log.category, log.epoch, through, self._wall_clock_ms())
        try:
            receipt = replace(unsigned, signature=await self._keys.sign(unsigned.statement()))
        except BsfgError as error:
            await self._report(error)
            raise
        self.problem = None
        async with buffer.lock:
            await buffer.settled()
            if buffer.frontier.offset < through.offset:
                return  # the log was replaced by an older copy meanwhile: this is no longer true
            async with self.keeping:
                await self._ledger.put_receipt(receipt, None)
            buffer.receipted = receipt

    async def _report(self, error: BsfgError) -> None:
        """An operator is told once, and again when it is for another reason."""
        if self.problem is None or self.problem.reason is not error.reason:
            detail = f"receipts cannot be signed, and wait; facts are received as ever: {error}"
            _log.warning("%s", detail)
            incident = Incident(error.reason, detail, {"zone": self._zone})
            self._note(incident)
            with suppress(BsfgError):
                await self._ledger.note(incident)
        self.problem = error
