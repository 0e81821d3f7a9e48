# SPDX-License-Identifier: Apache-2.0
"""The demo's producer: the same message again until it is answered, and only then something else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.aio.client import Client
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import APIError, NoStreamResponseError

from appliance.boundary.messages import parse_produced
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.producing import ProducedFact
from appliance.dev.demo import producer as producer_module
from appliance.dev.demo.producer import IN_FLIGHT, Outgoing, Producer

AUDIT, PLANT = Category("audit"), ZoneId("plant-a")


def api_error(code: int, description: str) -> APIError:
    """An answer of the intake that is a refusal."""
    return APIError(code=code, err_code=19000, description=description)


class Broker:
    """Answers each publish with what comes next; remembers what was sent."""

    def __init__(self, *answers: Exception | bool, pause_s: float = 0.0) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.at_once = self.most = 0
        self._answers = list(answers)
        self._pause_s = pause_s

    def jetstream(self) -> Broker:
        """As a connection has it."""
        return self

    async def publish(self, subject: str, payload: bytes, timeout: float) -> Any:  # noqa: ASYNC109 - nats-py's signature
        """The next answer."""
        assert timeout > 0
        self.sent.append((subject, payload))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(self._pause_s)
        self.at_once -= 1
        answer = self._answers.pop(0) if self._answers else False
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(duplicate=answer)


def made(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Producer:
    """A producer that is connected to it."""
    monkeypatch.setattr(producer_module, "TRY_AGAIN_S", 0.0)
    producer = Producer(PLANT, AUDIT, "all", "sensors", {"servers": "nats://nowhere"})
    producer._client = cast(Client, broker)
    return producer


def message(producer: Producer, number: int = 1) -> Outgoing:
    """A fact."""
    return producer.message("press:4", "read", {"n": number})


def test_what_it_sends_is_a_valid_fact() -> None:
    """With an id of its own each time, also of another run; the predicate is the kind."""
    producer = Producer(PLANT, AUDIT, "enterprise", "sensors", {"servers": "nats://nowhere"})
    messages = [message(producer, n) for n in range(3)]
    for outgoing in messages:
        parsed = parse_produced(ProducedFact(outgoing.subject, outgoing.payload, outgoing.message_id))
        assert str(parsed.subject) == "facts.audit.plant-a.enterprise.sensors.read"
    assert len({outgoing.message_id for outgoing in messages}) == 3


@pytest.mark.parametrize(("duplicate", "told"), [(False, "stored"), (True, "duplicate")])
def test_an_acknowledgement(monkeypatch: pytest.MonkeyPatch, duplicate: bool, told: str) -> None:  # noqa: FBT001, RUF100
    """Is remembered with what was sent."""
    producer = made(Broker(duplicate), monkeypatch)
    outgoing = message(producer)
    assert asyncio.run(producer.send(outgoing)) == told
    assert producer.tally.acknowledged == {outgoing.message_id: outgoing.payload}
    assert (producer.tally.sent, producer.tally.answers[told], producer.tally.retries) == (1, 1, 0)


def test_it_repeats_itself_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes, whatever went wrong with the answer."""
    troubles = [
        NatsTimeoutError(),
        TimeoutError(),
        OSError(),
        ConnectionClosedError(),
        NoRespondersError(),
        NoStreamResponseError(),
        api_error(503, "broker_unavailable: x"),
        api_error(503, "buffer_full: x"),
    ]
    broker = Broker(*troubles, True)
    producer = made(broker, monkeypatch)
    outgoing = message(producer)
    assert asyncio.run(producer.send(outgoing)) == "duplicate"
    assert broker.sent == [(outgoing.subject, outgoing.payload)] * (len(troubles) + 1)
    assert (producer.tally.sent, producer.tally.retries, producer.tally.refused) == (1, len(troubles), [])


@pytest.mark.parametrize(
    ("code", "description"), [(409, "conflicting_duplicate: stored sha256 1"), (400, "too_large: x")]
)
def test_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch, code: int, description: str) -> None:
    """The reason is told; nothing is counted as acknowledged."""
    broker = Broker(api_error(code, description))
    producer = made(broker, monkeypatch)
    assert asyncio.run(producer.send(message(producer))) == description.partition(":")[0]
    assert producer.tally.refused == [description]
    assert producer.tally.acknowledged == {}
    assert len(broker.sent) == 1


def test_not_too_many_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer that keeps everything in flight would time itself out."""
    broker = Broker(pause_s=0.001)
    producer = made(broker, monkeypatch)
    answers = asyncio.run(producer.send_all([message(producer, n) for n in range(IN_FLIGHT * 3)]))
    assert answers == ["stored"] * IN_FLIGHT * 3
    assert 1 < broker.most <= IN_FLIGHT


def test_it_ends_its_connection() -> None:
    """Once there is one."""
    producer = Producer(PLANT, AUDIT, "all", "sensors", {"servers": "nats://nowhere"})
    asyncio.run(producer.close())
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    closing: Callable[[], Any] = close
    producer._client = cast(Client, SimpleNamespace(close=closing))
    asyncio.run(producer.close())
    assert closed == [True]
