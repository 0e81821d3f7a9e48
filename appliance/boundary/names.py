# SPDX-License-Identifier: Apache-2.0
"""Names of the boundary: zones, categories, producers, ids, subjects and streams, parsed once at the edge.

A name that has been parsed is safe in a NATS subject, a header, a file name and a log line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NewType

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

ZoneId = NewType("ZoneId", str)
"""A zone's short name, e.g. ``plant-a``."""
Category = NewType("Category", str)
"""A fact category, e.g. ``operational``; one log each."""
ProducerId = NewType("ProducerId", str)
"""The token of a local producer; ids are scoped to (zone, producer, id)."""
MessageId = NewType("MessageId", str)
"""A producer's id for one fact."""

EVERYONE: Final = "all"
"""The addressee that means every zone; never a zone id."""

_WORDS = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_KIND_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MESSAGE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MAX_WORD: Final = 32
_MAX_KIND_TOKENS: Final = 8
_IDENTITY_SUFFIX: Final = "-bsfg"


def _word(value: str, what: str) -> str:
    if len(value) > _MAX_WORD or not _WORDS.fullmatch(value):
        raise RefusedError(Reason.BAD_NAME, f"{what} {value[:64]!r}: [a-z0-9]+(-[a-z0-9]+)*, at most {_MAX_WORD}")
    return value


def parse_zone(value: str) -> ZoneId:
    """A zone id; ``all`` is reserved. :raises RefusedError: ``bad_name``."""
    if value == EVERYONE:
        raise RefusedError(Reason.BAD_NAME, "'all' is the addressee of everyone, not a zone")
    return ZoneId(_word(value, "zone"))


def parse_addressee(value: str) -> str:
    """A zone id or ``all``. :raises RefusedError: ``bad_name``."""
    return value if value == EVERYONE else parse_zone(value)


def parse_category(value: str) -> Category:
    """A category. :raises RefusedError: ``bad_name``."""
    return Category(_word(value, "category"))


def parse_producer(value: str) -> ProducerId:
    """A producer token. :raises RefusedError: ``bad_name``."""
    return ProducerId(_word(value, "producer"))


def parse_message_id(value: str) -> MessageId:
    """A message id. :raises RefusedError: ``bad_name``."""
    if not _MESSAGE_ID.fullmatch(value):
        raise RefusedError(Reason.BAD_NAME, f"message_id {value[:64]!r}: [A-Za-z0-9._:-], 1 to 128")
    return MessageId(value)


def identity_of(zone: ZoneId) -> str:
    """The identity a zone has in certificates and envelopes: ``plant-a`` is ``plant-a-bsfg``."""
    return f"{zone}{_IDENTITY_SUFFIX}"


def zone_of_identity(identity: str) -> ZoneId:
    """The inverse of :func:`identity_of`. :raises RefusedError: ``bad_name``."""
    if not identity.endswith(_IDENTITY_SUFFIX):
        raise RefusedError(Reason.BAD_NAME, f"identity {identity[:64]!r}: <zone>{_IDENTITY_SUFFIX}")
    return parse_zone(identity.removesuffix(_IDENTITY_SUFFIX))


def stream_token(name: str) -> str:
    """A zone or category as it stands in stream names: ``plant-a`` is ``PLANT_A``."""
    return name.upper().replace("-", "_")


def store_stream(category: Category) -> str:
    """The stream of a zone's own facts of a category."""
    return f"FACTS_{stream_token(category)}"


def forward_stream(category: Category, origin: ZoneId, epoch: bytes) -> str:
    """The stream of facts received from one origin's log (one epoch of it)."""
    return f"{store_stream(category)}_FROM_{stream_token(origin)}_{epoch[:4].hex().upper()}"


@dataclass(frozen=True, slots=True)
class FactSubject:
    """``facts.<category>.<origin>.<to>.<producer>[.<kind>...]``: where a fact is published and read."""

    category: Category
    origin: ZoneId
    to: str
    producer: ProducerId
    kind: tuple[str, ...] = ()

    @classmethod
    def parse(cls, subject: str) -> FactSubject:
        """Parse and check every token. :raises RefusedError: ``bad_name``."""
        return _parse_subject(subject)  # a plant has few subjects and many facts

    @classmethod
    def _parse(cls, subject: str) -> FactSubject:
        root, *tokens = subject.split(".")
        if root != "facts" or len(tokens) < 4:
            raise RefusedError(
                Reason.BAD_NAME, f"subject {subject[:128]!r}: facts.<category>.<origin>.<to>.<producer>[.<kind>...]"
            )
        category, origin, to, producer, *kind = tokens
        if kind and not kind[-1]:
            raise RefusedError(Reason.BAD_NAME, f"subject {subject[:128]!r} ends with a dot")
        return cls(
            parse_category(category),
            parse_zone(origin),
            parse_addressee(to),
            parse_producer(producer),
            parse_kind(".".join(kind)),
        )

    def __str__(self) -> str:
        return ".".join(("facts", self.category, self.origin, self.to, self.producer, *self.kind))

    def addresses(self, zone: ZoneId) -> bool:
        """Whether a zone may be served this fact."""
        return self.to in (zone, EVERYONE)


_parse_subject = lru_cache(maxsize=4096)(FactSubject._parse)


def parse_kind(text: str) -> tuple[str, ...]:
    """The free tail of a subject, dot-separated; may be empty. :raises RefusedError: ``bad_name``."""
    if not text:
        return ()
    tokens = tuple(text.split("."))
    if len(tokens) > _MAX_KIND_TOKENS or not all(_KIND_TOKEN.fullmatch(token) for token in tokens):
        raise RefusedError(Reason.BAD_NAME, f"kind {text[:128]!r}: up to {_MAX_KIND_TOKENS} tokens of [A-Za-z0-9_-]")
    return tokens
