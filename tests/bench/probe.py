# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.probe``: publish at a steady rate in one zone, and see when each fact is there in the other.

Reads one JSON object from standard input and writes one to standard output. Producer and consumer are stock nats-py;
both stand in this one process, so that one clock times both ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy

from appliance.boundary.names import ZoneId
from appliance.factlog.natslogin import client_options
from tests.bench.facts import CATEGORY, FactFactory
from tests.bench.log import login

_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class End:
    """How to reach one end: a broker, a user, and where answers to it arrive."""

    host: str
    port: int
    login: dict[str, str]
    inbox: str

    async def connect(self) -> Client:
        """A connection."""
        return await nats.connect(
            f"nats://{self.host}:{self.port}",
            **client_options(login(self.login)),
            inbox_prefix=self.inbox.encode(),
            allow_reconnect=False,
        )


class Probe:
    """One producer at the source and one consumer at the target.

    :param facts: how many are timed; number 0 goes before them and is not.
    """

    def __init__(self, factory: FactFactory, facts: int) -> None:
        self._payloads = [factory.payload(number) for number in range(facts + 1)]
        self._subjects = [factory.subject(number) for number in range(facts + 1)]
        self._numbers = {payload: number for number, payload in enumerate(self._payloads)}
        self.sent: dict[int, float] = {}
        self.acknowledged: dict[int, float] = {}
        self.seen: dict[int, float] = {}
        self.all_seen = asyncio.Event()

    async def publish(self, jetstream: JetStreamContext, number: int) -> None:
        """Publish a fact and await its acknowledgement."""
        self.sent[number] = time.perf_counter()
        await jetstream.publish(self._subjects[number], self._payloads[number])
        self.acknowledged[number] = time.perf_counter()

    async def see(self, message: Msg) -> None:
        """Take what the consumer is given; facts of other trials are none of ours."""
        number = self._numbers.get(message.data, 0)
        if number:
            self.seen[number] = time.perf_counter()
            if len(self.seen) == len(self._numbers) - 1:
                self.all_seen.set()

    def milliseconds(self, until: Mapping[int, float]) -> list[float]:
        """How long after sending, by number."""
        return [(until[number] - self.sent[number]) * 1000 for number in range(1, len(self._numbers))]


async def run(document: Mapping[str, Any]) -> dict[str, list[float]]:
    """Milliseconds from publishing to the acknowledgement, and to the fact's delivery in the other zone."""
    source, target = await End(**document["source"]).connect(), await End(**document["target"]).connect()
    zone, to = ZoneId(document["zone"]), ZoneId(document["to"])
    facts, rate = int(document["facts"]), float(document["rate"])
    probe = Probe(FactFactory(zone, to, document["run"], document["produced_at_unix_ms"]), facts)
    jetstream = source.jetstream(timeout=_PATIENCE_S)
    async with asyncio.timeout(_PATIENCE_S):
        await probe.publish(jetstream, 0)  # makes the target's stream, if it is not there yet
        await _follow(target, document["stream"], probe.see)
    begin = time.perf_counter()
    tasks = []
    for number in range(1, facts + 1):
        await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(probe.publish(jetstream, number)))  # at its time, however long others take
    async with asyncio.timeout(_PATIENCE_S):
        await asyncio.gather(*tasks)
        await probe.all_seen.wait()
    await source.close()
    await target.close()
    return {
        "acknowledged_ms": probe.milliseconds(probe.acknowledged),
        "seen_ms": probe.milliseconds(probe.seen),
    }


async def _follow(client: Client, prefix: str, see: Callable[[Msg], Awaitable[None]]) -> None:
    """Consume the one stream whose name begins so, from now on, as soon as it is there."""
    found: list[str] = []
    while not found:
        reply = await client.request("$JS.API.STREAM.NAMES", timeout=_PATIENCE_S)
        found = [name for name in json.loads(reply.data).get("streams") or [] if name.startswith(prefix)]
    config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW)
    jetstream = client.jetstream(timeout=_PATIENCE_S)
    await jetstream.subscribe(f"facts.{CATEGORY}.>", cb=see, stream=found[0], ordered_consumer=True, config=config)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(run(json.load(sys.stdin)))))
