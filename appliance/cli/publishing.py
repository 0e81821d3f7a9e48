# SPDX-License-Identifier: Apache-2.0
"""Publish many messages with the JetStream publish protocol: pipelined, in order, each answered, none given up early.

Theory of operation: messages go out in the order of their lines, at most a window of them unanswered. Every message
waits for its answer on a reply subject of its own. When an answer is missing too long, says 503, or the connection
changed, all unanswered messages are sent again in order: an id is stored once, so sending again cannot double.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.cli.lines import Prepared
from appliance.cli.session import Patience, close, connect
from appliance.factlog.natslogin import NatsOptions

WINDOW: Final = 1000
"""Messages that may be unanswered: as many as the zone's node commits at once."""
WINDOW_BYTES: Final = 8 * 1024 * 1024
ANSWER_TIMEOUT: Final = 5.0
"""Seconds without any answer after which the unanswered messages are sent again."""
_LOOK_EVERY: Final = 0.5
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class Verdict(StrEnum):
    """What the zone's node made of one message."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer for one line; ``offset`` for stored and duplicate, ``reason`` and ``detail`` for the others."""

    number: int
    verdict: Verdict
    offset: int = 0
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TryAgain:
    """An answer that is not final: why the node could not take the message now."""

    reason: Reason
    detail: str


def parse_answer(number: int, payload: bytes) -> Answer | TryAgain:
    """A PubAck as an answer."""
    try:
        ack = json.loads(payload)
        error = ack.get("error")
        if error is None:
            verdict = Verdict.DUPLICATE if ack.get("duplicate") else Verdict.STORED
            return Answer(number, verdict, offset=int(ack["seq"]))
        reason, _, detail = error["description"].partition(": ")
        if error["code"] == 503:
            return TryAgain(Reason(reason) if reason in list(Reason) else Reason.BROKER_UNAVAILABLE, detail)
    except (ValueError, KeyError, TypeError, AttributeError):  # the broker's "no responders" has no payload
        return TryAgain(Reason.BROKER_UNAVAILABLE, "the zone's node does not answer; is it running?")
    verdict = Verdict.CONFLICT if reason == Reason.CONFLICTING_DUPLICATE else Verdict.REJECTED
    return Answer(number, verdict, reason=reason, detail=detail)


@dataclass(slots=True)
class _Flight:
    """A message that has no final answer yet."""

    message: Prepared
    tries: int = 0


class Publisher:
    """Publishes to one zone's facts broker. Use as an asynchronous context manager.

    :param answered: called with the final answer of each message, not necessarily in order.
    :param patience: how long to go on without any answer.
    """

    def __init__(
        self, login: NatsOptions, answered: Callable[[Answer], None], patience: Patience, *, window: int = WINDOW
    ) -> None:
        self._login = login
        self._answered = answered
        self._patience = patience
        self._window = window
        self._flights: dict[int, _Flight] = {}
        self._bytes = 0
        self._again = False
        self._cause = TryAgain(Reason.BROKER_UNAVAILABLE, "no answer")
        self._denied = ""
        self._moved = asyncio.Event()
        self._heard = 0.0
        self._client: Client | None = None
        self._inbox = ""
        self.retried = 0

    async def __aenter__(self) -> Self:
        self._client = await connect(
            self._login, self._patience, on_error=self._on_error, on_reconnect=self._on_reconnect
        )
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await close(self._client)

    async def send(self, messages: Sequence[Prepared]) -> None:
        """Send messages in order; returns when all have been sent.

        :raises UnavailableError: patience is at its end; the reason is what the node last said.
        :raises DeniedError: ``category_denied``: the broker does not let this user publish there.
        """
        for message in messages:
            while len(self._flights) >= self._window or self._bytes >= WINDOW_BYTES:
                await self._progress()
            if not self._flights:
                self._heard = time.monotonic()
            flight = self._flights[message.number] = _Flight(message)
            self._bytes += len(message.payload)
            if not self._again:
                await self._publish(flight)

    async def drain(self) -> None:
        """Wait until everything is answered. :raises BsfgError: as :meth:`send`."""
        while self._flights:
            await self._progress()

    async def tend(self) -> None:
        """Look after what is unanswered while nothing new is there to send. :raises BsfgError: as :meth:`send`."""
        if not self._flights:
            self._patience.progressed()
        elif time.monotonic() - self._heard > ANSWER_TIMEOUT:
            self._again = True
        if self._denied:
            raise DeniedError(Reason.CATEGORY_DENIED, self._denied)
        if self._again:
            await self._send_again()

    async def _publish(self, flight: _Flight) -> None:
        client = self._require_client()
        if not client.is_connected:  # what the client would keep back meanwhile is sent by us, in order
            self._again = True
            return
        self.retried += flight.tries == 1
        flight.tries += 1
        try:
            await client.publish(
                flight.message.subject, flight.message.payload, reply=f"{self._inbox}.{flight.message.number}"
            )
        except (OSError, nats.errors.Error):
            self._again = True

    async def _progress(self) -> None:
        """Wait a while for an answer; send again when that is due."""
        if not self._again and not self._denied:
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await self._moved.wait()
        await self.tend()

    async def _send_again(self) -> None:
        """Until every message has got out once more and no answer asks for it again; with growing pauses."""
        client, pause = self._require_client(), _FIRST_PAUSE
        while self._again and self._flights:
            self._patience.check(self._cause.detail, self._cause.reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            if not client.is_connected:
                continue
            self._again = False
            self._heard = time.monotonic()
            for flight in list(self._flights.values()):
                if self._again or self._denied:
                    break
                if flight.message.number in self._flights:  # it may be answered meanwhile
                    await self._publish(flight)
        self._again = False

    async def _on_answer(self, msg: Msg) -> None:
        number = int(msg.subject.rpartition(".")[2])
        answer = parse_answer(number, msg.data)
        if isinstance(answer, TryAgain):
            self._again, self._cause = True, answer
        elif (flight := self._flights.pop(number, None)) is not None:
            self._bytes -= len(flight.message.payload)
            self._heard = time.monotonic()
            self._patience.progressed()
            self._answered(answer)
        self._moved.set()

    async def _on_reconnect(self) -> None:
        self._again = True
        self._moved.set()

    async def _on_error(self, error: Exception) -> None:
        if "permissions violation" in str(error).lower():
            self._denied = str(error)
            self._moved.set()

    def _require_client(self) -> Client:
        if self._client is None:
            raise RuntimeError("the publisher is used outside its context")
        return self._client
