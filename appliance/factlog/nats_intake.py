# SPDX-License-Identifier: Apache-2.0
"""The intake that speaks the JetStream publish protocol: any stock client's ``js.publish`` works unchanged.

Producers publish on ``facts.<category>.<zone>.<to>.<producer>...`` and get a PubAck, or an error whose description
begins with the stable reason. The broker lets each user publish under its own producer token only, so the subject says
who the author is.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Final

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.intake import Intake, Outcome
from appliance.boundary.names import Category, ZoneId, store_stream
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact
from appliance.boundary.reasons import Reason, RpcCode
from appliance.factlog.natsproto import Delivery, publish
from appliance.factlog.natswire import NatsWire

ERROR_CODE: Final = 19000
"""``err_code`` of every refusal by the intake; outside the broker's own range. The reason decides."""

_CONTROL: Final = ("nats-expected-", "nats-batch-", "nats-rollup", "nats-ttl", "nats-schedule", "nats-incr")
"""Headers by which JetStream does more than store. To ignore them would promise what is not done: they are refused."""

_HTTP: Final = {
    RpcCode.ALREADY_EXISTS: 409,
    RpcCode.RESOURCE_EXHAUSTED: 503,
    RpcCode.UNAVAILABLE: 503,
    RpcCode.DEADLINE_EXCEEDED: 503,
    RpcCode.FAILED_PRECONDITION: 503,
    RpcCode.INTERNAL: 503,
    RpcCode.DATA_LOSS: 503,
}


class NatsIntake:
    """Answers publish requests of one category."""

    def __init__(self, zone: ZoneId, category: Category, wire: NatsWire, intake: Intake) -> None:
        self._stream = store_stream(category)
        self._wire = wire
        self._intake = intake
        wire.subscribe(f"facts.{category}.{zone}.>", self._deliver)

    def _deliver(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            headers = delivery.headers() if delivery.header else {}
            if control := next((name for name in headers if name.lower().startswith(_CONTROL)), None):
                self._answer(delivery.reply, RefusedError(Reason.UNSUPPORTED, f"the header {control[:64]}"))
                continue
            fact = ProducedFact(delivery.subject, delivery.payload, headers.get("Nats-Msg-Id"))
            self._intake.submit([fact], partial(self._answer, delivery.reply))

    def _answer(self, reply: str, outcome: Outcome) -> None:
        if not reply:
            return  # published without asking: stored if it was valid, and nobody wants to know
        answer = error_answer(self._stream, outcome) if isinstance(outcome, BsfgError) else self._pub_ack(outcome[0])
        try:
            self._wire.send(publish(reply, json.dumps(answer).encode()))
        except UnavailableError:
            return  # the producer sees a time-out and sends the same again

    def _pub_ack(self, result: AppendResult) -> dict[str, object]:
        if result.outcome is AppendOutcome.STORED:
            return {"stream": self._stream, "seq": result.offset}
        if result.outcome is AppendOutcome.DUPLICATE:
            return {"stream": self._stream, "seq": result.offset, "duplicate": True}
        code = CATALOGUE[result.reason].rpc if result.reason else RpcCode.INVALID_ARGUMENT
        description = f"{result.reason}: {result.detail}"
        return {
            "stream": self._stream,
            "error": {"code": _HTTP.get(code, 400), "err_code": ERROR_CODE, "description": description},
        }


def error_answer(stream: str, error: BsfgError) -> dict[str, object]:
    """The answer when the outcome is unknown: code 503 tells the producer to send the same again."""
    description = f"{error.reason}: {error.detail}"
    code = _HTTP.get(error.text.rpc, 400)
    return {"stream": stream, "error": {"code": code, "err_code": ERROR_CODE, "description": description}}
