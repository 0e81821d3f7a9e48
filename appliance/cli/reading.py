# SPDX-License-Identifier: Apache-2.0
"""Read a zone's stored facts in order, by an ephemeral pull consumer, as any stock client could.

Nothing is remembered on the broker: a reader knows the last sequence it saw of each stream and starts behind it again
after whatever went wrong.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import Category, ZoneId, store_stream
from appliance.boundary.reasons import Reason
from appliance.boundary.records import HEADER_ID, HEADER_ORIGIN
from appliance.cli.session import Patience
from appliance.factlog.streams import CATEGORY_KEY, ORIGIN_KEY

BATCH: Final = 500
_CALL_TIMEOUT: Final = 3.0
_QUIET: Final = 1.0
"""Seconds without a message after which a pull that should have brought more is given up."""
_NO_MORE: Final = "404"
"""The status of a pull that found nothing."""
_INACTIVE_NS: Final = 30 * 10**9
"""The broker forgets a consumer that nobody has used for so long."""


@dataclass(frozen=True, slots=True)
class StreamRef:
    """A stream of facts: whose, which category, when it was created (orders epochs), its last sequence."""

    name: str
    category: Category
    origin: ZoneId
    created: str
    last: int


@dataclass(frozen=True, slots=True)
class StoredFact:
    """One stored fact; ``offset`` in its origin's log."""

    seq: int
    offset: int
    subject: str
    payload: bytes


async def api(client: Client, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One call of the JetStream API. :raises UnavailableError: ``broker_unavailable``, ``broker_refused``."""
    try:
        message = await client.request(f"$JS.API.{subject}", json.dumps(body or {}).encode(), timeout=_CALL_TIMEOUT)
        answer: dict[str, Any] = json.loads(message.data)
    except (OSError, TimeoutError, nats.errors.Error, ValueError) as error:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{subject}: {error!r}") from error
    if "error" in answer:
        raise UnavailableError(Reason.BROKER_REFUSED, f"{subject}: {answer['error'].get('description')}")
    return answer


async def streams_of(client: Client, zone: ZoneId, origin: ZoneId, categories: Sequence[Category]) -> list[StreamRef]:
    """The streams of an origin's facts in a zone: by category in the order given, then by age.

    :raises UnavailableError: ``broker_unavailable``.
    """
    own = {store_stream(category): category for category in categories}
    found = []
    for name in await _stream_names(client):
        if (name in own) != (origin == zone) or not name.startswith("FACTS_"):
            continue
        info = await api(client, f"STREAM.INFO.{name}")
        metadata = info["config"].get("metadata", {})
        category = own.get(name) or Category(metadata.get(CATEGORY_KEY, ""))
        if category in categories and metadata.get(ORIGIN_KEY, zone) == origin:
            found.append(StreamRef(name, category, origin, info["created"], info["state"]["last_seq"]))
    order = list(categories)
    return sorted(found, key=lambda stream: (order.index(stream.category), stream.created))


async def _stream_names(client: Client) -> list[str]:
    names: list[str] = []
    while True:
        answer = await api(client, "STREAM.NAMES", {"offset": len(names)})
        page = answer.get("streams") or []
        names += page
        if not page or len(names) >= answer["total"]:
            return names


class StreamReader:
    """Reads one stream from a sequence on. ``next`` is where it goes on, whatever happens in between."""

    def __init__(self, client: Client, stream: str, start: int = 1) -> None:
        self.next = start
        self._client = client
        self._stream = stream

    async def read(self) -> AsyncGenerator[list[StoredFact], None]:
        """All facts there are now behind :attr:`next`, in batches; markers are skipped.

        :raises UnavailableError: ``broker_unavailable``, or the stream is gone; call again to go on.
        """
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.next,
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": _INACTIVE_NS,
            "num_replicas": 1,
        }
        consumer = await api(
            self._client, f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config}
        )
        pending = consumer["num_pending"]
        puller = _Puller(self._client, self._stream, consumer["name"])
        async with puller:
            while pending > 0:
                messages = await puller.pull(min(BATCH, pending))
                if not messages:  # what was counted has been removed meanwhile
                    return
                pending -= len(messages)
                self.next = messages[-1].metadata.sequence.stream + 1
                yield [fact for message in messages if (fact := _fact(message)) is not None]


def _fact(message: Msg) -> StoredFact | None:
    headers = message.headers or {}
    if HEADER_ID not in headers:
        return None
    seq = message.metadata.sequence.stream
    return StoredFact(seq, int(headers.get(HEADER_ORIGIN, seq)), message.subject, message.data)


class _Puller:
    """Pulls from one consumer; messages come back on one inbox."""

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self._client = client
        self._stream, self._consumer = stream, consumer
        self._inbox = client.new_inbox()
        self._messages: list[Msg] = []
        self._wanted = 0
        self._status = ""
        self._done = asyncio.Event()
        self._arrived = 0.0

    async def __aenter__(self) -> Self:
        self._subscription = await self._client.subscribe(self._inbox, cb=self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._subscription.unsubscribe()
            if self._client.is_connected:
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}")
        except (OSError, nats.errors.Error):
            return  # the broker forgets it by itself

    async def pull(self, batch: int) -> list[Msg]:
        """Up to ``batch`` messages, fewer only when there are no more.

        :raises UnavailableError: ``broker_unavailable``: the broker ended or forgot the consumer.
        """
        self._messages, self._wanted, self._status = [], batch, ""
        self._done.clear()
        loop = asyncio.get_running_loop()
        self._arrived = loop.time()
        try:
            await self._client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
                json.dumps({"batch": batch, "no_wait": True}).encode(),
                reply=self._inbox,
            )
            while not self._done.is_set() and loop.time() - self._arrived < _QUIET:
                try:
                    async with asyncio.timeout(_QUIET / 4):
                        await self._done.wait()
                except TimeoutError:
                    continue
        except (OSError, nats.errors.Error) as error:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, repr(error)) from error
        self._wanted = 0
        if not self._messages and self._status != _NO_MORE:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"a pull was not answered ({self._status or 'silence'})")
        return self._messages

    async def _take(self, message: Msg) -> None:
        if not message.reply:
            self._status = (message.headers or {}).get("Status", "")
            self._done.set()
        elif self._wanted:
            self._messages.append(message)
            self._arrived = asyncio.get_running_loop().time()
            if len(self._messages) >= self._wanted:
                self._done.set()


class FactReader:
    """Reads all facts of an origin that a zone has, category after category, each category's epochs by age."""

    def __init__(self, client: Client, zone: ZoneId, origin: ZoneId, categories: Sequence[Category]) -> None:
        self._client = client
        self._zone, self._origin, self._categories = zone, origin, categories
        self._readers: dict[tuple[str, str], StreamReader] = {}

    async def read(self, patience: Patience, *, follow: float = 0.0) -> AsyncGenerator[list[StoredFact], None]:
        """What there is when it begins; then, with ``follow``, whatever comes, for ever.

        :param follow: seconds between looks for new ones; 0: do not.
        :raises UnavailableError: the broker stayed away for too long (with ``follow``: it is waited for).
        """
        targets: dict[tuple[str, str], int] = {}
        while True:
            try:
                for stream in await streams_of(self._client, self._zone, self._origin, self._categories):
                    key = (stream.name, stream.created)  # one that was wiped and made again is another one
                    reader = self._readers.setdefault(key, StreamReader(self._client, stream.name))
                    target = stream.last if follow else targets.setdefault(key, stream.last)
                    async for facts in _through(reader, target):
                        patience.progressed()
                        yield facts
                patience.progressed()
            except UnavailableError as error:
                if not (follow and error.reason is Reason.BROKER_UNAVAILABLE):
                    patience.check(error.detail, error.reason)
                await asyncio.sleep(0.2)
                continue
            if not follow:
                return
            await asyncio.sleep(follow)


async def _through(reader: StreamReader, target: int) -> AsyncGenerator[list[StoredFact], None]:
    """Read a stream until a sequence is behind; retention may have removed the rest."""
    while reader.next <= target:
        before = reader.next
        async for facts in reader.read():
            yield facts
        if reader.next == before:
            return
