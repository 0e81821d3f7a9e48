# SPDX-License-Identifier: Apache-2.0
"""Producers as applications write them: stock nats-py, the same bytes again until they are answered, all on record."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import rfc8785
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from appliance.boundary.messages import address_of
from appliance.boundary.names import ZoneId, identity_of
from appliance.factlog.natslogin import NatsOptions
from tests.judge import Recorder
from tests.service.world.clients import STUCK_S, close, open_client

ANSWER_S: Final = 3.0
"""How long a producer waits for an answer before it sends the same again."""
ANSWERED_S: Final = 150.0
"""Whatever is done to the zones: by then a fact has got a final answer."""
TRY_AGAIN_S: Final = 0.2
"""Longest pause before that."""
TRY_AGAIN_CODE: Final = 503
IN_FLIGHT: Final = 256
"""Calls of one producer that may be unanswered at a time."""

DUPLICATE: Final = "duplicate"
STORED: Final = "stored"
CONFLICT: Final = "conflicting_duplicate"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One fact as it is sent; ``payload`` never changes, however often it is sent."""

    zone: ZoneId
    producer: str
    category: str
    to: str
    fact_id: str
    subject: str
    payload: bytes
    content: str

    @classmethod
    def make(
        cls, zone: ZoneId, producer: str, category: str, to: str, fact_id: str, values: dict[str, Any]
    ) -> Outgoing:
        """A valid fact; ``content`` is the digest of its canonical form, made here and not by the product."""
        document: dict[str, Any] = {
            "envelope": {
                "message_id": fact_id,
                "from_zone": identity_of(zone),
                "to_zone": address_of(to),
                "produced_at_unix_ms": 1_700_000_000_000,
            },
            "fact": {"subject": f"thing:{fact_id}", "predicate": "is", "object_json": values},
        }
        content = hashlib.sha256(rfc8785.dumps(document)).hexdigest()
        payload = json.dumps(document, indent=1).encode()
        subject = f"facts.{category}.{zone}.{to}.{producer}.reading"
        return cls(zone, producer, category, to, fact_id, subject, payload, content)

    def forged(self, number: int) -> Outgoing:
        """The same id with other content."""
        return replace(
            self.make(self.zone, self.producer, self.category, self.to, self.fact_id, {"forged": number}),
            subject=self.subject,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a producer was told at last: ``stored``, ``duplicate`` or the reason of a refusal; 0 when refused."""

    word: str
    offset: int = 0
    detail: str = ""


class Producer:
    """One user of one zone. It keeps what was acknowledged, to send it again at times."""

    def __init__(self, zone: ZoneId, name: str, login: NatsOptions, recorder: Recorder, dice: random.Random) -> None:
        self.zone, self.name = zone, name
        self.acknowledged: list[tuple[Outgoing, int]] = []
        self.answers: dict[str, int] = {}
        self.calls = 0
        self.answer_s = ANSWER_S
        self._login, self._recorder, self._dice = login, recorder, dice
        self._client: Client | None = None
        self._number = 0
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._connecting = asyncio.Lock()

    def make(self, category: str, to: str, size: int = 0) -> Outgoing:
        """The next fact, with so many bytes of ballast."""
        self._number += 1
        values: dict[str, Any] = {"n": self._number, "ballast": "x" * size}
        return Outgoing.make(self.zone, self.name, category, to, f"{self.name}-{self._number}", values)

    def make_many(self, count: int, categories: Sequence[str], addressees: Sequence[str]) -> list[Outgoing]:
        """Facts of mixed categories, addressees and sizes."""
        dice = self._dice
        return [
            self.make(dice.choice(categories), dice.choice(addressees), int(10 ** dice.uniform(0, 3.3)))
            for _ in range(count)
        ]

    async def send(self, fact: Outgoing) -> Answer:
        """Publish until answered."""
        async with self._slots, asyncio.timeout(ANSWERED_S):
            while (answer := await self._try(fact)) is None:  # noqa: ASYNC110 - each turn is a call
                await asyncio.sleep(self._dice.uniform(0.5, 1) * TRY_AGAIN_S)
        self.answers[answer.word] = self.answers.get(answer.word, 0) + 1
        if answer.word == STORED:
            self.acknowledged.append((fact, answer.offset))
        return answer

    async def send_all(self, facts: Iterable[Outgoing]) -> list[Answer]:
        """Publish many side by side."""
        return await asyncio.gather(*(self.send(fact) for fact in facts))

    async def send_stream(self, facts: Iterable[Outgoing]) -> list[Answer]:
        """Publish one after the other."""
        return [await self.send(fact) for fact in facts]

    async def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            await close(self._client)
            self._client = None

    async def _try(self, fact: Outgoing) -> Answer | None:
        """One call; ``None`` when its outcome is unknown."""
        try:
            client = await self._connected()
        except (NatsError, OSError, TimeoutError):
            return None  # nothing was sent
        recorder = self._recorder
        op = recorder.append(
            zone=fact.zone,
            producer=fact.producer,
            category=fact.category,
            to=fact.to,
            fact_id=fact.fact_id,
            content=fact.content,
        )
        self.calls += 1
        try:
            async with asyncio.timeout(self.answer_s + STUCK_S):  # nats-py waits without end for a full socket
                ack = await client.jetstream().publish(fact.subject, fact.payload, timeout=self.answer_s)
        except APIError as error:
            reason, _, detail = str(error.description).partition(":")
            if error.code == TRY_AGAIN_CODE:
                recorder.info(op, reason)
                return None
            recorder.refused(op, reason)
            return Answer(reason, detail=detail)
        except (NatsError, OSError, TimeoutError) as error:
            recorder.info(op, type(error).__name__)
            return None
        recorder.ok(op, offset=ack.seq, duplicate=bool(ack.duplicate))
        return Answer(DUPLICATE if ack.duplicate else STORED, ack.seq)

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._client = await open_client(self._login)
            return self._client
