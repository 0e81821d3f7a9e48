# SPDX-License-Identifier: Apache-2.0
"""Which streams there are: their configuration as data, and their creation and metadata over nats-py.

Streams listen on ``log.>`` and transform back to ``facts.>``: what producers publish on ``facts.>`` reaches the log
only through the intake. The epoch of a log stands in its stream's metadata, so it lives and dies with the log.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from nats.aio.client import Client
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig, StreamInfo, SubjectTransform
from nats.js.errors import APIError, NotFoundError

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import Category, ZoneId, forward_stream, store_stream
from appliance.boundary.pages import EPOCH_BYTES
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.boundary.reasons import Reason
from appliance.boundary.records import LogId
from appliance.factlog.island import NatsIsland

T = TypeVar("T")

EPOCH_KEY: Final = "bsfg-epoch"
ORIGIN_KEY: Final = "bsfg-origin"
CATEGORY_KEY: Final = "bsfg-category"
DEAD_LETTERS: Final = "DEAD_LETTERS"
DEAD_LETTER_BYTES: Final = 256 * 1024 * 1024
MAX_RECORD_BYTES: Final = 512 * 1024
"""A fact with its headers; well below the broker's max_payload."""


def store_prefix() -> str:
    """What stands before ``facts.`` where the store streams listen."""
    return "log."


def forward_prefix(origin: ZoneId, epoch: bytes) -> str:
    """What stands before ``facts.`` where the stream of one epoch of an origin's log listens."""
    return f"log.from.{origin}.{epoch.hex()}."


def store_config(category: Category, zone: ZoneId, policy: CategoryPolicy, epoch: bytes) -> StreamConfig:
    """The stream of the zone's own facts of a category."""
    prefix = store_prefix()
    return _config(
        store_stream(category), (f"{prefix}facts.{category}.{zone}.>",), prefix, policy, {EPOCH_KEY: epoch.hex()}
    )


def forward_config(log: LogId, policy: CategoryPolicy) -> StreamConfig:
    """The stream of the facts received from one epoch of an origin's log, with its markers."""
    prefix = forward_prefix(log.origin, log.epoch)
    metadata = {EPOCH_KEY: log.epoch.hex(), ORIGIN_KEY: log.origin, CATEGORY_KEY: log.category}
    subjects = (f"{prefix}facts.{log.category}.>", marker_subject(log, "position"), marker_subject(log, "gap"))
    return _config(forward_stream(log.category, log.origin, log.epoch), subjects, prefix, policy, metadata)


def marker_subject(log: LogId, marker: str) -> str:
    """Where a forward stream's markers are kept; no ``facts.>`` consumer sees them."""
    return f"{forward_prefix(log.origin, log.epoch)}{marker}.{log.category}"


def dead_letter_config() -> StreamConfig:
    """Dead letters: one per fact, for ever (until an operator deals with it)."""
    return StreamConfig(
        name=DEAD_LETTERS,
        subjects=["dead.>"],
        storage=StorageType.FILE,
        max_bytes=DEAD_LETTER_BYTES,
        max_msgs_per_subject=1,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
    )


def _config(
    name: str, subjects: tuple[str, ...], prefix: str, policy: CategoryPolicy, metadata: Mapping[str, str]
) -> StreamConfig:
    return StreamConfig(
        name=name,
        subjects=list(subjects),
        subject_transform=SubjectTransform(src=f"{prefix}facts.>", dest="facts.>"),
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW if policy.when_full is WhenFull.REJECT else DiscardPolicy.OLD,
        max_bytes=policy.max_bytes,
        max_age=policy.max_age_s or None,
        max_msg_size=MAX_RECORD_BYTES,
        duplicate_window=1,  # the only Nats-Msg-Id here are random: a fact's own would skip a record in silence
        allow_atomic=True,
        allow_msg_ttl=True,
        allow_rollup_hdrs=True,
        allow_direct=True,
        deny_delete=True,
        metadata=dict(metadata),
    )


class StreamAdmin:
    """Creates and describes the streams of one zone."""

    def __init__(self, island: NatsIsland) -> None:
        self._island = island

    async def ensure(self, wanted: StreamConfig) -> dict[str, str]:
        """The metadata of a stream that exists afterwards; created as wanted, limits brought up to date.

        :raises UnavailableError: ``broker_refused`` with the broker's own words.
        """

        async def ensure(client: Client) -> dict[str, str]:
            js = client.jetstream()
            try:
                current = (await js.stream_info(str(wanted.name))).config
            except NotFoundError:
                return _metadata(await js.add_stream(wanted))
            if (current.max_bytes, current.max_age, current.discard) != (
                wanted.max_bytes,
                wanted.max_age or 0,
                wanted.discard,
            ):
                limits = replace(current, max_bytes=wanted.max_bytes, max_age=wanted.max_age, discard=wanted.discard)
                await js.update_stream(limits)
            return _own(current.metadata)

        return await self._call(ensure)

    async def put_metadata(self, name: str, changes: Mapping[str, str | None]) -> dict[str, str]:
        """Set (or with ``None`` remove) metadata of a stream; durable on return."""

        async def put(client: Client) -> dict[str, str]:
            js = client.jetstream()
            config = (await js.stream_info(name)).config
            metadata = {key: value for key, value in _own(config.metadata).items() if key not in changes}
            metadata |= {key: value for key, value in changes.items() if value is not None}
            return _metadata(await js.update_stream(replace(config, metadata=metadata)))

        return await self._call(put)

    async def forward_epochs(self, origin: ZoneId, category: Category) -> list[bytes]:
        """The epochs of an origin's log that have a forward stream, oldest stream first."""

        async def find(client: Client) -> list[bytes]:
            found = []
            for info in await _all_streams(client):
                metadata = _own(info.config.metadata)
                if metadata.get(ORIGIN_KEY) == origin and metadata.get(CATEGORY_KEY) == category:
                    found.append((info.created, bytes.fromhex(metadata[EPOCH_KEY])))
            return [epoch for _, epoch in sorted(found, key=lambda pair: (str(pair[0]), pair[1]))]

        return await self._call(find)

    async def _call(self, function: Callable[[Client], Awaitable[T]]) -> T:
        try:
            return await self._island.call(function)
        except APIError as error:
            if error.code == 503:
                raise UnavailableError(Reason.BROKER_UNAVAILABLE, str(error.description)) from error
            raise UnavailableError(Reason.BROKER_REFUSED, f"{error.err_code}: {error.description}") from error


async def _all_streams(client: Client) -> list[StreamInfo]:
    js, found = client.jetstream(), list[StreamInfo]()
    while page := await js.streams_info(offset=len(found)):
        found += page
    return found


def _metadata(info: StreamInfo) -> dict[str, str]:
    return _own(info.config.metadata)


def _own(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Our keys; those the broker adds itself begin with ``_nats``."""
    return {key: value for key, value in (metadata or {}).items() if not key.startswith("_nats")}


def new_epoch() -> bytes:
    """A random id for a log's life."""
    return secrets.token_bytes(EPOCH_BYTES)
