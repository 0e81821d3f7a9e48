# SPDX-License-Identifier: Apache-2.0
"""Reads the logs of both zones as a stock consumer does, and compares them with each other and with what was sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import nats
import rfc8785
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig

from appliance.boundary.names import Category, ZoneId, store_stream, stream_token
from appliance.boundary.records import HEADER_ID
from appliance.factlog.natslogin import NatsOptions

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class LogContent:
    """The facts of one log in order: their ids and exact bytes."""

    ids: tuple[str, ...] = ()
    payloads: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 over all payloads in order."""
        running = hashlib.sha256()
        for payload in self.payloads:
            running.update(len(payload).to_bytes(8, "big") + payload)
        return running.hexdigest()


@dataclass(frozen=True, slots=True)
class Comparison:
    """One origin's facts of one category, in its own log and in the receiver's."""

    own: LogContent
    received: LogContent
    lost: int
    doubled: int
    altered: int

    @property
    def equal(self) -> bool:
        """Both logs hold the same bytes in the same order, and nothing is missing or twice."""
        return self.own.digest == self.received.digest and not (self.lost or self.doubled or self.altered)


async def read_log(login: NatsOptions, category: Category, origin: ZoneId | None) -> LogContent:
    """All facts of a category that are in a zone's log: its own, or (with ``origin``) those received from a zone."""
    client = await nats.connect(**login)
    try:
        names = json.loads((await client.request("$JS.API.STREAM.NAMES", b"{}")).data)["streams"] or []
        own = store_stream(category)
        wanted = [
            n for n in names if (n == own if origin is None else n.startswith(f"{own}_FROM_{stream_token(origin)}_"))
        ]
        ids: list[str] = []
        payloads: list[bytes] = []
        for name in sorted(wanted):
            await _read_stream(client, name, ids, payloads)
        return LogContent(tuple(ids), tuple(payloads))
    finally:
        await client.close()


async def _read_stream(client: Client, name: str, ids: list[str], payloads: list[bytes]) -> None:
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    subscription = await client.jetstream().pull_subscribe("", stream=name, config=config)
    waiting = (await subscription.consumer_info()).num_pending or 0
    while waiting > 0:
        for message in await subscription.fetch(min(_PAGE, waiting), timeout=5):
            waiting -= 1
            headers = message.headers or {}
            if HEADER_ID in headers:
                ids.append(headers[HEADER_ID])
                payloads.append(message.data)


def compare(own: LogContent, received: LogContent, acknowledged: Mapping[str, bytes]) -> Comparison:
    """Hold both logs against each other and against what the producer was told is stored.

    ``lost``: acknowledged, and missing in either log; ``doubled``: entries beyond the first of an id; ``altered``: the
    stored bytes are not the canonical form of what was sent.
    """
    stored = dict(zip(own.ids, own.payloads, strict=True))
    lost = sum(1 for i in acknowledged if i not in stored) + len(set(own.ids) - set(received.ids))
    doubled = sum(len(log.ids) - len(set(log.ids)) for log in (own, received))
    altered = sum(1 for i, sent in acknowledged.items() if i in stored and stored[i] != rfc8785.dumps(json.loads(sent)))
    return Comparison(own, received, lost, doubled, altered)
