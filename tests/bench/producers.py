# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.producers``: stock nats-py producers, each awaiting its acknowledgement before it goes on.

Reads one JSON object from standard input and writes one to standard output. It is a process of its own, so that what
the producers cost is not counted with those who serve them. Nothing here knows the appliance's intake: whoever answers
with a PubAck is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

import nats
from nats.aio.client import Client

from appliance.boundary.names import ZoneId
from appliance.factlog.natslogin import client_options
from tests.bench.facts import FactFactory
from tests.bench.log import login

_ACK_S: Final = 10.0
_SOCKETS: Final = 16
"""Connections at most; producers beyond share them, as tasks of one application do."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to do. ``prefix`` stands before each subject; ``inbox`` is where answers are awaited."""

    host: str
    port: int
    login: dict[str, str]
    inbox: str
    prefix: str
    producers: int
    seconds: float
    zone: str
    to: str
    run: str
    produced_at_unix_ms: int

    def factory(self) -> FactFactory:
        """The facts to publish."""
        return FactFactory(ZoneId(self.zone), ZoneId(self.to), self.run, self.produced_at_unix_ms)


@dataclass(slots=True)
class Tally:
    """What was acknowledged before the end and after it, and how long each of the former was awaited."""

    end: float
    late: int = 0
    waits_ms: list[float] = field(default_factory=list)

    def acknowledged(self, sent: float) -> None:
        """Count a fact that was sent at this time and is acknowledged now."""
        now = time.perf_counter()
        if now <= self.end:
            self.waits_ms.append((now - sent) * 1000)
        else:
            self.late += 1


async def run(job: Job) -> Tally:
    """Publish for so long."""
    factory = job.factory()
    clients = [await _client(job) for _ in range(min(job.producers, _SOCKETS))]
    streams = [client.jetstream(timeout=_ACK_S) for client in clients]
    tally = Tally(time.perf_counter() + job.seconds)
    number = 0

    async def produce(index: int) -> None:
        nonlocal number
        jetstream = streams[index % len(streams)]
        while (sent := time.perf_counter()) < tally.end:
            number += 1
            await jetstream.publish(job.prefix + factory.subject(number), factory.payload(number))
            tally.acknowledged(sent)

    await asyncio.gather(*(produce(index) for index in range(job.producers)))
    for client in clients:
        await client.close()
    return tally


async def _client(job: Job) -> Client:
    return await nats.connect(
        f"nats://{job.host}:{job.port}",
        **client_options(login(job.login)),
        inbox_prefix=job.inbox.encode(),
        allow_reconnect=False,
    )


def main() -> None:
    """Do the job of standard input; says also how much CPU time the producers themselves took."""
    document: dict[str, Any] = json.load(sys.stdin)
    job = Job(**document)
    tally = asyncio.run(run(job))
    result = {"late": tally.late, "waits_ms": tally.waits_ms, "cpu_s": time.process_time()}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
