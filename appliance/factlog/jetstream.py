# SPDX-License-Identifier: Apache-2.0
"""Logs on JetStream: pages in, pages out, over the wire client.

Writing: a batch of :data:`ATOMIC_FROM` records or more goes as one atomic batch (one fsync for the page); fewer go
pipelined, *every* one with its own expected sequence and the record it must stand behind, so that behind a refused one
all others are refused too.
Reading: one memory consumer per (log, reader), ordered and without acknowledgements, made anew whenever it is asked
for another place than it stands at. Settings and traps: ``docs/adr/0002-jetstream-as-the-log.md``.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from appliance.boundary.errors import BsfgError, IntegrityError, PositionError, RefusedError, UnavailableError
from appliance.boundary.names import EVERYONE, Category, ZoneId, forward_stream, store_stream
from appliance.boundary.policy import CategoryPolicy, ZonePolicy
from appliance.boundary.reasons import Reason
from appliance.boundary.records import DeadLetter, LogId, LogState, Record, StoredRecord
from appliance.factlog.natsproto import Delivery, header_block, publish
from appliance.factlog.natswire import NatsWire
from appliance.factlog.streams import (
    EPOCH_KEY,
    MAX_RECORD_BYTES,
    StreamAdmin,
    dead_letter_config,
    forward_config,
    forward_prefix,
    marker_subject,
    new_epoch,
    store_config,
    store_prefix,
)

ATOMIC_FROM: Final = 64
"""From here on an atomic batch costs less than fsync by fsync."""
APPEND_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 5.0
CONSUMER_LIFE_S: Final = 60
MARKER_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "position": {"Nats-TTL": "never", "Nats-Rollup": "sub"},
    "gap": {"Nats-TTL": "never"},
}

_WRONG_LAST_SEQUENCE: Final = frozenset((10071, 10070))
_FULL: Final = frozenset((10077, 10047, 10023, 10122))
_STREAM_NOT_FOUND: Final = 10059
_NO_MESSAGE: Final = 10037
_TOO_LARGE: Final = 409


class JetStreamLog:
    """One stream; see :class:`appliance.boundary.ports.LogPort`."""

    def __init__(
        self,
        wire: NatsWire,
        admin: StreamAdmin,
        name: str,
        metadata: Mapping[str, str],
        subject_of: Callable[[Record], str],
        filters: Callable[[ZoneId], list[str]],
    ) -> None:
        self.name = name
        self._wire, self._admin = wire, admin
        self._metadata = dict(metadata)
        self._subject_of, self._filters = subject_of, filters
        self._readers: dict[ZoneId | None, _Reader] = {}

    @property
    def epoch(self) -> bytes:
        """See the port."""
        return bytes.fromhex(self._metadata[EPOCH_KEY])

    def epoch_for(self, reader: ZoneId) -> bytes:
        """See the port."""
        own = self._metadata.get(f"{EPOCH_KEY}-{reader}")
        return bytes.fromhex(own) if own is not None else self.epoch

    async def roll_epoch(self, reader: ZoneId | None) -> bytes:
        """See the port."""
        epoch = new_epoch()
        changes: dict[str, str | None] = {}
        if reader is None:  # all readers follow the new epoch
            changes = {key: None for key in self._metadata if key.startswith(f"{EPOCH_KEY}-")}
            changes[EPOCH_KEY] = epoch.hex()
        else:
            changes[f"{EPOCH_KEY}-{reader}"] = epoch.hex()
        self._metadata = await self._admin.put_metadata(self.name, changes)
        return epoch

    async def state(self) -> LogState:
        """See the port."""
        answer = await self._wire.request_json(f"$JS.API.STREAM.INFO.{self.name}")
        _raise_error(answer, self.name)
        state = answer["state"]
        last = int(state["last_seq"])
        first = int(state["first_seq"]) if int(state["messages"]) else last + 1
        return LogState(first, last, int(state["bytes"]))

    async def append(self, records: Sequence[Record], after: int) -> int:
        """See the port."""
        if len(records) >= ATOMIC_FROM:
            frames, answers = self._atomic(records, after), 1
        else:
            frames, answers = self._pipelined(records, after), len(records)
        acks = await self._wire.exchange(
            frames, lambda got: len(got) >= answers or _is_error(got[-1]), timeout_s=APPEND_TIMEOUT_S
        )
        for position, ack in enumerate(acks):
            self._check_ack(ack, stored=position)
        return after + len(records)

    async def read(self, after: int, limit: int, max_bytes: int, reader: ZoneId | None = None) -> list[StoredRecord]:
        """See the port."""
        held = self._readers.get(reader)
        if held is None or held.after != after:
            if held is not None:
                await held.close()
            filters = self._filters(reader) if reader is not None else []
            held = self._readers[reader] = _Reader(self._wire, self.name, filters, after)
        try:
            return await held.read(limit, max_bytes)
        except BaseException:
            self._readers.pop(reader, None)  # where the consumer stands is unknown now
            raise

    async def trim(self, before: int) -> None:
        """See the port."""
        _raise_error(await self._wire.request_json(f"$JS.API.STREAM.PURGE.{self.name}", {"seq": before}), self.name)

    async def last(self) -> StoredRecord | None:
        """See the port."""
        answer = await self._wire.request_json(f"$JS.API.STREAM.MSG.GET.{self.name}", {"last_by_subj": ">"})
        if answer.get("error", {}).get("err_code") == _NO_MESSAGE:
            return None
        _raise_error(answer, self.name)
        message = answer["message"]
        header = base64.b64decode(message.get("hdrs", ""))
        delivery = Delivery(message["subject"], 0, "", header, base64.b64decode(message.get("data", "")))
        return StoredRecord(int(message["seq"]), delivery.subject, delivery.payload, delivery.headers())

    def _pipelined(self, records: Sequence[Record], after: int) -> Callable[[str], bytes]:
        """Each record behind its own sequence, and behind the record before it.

        The sequence alone would not do: when the log is ahead by one, because something late was stored, the first
        record would be refused and the second would fit.
        """
        page = secrets.token_hex(8)

        def frames(reply: str) -> bytes:
            parts = []
            for index, record in enumerate(records):
                control = {"Nats-Expected-Last-Sequence": str(after + index)}
                if len(records) > 1:
                    control["Nats-Msg-Id"] = f"{page}-{index}"
                if index:
                    control["Nats-Expected-Last-Msg-Id"] = f"{page}-{index - 1}"
                parts.append(self._frame(record, reply, control))
            return b"".join(parts)

        return frames

    def _atomic(self, records: Sequence[Record], after: int) -> Callable[[str], bytes]:
        batch, last = secrets.token_hex(16), len(records) - 1

        def frames(reply: str) -> bytes:
            parts = []
            for index, record in enumerate(records):
                control = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(index + 1)}
                if index == 0:
                    control["Nats-Expected-Last-Sequence"] = str(after)
                if index == last:
                    control["Nats-Batch-Commit"] = "1"
                parts.append(self._frame(record, reply if index == last else "", control))
            return b"".join(parts)

        return frames

    def _frame(self, record: Record, reply: str, control: Mapping[str, str]) -> bytes:
        marker = MARKER_HEADERS.get(record.marker, {})
        header = header_block({**control, **marker, **record.headers})
        return publish(self._subject_of(record), record.payload, reply=reply, header=header)

    def _check_ack(self, ack: Delivery, stored: int) -> None:
        values = _json(ack)
        error = values.get("error")
        if error is None:
            return
        code, text = error.get("err_code"), str(error.get("description", ""))
        if stored == 0 and code in _WRONG_LAST_SEQUENCE:
            raise PositionError(Reason.OUT_OF_ORDER, f"{self.name}: {text}")
        if stored == 0 and code in _FULL:
            raise RefusedError(Reason.BUFFER_FULL, f"{self.name}: {text}")
        raise UnavailableError(Reason.BROKER_REFUSED, f"{self.name}: {code}: {text}")


@dataclass(slots=True)
class _Reader:
    """A memory consumer that stands behind ``after``."""

    wire: NatsWire
    stream: str
    filters: list[str]
    after: int
    consumer: str = ""

    async def read(self, limit: int, max_bytes: int) -> list[StoredRecord]:
        """The next records that are there now; moves :attr:`after`."""
        if not self.consumer:
            await self._create()
        try:
            answers = await self._pull(limit, max_bytes)
        except UnavailableError:
            self.consumer = ""  # the broker restarted: memory consumers are gone with it
            await self._create()
            answers = await self._pull(limit, max_bytes)
        if answers[0].status == _TOO_LARGE:  # the next record alone is more than max_bytes: it comes, alone
            answers = await self._pull(1, MAX_RECORD_BYTES)
        records = [_stored(answer) for answer in answers if not answer.status]
        for record in records:
            if record.seq <= self.after:
                raise IntegrityError(Reason.LOG_DAMAGED, f"{self.stream}: {record.seq} behind {self.after}")
            self.after = record.seq
        return records

    async def close(self) -> None:
        """Remove the consumer; it would also end by itself."""
        if self.consumer:
            try:
                await self.wire.request(f"$JS.API.CONSUMER.DELETE.{self.stream}.{self.consumer}")
            except BsfgError:
                return

    async def _create(self) -> None:
        name = f"page-{secrets.token_hex(8)}"
        config: dict[str, Any] = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.after + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": CONSUMER_LIFE_S * 1_000_000_000,
            "max_waiting": 8,
        }
        if self.filters:
            config["filter_subjects"] = self.filters
        answer = await self.wire.request_json(
            f"$JS.API.CONSUMER.CREATE.{self.stream}.{name}", {"stream_name": self.stream, "config": config}
        )
        _raise_error(answer, self.stream)
        self.consumer = name

    async def _pull(self, limit: int, max_bytes: int) -> list[Delivery]:
        # What the broker counts against max_bytes includes subject and headers; a page is allowed that much more.
        order = json.dumps({"batch": limit, "max_bytes": max_bytes + 1024 * limit, "no_wait": True}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}"
        answers = await self.wire.collect(
            lambda reply: publish(subject, order, reply=reply),
            lambda got: len(got) >= limit or got[-1].status != 0,
            timeout_s=READ_TIMEOUT_S,
        )
        if answers[-1].status == 503:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{self.stream}: the consumer is gone")
        return answers


class JetStreamLogs:
    """The streams of one zone; see :class:`appliance.boundary.ports.LogsPort`."""

    def __init__(self, policy: ZonePolicy, wire: NatsWire, admin: StreamAdmin) -> None:
        self._policy, self._wire, self._admin = policy, wire, admin
        self._dead_letters = False
        self._epochs: dict[tuple[ZoneId, Category], list[bytes]] = {}

    async def open_store(self, category: Category) -> JetStreamLog:
        """See the port."""
        zone = self._policy.zone
        config = store_config(category, zone, self._category(category), new_epoch())
        metadata = await self._admin.ensure(config)
        prefix = store_prefix()

        def filters(reader: ZoneId) -> list[str]:
            return [f"facts.{category}.{zone}.{to}.>" for to in (reader, EVERYONE)]

        return JetStreamLog(
            self._wire, self._admin, store_stream(category), metadata, lambda r: prefix + r.subject, filters
        )

    async def open_forward(self, log: LogId) -> JetStreamLog:
        """See the port."""
        metadata = await self._admin.ensure(forward_config(log, self._category(log.category)))
        epochs = self._epochs.get((log.origin, log.category), [])
        if log.epoch not in epochs:
            self._epochs.pop((log.origin, log.category), None)
        prefix = forward_prefix(log.origin, log.epoch)

        def subject_of(record: Record) -> str:
            return marker_subject(log, record.marker) if record.marker else prefix + record.subject

        def filters(reader: ZoneId) -> list[str]:
            return [f"facts.{log.category}.{log.origin}.{to}.>" for to in (reader, EVERYONE)]

        name = forward_stream(log.category, log.origin, log.epoch)
        return JetStreamLog(self._wire, self._admin, name, metadata, subject_of, filters)

    async def existing(self, log: LogId) -> JetStreamLog | None:
        """The stream of a log as it is, changing nothing; ``None`` when it is not there (any more)."""
        own = log.origin == self._policy.zone
        name = store_stream(log.category) if own else forward_stream(log.category, log.origin, log.epoch)
        answer = await self._wire.request_json(f"$JS.API.STREAM.INFO.{name}")
        if answer.get("error", {}).get("err_code") == _STREAM_NOT_FOUND:
            return None
        _raise_error(answer, name)
        metadata = answer["config"].get("metadata", {})
        if metadata.get(EPOCH_KEY) != log.epoch.hex():
            return None
        return JetStreamLog(self._wire, self._admin, name, metadata, lambda record: record.subject, lambda reader: [])

    async def forward_epochs(self, origin: ZoneId, category: Category) -> list[bytes]:
        """See the port."""
        return await self._admin.forward_epochs(origin, category)

    async def keep_dead_letter(self, letter: DeadLetter) -> None:
        """See the port."""
        if not self._dead_letters:
            await self._admin.ensure(dead_letter_config())
            self._dead_letters = True
        log = letter.log
        subject = f"dead.{log.origin}.{log.category}.{log.epoch.hex()}.{letter.offset}"
        header = header_block(
            {
                "Bsfg-Reason": letter.reason,
                "Bsfg-Detail": letter.detail[:1024],
                "Bsfg-Subject": letter.subject[:512],
                "Bsfg-Digest": letter.digest.hex(),
            }
        )
        answers = await self._wire.exchange(
            lambda reply: publish(subject, letter.message, reply=reply, header=header), lambda got: True
        )
        error = _json(answers[0]).get("error")
        # One letter per subject: that it is already there is success; only a full stream says so in other words.
        if error is not None and "per subject" not in str(error.get("description")):
            raise UnavailableError(Reason.BROKER_REFUSED, f"{DeadLetter.__name__}: {error.get('description')}")

    def _category(self, category: Category) -> CategoryPolicy:
        return self._policy.categories.get(category, CategoryPolicy())


def _stored(delivery: Delivery) -> StoredRecord:
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>
    return StoredRecord(int(delivery.reply.split(".")[5]), delivery.subject, delivery.payload, delivery.headers())


def _json(delivery: Delivery) -> dict[str, Any]:
    if delivery.status == 503:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, "no stream listens")
    try:
        values = json.loads(delivery.payload)
    except ValueError as error:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, "an acknowledgement is not JSON") from error
    return values if isinstance(values, dict) else {}


def _is_error(delivery: Delivery) -> bool:
    return delivery.status != 0 or delivery.payload.startswith(b'{"error"') or b'"error":' in delivery.payload


def _raise_error(answer: Mapping[str, Any], stream: str) -> None:
    error = answer.get("error")
    if error is None:
        return
    if error.get("err_code") == _STREAM_NOT_FOUND:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{stream} is not there")
    reason = Reason.BROKER_UNAVAILABLE if error.get("code") == 503 else Reason.BROKER_REFUSED
    raise UnavailableError(reason, f"{stream}: {error.get('err_code')}: {error.get('description')}")
