# SPDX-License-Identifier: Apache-2.0
"""The readers' desk: the agent takes readers' requests for consumers, checks them and passes them on to JetStream.

Only the making of a consumer goes this way; pulling, acknowledging and deleting do not, so reading goes on while the
agent is away. It also answers which streams have a subject, so that a stock client finds them by ``facts.…``. What may
pass, and why, is in :mod:`appliance.brokers.reading`; the ways there are in :mod:`appliance.brokers.facts`.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any, Final

import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers.reading import AT_THE_DESK, DESK, NAMES, consumer_request, streams_with, wanted_subject
from appliance.factlog.natsproto import Delivery, publish
from appliance.factlog.natswire import NatsWire

_log = logging.getLogger(__name__)

WAITING: Final = 256
"""Requests that may wait; a further one is told to come again."""
_CLERKS: Final = 4
_API: Final = "$JS.API."
_TYPE: Final = "io.nats.jetstream.api.v1."
_ERROR_CODE: Final = 19001
"""``err_code`` of every refusal by the desk; outside the broker's own range."""


class ReaderDesk:
    """Answers readers; create it before the connection runs, then :meth:`run`."""

    def __init__(self, wire: NatsWire) -> None:
        self._wire = wire
        self._waiting, self._taken = trio.open_memory_channel[Delivery](WAITING)
        for subject in AT_THE_DESK:
            wire.subscribe(f"{DESK}{subject}", self._deliver)

    async def run(self) -> None:
        """Answer until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(_CLERKS):
                nursery.start_soon(self._clerk)

    def _deliver(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            try:
                self._waiting.send_nowait(delivery)
            except trio.WouldBlock:
                busy = UnavailableError(Reason.NOT_READY, "too many readers ask at once")
                self._send(delivery, _refusal(delivery, busy))

    async def _clerk(self) -> None:
        async for delivery in self._taken:
            try:
                answer = await self._answer(delivery)
            except BsfgError as error:
                _log.info("reader's request on %s: %s", delivery.subject, error)
                answer = _refusal(delivery, error)
            self._send(delivery, answer)

    def _send(self, delivery: Delivery, answer: bytes) -> None:
        with suppress(UnavailableError):  # the connection broke; the reader's request times out
            if delivery.reply:
                self._wire.send(publish(delivery.reply, answer))

    async def _answer(self, delivery: Delivery) -> bytes:
        operation = delivery.subject.removeprefix(DESK)
        if operation != NAMES:
            return (await self._wire.request(f"{_API}{operation}", consumer_request(delivery.payload))).payload
        subject = wanted_subject(delivery.payload)
        if subject is None:
            return (await self._wire.request(f"{_API}{NAMES}", delivery.payload)).payload
        names = streams_with(subject, await self._streams())
        found = {"total": len(names), "offset": 0, "limit": len(names), "streams": names}
        return json.dumps({"type": f"{_TYPE}stream_names_response", **found}).encode()

    async def _streams(self) -> list[tuple[str, list[str]]]:
        """Every stream with what it listens on."""
        found: list[tuple[str, list[str]]] = []
        while True:
            answer = await self._wire.request_json(f"{_API}STREAM.LIST", {"offset": len(found)})
            page: list[dict[str, Any]] = answer.get("streams") or []
            found += [(entry["config"]["name"], entry["config"].get("subjects") or []) for entry in page]
            if not page or len(found) >= answer.get("total", 0):
                return found


def _refusal(delivery: Delivery, error: BsfgError) -> bytes:
    """What JetStream would answer: 400 for what is wrong, 503 for what may be tried again."""
    kind = "stream_names_response" if delivery.subject.endswith(NAMES) else "consumer_create_response"
    code = 400 if isinstance(error, RefusedError) else 503
    words = {"code": code, "err_code": _ERROR_CODE, "description": f"{error.reason}: {error.detail}"}
    return json.dumps({"type": f"{_TYPE}{kind}", "error": words}).encode()
