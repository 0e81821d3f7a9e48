# SPDX-License-Identifier: Apache-2.0
"""A producer as an application would write one: stock nats-py, and the same message again until it is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from appliance.boundary.messages import address_of
from appliance.boundary.names import Category, FactSubject, ProducerId, ZoneId, identity_of
from appliance.factlog.natslogin import NatsOptions

PUBLISH_TIMEOUT_S: Final = 3.0
TRY_AGAIN_S: Final = 0.1
TRY_AGAIN_CODE: Final = 503
IN_FLIGHT: Final = 128


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One fact as it is sent; ``payload`` never changes, however often it is sent."""

    subject: str
    message_id: str
    payload: bytes


@dataclass(slots=True)
class Tally:
    """What the producer was told; ``refused`` holds the error descriptions."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    refused: list[str] = field(default_factory=list)
    acknowledged: dict[str, bytes] = field(default_factory=dict)


class Producer:
    """Publishes facts of one zone, category and addressee until each has been answered."""

    def __init__(self, zone: ZoneId, category: Category, to: str, name: str, login: NatsOptions) -> None:
        self.tally = Tally()
        self._subject = FactSubject(category, zone, to, ProducerId(name))
        self._login = login
        self._client: Client | None = None
        self._number = 0
        self._run = f"{time.time_ns() // 1_000_000:x}"
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    def message(self, about: str, predicate: str, values: dict[str, Any]) -> Outgoing:
        """The next fact."""
        self._number += 1
        subject = FactSubject(
            self._subject.category, self._subject.origin, self._subject.to, self._subject.producer, (predicate,)
        )
        message_id = f"{self._run}-{self._number}"
        document = {
            "envelope": {
                "message_id": message_id,
                "from_zone": identity_of(subject.origin),
                "to_zone": address_of(subject.to),
                "produced_at_unix_ms": time.time_ns() // 1_000_000,
            },
            "fact": {"subject": about, "predicate": predicate, "object_json": values},
        }
        return Outgoing(str(subject), message_id, json.dumps(document).encode())

    async def send(self, outgoing: Outgoing) -> str:
        """Publish until answered: ``stored``, ``duplicate``, or the reason it was refused for."""
        self.tally.sent += 1
        async with self._slots:
            while (answer := await self._try(outgoing)) is None:
                self.tally.retries += 1
                await asyncio.sleep(TRY_AGAIN_S)
        self.tally.answers[answer] += 1
        return answer

    async def send_all(self, batch: Iterable[Outgoing]) -> list[str]:
        """Publish many side by side."""
        return await asyncio.gather(*(self.send(outgoing) for outgoing in batch))

    async def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            await self._client.close()

    async def _try(self, outgoing: Outgoing) -> str | None:
        try:
            client = await self._connected()
            ack = await client.jetstream().publish(outgoing.subject, outgoing.payload, timeout=PUBLISH_TIMEOUT_S)
        except APIError as error:
            if error.code == TRY_AGAIN_CODE:
                return None
            description = str(error.description)
            self.tally.refused.append(description)
            return description.partition(":")[0]
        except (NatsError, OSError, TimeoutError):
            return None
        self.tally.acknowledged[outgoing.message_id] = outgoing.payload
        return "duplicate" if ack.duplicate else "stored"

    async def _connected(self) -> Client:
        if self._client is None:
            self._client = await nats.connect(
                **self._login, max_reconnect_attempts=-1, reconnect_time_wait=0.1, connect_timeout=1, error_cb=_ignore
            )
        return self._client


async def _ignore(error: Exception) -> None:
    """Disconnects are part of the story; every call in flight raises them anyway."""
