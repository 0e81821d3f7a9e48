# SPDX-License-Identifier: Apache-2.0
"""Readers: facts as a stock consumer sees them, and the markers and dead letters that operators see beside them.

Facts are read by the environment's user ``reader``, whom the broker lets do what any local application may do. Markers,
dead letters and stream metadata are read by the user ``agent``: they are the zone's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from appliance.boundary.names import ZoneId
from appliance.boundary.records import HEADER_GAP, HEADER_ID, HEADER_ORIGIN, HEADER_POSITION, parse_gap
from appliance.factlog.natslogin import NatsOptions
from tests.judge import DeadLetter, Gap, Read, Recorder
from tests.service.world.clients import close, open_client
from tests.service.world.ledgers import Ended

PAGE: Final = 1000
EXPIRED: Final = "expired"
"""The reason of gaps that a reader sees by itself: the site let go what stood in front of the first fact."""
_AGENT_INBOX: Final = "_BSFG"
_EPOCH: Final = "bsfg-epoch"
_DEAD: Final = "DEAD_LETTERS"


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a zone as the broker describes it; ``aliases`` maps readers' own epochs to the log's."""

    name: str
    origin: str
    category: str
    epoch: str
    aliases: dict[str, str] = field(default_factory=dict)
    first: int = 0
    last: int = 0
    messages: int = 0

    @property
    def marker_prefix(self) -> str:
        """What the subjects of its markers begin with."""
        return f"log.from.{self.origin}.{self.epoch}"


@asynccontextmanager
async def connected(login: NatsOptions, *, inbox: str | None = None) -> AsyncIterator[Client]:
    """A connection that does not come back by itself: a reading that is interrupted does not count."""
    client = await open_client(login, **({"inbox_prefix": inbox} if inbox else {}))
    try:
        yield client
    finally:
        await close(client)


class ZoneReader:
    """Reads one zone. All methods raise what nats-py raises when the broker is away."""

    def __init__(self, zone: ZoneId, reader: NatsOptions, agent: NatsOptions) -> None:
        self.zone = zone
        self._reader, self._agent = reader, agent

    def agent(self) -> Any:
        """A connection as the user ``agent`` (an async context manager)."""
        return connected(self._agent, inbox=_AGENT_INBOX)

    async def streams(self) -> list[Stream]:
        """The streams that hold facts: the zone's own first, then what was received, oldest first."""
        async with self.agent() as client:
            return await self._streams(client)

    async def facts_left(self, category: str) -> int:
        """How many facts of a category the zone still holds, its own and others'."""
        count = 0
        async with self.agent() as client:
            for stream in await self._streams(client):
                if stream.category == category:
                    answer = await ask(client, f"STREAM.INFO.{stream.name}", {"subjects_filter": "facts.>"})
                    count += sum((answer["state"].get("subjects") or {}).values())
        return count

    async def positions(self) -> dict[tuple[str, str, str], int]:
        """How far each (origin, category, epoch) was received, as the last record of its log says."""
        found = {}
        async with self.agent() as client:
            for stream in await self._streams(client):
                if stream.origin != self.zone and stream.last:
                    record = await last_record(client, stream.name)
                    if record is not None:
                        found[stream.origin, stream.category, stream.epoch] = position_of(record[1])
        return found

    async def read(
        self, recorder: Recorder, names: dict[str, str], expiring: frozenset[str], endings: Sequence[Ended]
    ) -> int:
        """Read the whole zone into the history; how many facts it holds.

        :param names: what the judge calls an epoch, for those that have another name there.
        :param expiring: categories of which the site lets facts expire; what is gone of them is told as a gap.
        :param endings: what the zone's operator is told about logs that were lost.
        """
        count = 0
        with recorder.snapshot(self.zone) as snapshot:
            async with self.agent() as agent, connected(self._reader) as reader:
                for stream in await self._streams(agent):
                    epoch = names.get(stream.epoch, stream.epoch)
                    facts = await self._facts(recorder, snapshot, reader, stream, epoch)
                    count += len(facts)
                    if stream.origin != self.zone:
                        await self._gaps(recorder, snapshot, agent, stream, epoch)
                    if stream.category in expiring:
                        await self._expired(recorder, snapshot, agent, stream, epoch, facts)
                await self._dead_letters(recorder, snapshot, agent, names)
            for ended in endings:
                epoch = names.get(ended.epoch, ended.epoch)
                record_gap(
                    recorder, snapshot, (ended.origin, ended.category, epoch), ended.first, ended.last, ended.reason
                )
        return count

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _streams(self, client: Client) -> list[Stream]:
        found: list[tuple[str, Stream]] = []
        offset = 0
        while True:
            answer = await ask(client, "STREAM.LIST", {"offset": offset})
            for entry in answer["streams"] or ():
                metadata = entry["config"].get("metadata", {})
                if _EPOCH in metadata:
                    found.append((entry["created"], self._stream(entry, metadata)))
            offset += len(answer["streams"] or ())
            if offset >= answer["total"]:
                break
        return [stream for _, stream in sorted(found, key=lambda pair: (pair[1].origin != self.zone, pair[0]))]

    def _stream(self, entry: dict[str, Any], metadata: dict[str, str]) -> Stream:
        name, state, epoch = entry["config"]["name"], entry["state"], metadata[_EPOCH]
        return Stream(
            name,
            metadata.get("bsfg-origin", self.zone),
            metadata.get("bsfg-category", name.removeprefix("FACTS_").lower().replace("_", "-")),
            epoch,
            {value: epoch for key, value in metadata.items() if key.startswith(f"{_EPOCH}-")},
            state["first_seq"],
            state["last_seq"],
            state["messages"],
        )

    async def _facts(self, recorder: Recorder, snapshot: str, reader: Client, stream: Stream, epoch: str) -> list[int]:
        """Record every fact of a stream; their origin offsets."""
        offsets = []
        async for message in consume(reader, stream.name, f"facts.{stream.category}.>"):
            headers = message.headers or {}
            seq = message.metadata.sequence.stream
            offset = int(headers.get(HEADER_ORIGIN, seq))
            offsets.append(offset)
            recorder.record(
                Read(
                    snapshot=snapshot,
                    stream=stream.name,
                    origin=stream.origin,
                    category=stream.category,
                    epoch=epoch,
                    seq=seq,
                    offset=offset,
                    producer=message.subject.split(".")[4],
                    id=headers[HEADER_ID],
                    content=hashlib.sha256(message.data).hexdigest(),
                )
            )
        return offsets

    async def _gaps(self, recorder: Recorder, snapshot: str, agent: Client, stream: Stream, epoch: str) -> None:
        async for message in consume(agent, stream.name, f"{stream.marker_prefix}.gap.{stream.category}"):
            gap = parse_gap((message.headers or {})[HEADER_GAP])
            record_gap(recorder, snapshot, (stream.origin, stream.category, epoch), gap.first, gap.last, gap.reason)

    async def _expired(
        self, recorder: Recorder, snapshot: str, agent: Client, stream: Stream, epoch: str, facts: list[int]
    ) -> None:
        """What stands in front of the first readable fact was dropped by the site's own retention."""
        if facts:
            gone = min(facts) - 1
        elif stream.origin == self.zone:
            gone = stream.last
        else:
            record = await last_record(agent, stream.name)
            gone = position_of(record[1]) if record is not None else 0
        if gone > 0:
            record_gap(recorder, snapshot, (stream.origin, stream.category, epoch), 1, gone, EXPIRED)

    async def _dead_letters(self, recorder: Recorder, snapshot: str, agent: Client, names: dict[str, str]) -> None:
        for subject, headers in await dead_letters(agent):
            origin, category, epoch, offset = subject.split(".")[1:]
            recorder.record(
                DeadLetter(
                    snapshot=snapshot,
                    origin=origin,
                    category=category,
                    epoch=names.get(epoch, epoch),
                    offset=int(offset),
                    id=None,
                    reason=headers["Bsfg-Reason"],
                )
            )


def record_gap(
    recorder: Recorder, snapshot: str, log: tuple[str, str, str], first: int, last: int | None, reason: str
) -> None:
    """Record a gap of (origin, category, epoch)."""
    origin, category, epoch = log
    recorder.record(
        Gap(snapshot=snapshot, origin=origin, category=category, epoch=epoch, first=first, last=last, reason=reason)
    )


async def ask(client: Client, operation: str, document: object = None) -> dict[str, Any]:
    """A request of the JetStream API."""
    payload = b"" if document is None else json.dumps(document).encode()
    answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{operation}", payload, timeout=5)).data)
    return answer


async def consume(client: Client, stream: str, subject: str) -> AsyncIterator[Msg]:
    """Everything that stands under a subject now, in order, by a pull consumer of nats-py."""
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=30)
    subscription = await client.jetstream().pull_subscribe(subject, stream=stream, config=config)
    waiting = (await subscription.consumer_info()).num_pending or 0
    while waiting > 0:
        for message in await subscription.fetch(min(PAGE, waiting), timeout=5):
            waiting -= 1
            yield message


async def last_record(client: Client, stream: str) -> tuple[int, dict[str, str], bytes] | None:
    """Sequence, headers and body of the last record of a stream."""
    answer = await ask(client, f"STREAM.MSG.GET.{stream}", {"last_by_subj": ">"})
    if "error" in answer:
        return None
    message = answer["message"]
    lines = base64.b64decode(message.get("hdrs", "")).decode().split("\r\n")[1:]
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    return message["seq"], headers, base64.b64decode(message.get("data", ""))


def position_of(headers: dict[str, str]) -> int:
    """Through where the origin's log was received with a record."""
    return int(headers[HEADER_POSITION].partition(":")[0])


async def dead_letters(agent: Client) -> list[tuple[str, dict[str, str]]]:
    """Subject and headers of every dead letter of a zone."""
    if "error" in await ask(agent, f"STREAM.INFO.{_DEAD}"):
        return []  # there never was one
    return [(message.subject, dict(message.headers or {})) async for message in consume(agent, _DEAD, "dead.>")]
