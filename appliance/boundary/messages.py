# SPDX-License-Identifier: Apache-2.0
"""The message ``{envelope, fact}``: parsing, limits, canonical bytes and digest.

Intake parses what a producer sent (:func:`parse_produced`) and makes the canonical bytes (RFC 8785) once. Everybody
after that hashes those bytes; receivers only check them (:func:`check_stored`) and never write them anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import rfc8785

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import (
    EVERYONE,
    FactSubject,
    MessageId,
    ProducerId,
    ZoneId,
    identity_of,
    parse_message_id,
    zone_of_identity,
)
from appliance.boundary.producing import ProducedFact
from appliance.boundary.reasons import Reason

MAX_FACT_BYTES: Final = 256 * 1024
"""Canonical bytes of one message."""
MAX_DEPTH: Final = 32
MAX_KEYS: Final = 4096
MAX_TEXT: Final = 256
"""Characters of envelope texts, of a fact's subject and predicate, and of keys."""
MAX_LABELS: Final = 64
MAX_EXACT_INTEGER: Final = 2**53 - 1

_ENVELOPE_TEXTS: Final = ("correlation_id", "causation_id", "object_schema", "object_media_type")
_ENVELOPE_REQUIRED: Final = ("message_id", "from_zone", "to_zone", "produced_at_unix_ms")
_ENVELOPE_FIELDS: Final = frozenset((*_ENVELOPE_REQUIRED, *_ENVELOPE_TEXTS, "labels"))
_FACT_FIELDS: Final = frozenset(("subject", "predicate", "object_json"))


@dataclass(frozen=True, slots=True)
class Message:
    """A validated message: who it is, where it goes, its canonical bytes and their digest."""

    subject: FactSubject
    message_id: MessageId
    produced_at_unix_ms: int
    canonical: bytes
    digest: bytes

    @property
    def key(self) -> tuple[ProducerId, MessageId]:
        """What identifies a fact within its origin zone."""
        return (self.subject.producer, self.message_id)


def parse_produced(produced: ProducedFact) -> Message:
    """Validate what a producer sent and make its canonical bytes.

    :raises RefusedError: with the reason and the field's name; nothing of it may be stored.
    """
    subject = FactSubject.parse(produced.subject)
    document = _load(produced.payload)
    message_id, produced_at = _check_document(document, subject, strict=True)
    if produced.header_id is not None and produced.header_id != message_id:
        raise RefusedError(Reason.ID_MISMATCH, f"{produced.header_id[:64]!r} and {message_id!r}")
    _check_values(document)
    try:
        canonical = rfc8785.dumps(document)
    except rfc8785.CanonicalizationError as error:
        raise RefusedError(Reason.NUMBER_RANGE, str(error)) from error
    _check_size(canonical)
    return Message(subject, message_id, produced_at, canonical, hashlib.sha256(canonical).digest())


def check_stored(subject_text: str, canonical: bytes, digest: bytes) -> Message:
    """Check a fact that another zone stored: digest, size, names and zones; fields we do not know are kept.

    :raises RefusedError: the fact must be diverted; the reason says why.
    """
    if hashlib.sha256(canonical).digest() != digest:
        raise RefusedError(Reason.DIGEST_MISMATCH)
    _check_size(canonical)
    subject = FactSubject.parse(subject_text)
    message_id, produced_at = _check_document(_load(canonical), subject, strict=False)
    return Message(subject, message_id, produced_at, canonical, digest)


def _check_size(canonical: bytes) -> None:
    if len(canonical) > MAX_FACT_BYTES:
        raise RefusedError(Reason.TOO_LARGE, f"{len(canonical)} bytes, {MAX_FACT_BYTES} are allowed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise RefusedError(Reason.MALFORMED_JSON, "a key stands twice")
    return result


def _no_constant(name: str) -> float:
    raise RefusedError(Reason.NUMBER_RANGE, name)


def _parse_int(text: str) -> int:
    # Python refuses to parse very long integers with its own ValueError; ours must name the reason.
    if len(text) > len(str(MAX_EXACT_INTEGER)) + 1:
        raise RefusedError(Reason.NUMBER_RANGE, f"{text[:32]}…")
    return int(text)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_parse_int)


def _load(payload: bytes) -> dict[str, Any]:
    if len(payload) > 2 * MAX_FACT_BYTES:  # white space aside, canonical bytes are never so much shorter
        raise RefusedError(Reason.TOO_LARGE, f"{len(payload)} bytes")
    try:
        document = _DECODER.decode(payload.decode())
    except RecursionError as error:
        raise RefusedError(Reason.TOO_DEEP) from error
    except ValueError as error:
        raise RefusedError(Reason.MALFORMED_JSON, str(error)) from error
    if not isinstance(document, dict):
        raise RefusedError(Reason.MALFORMED_JSON, "not an object")
    return document


def _object(document: Mapping[str, Any], field: str) -> dict[str, Any]:
    try:
        value = document[field]
    except KeyError as error:
        raise RefusedError(Reason.MISSING_FIELD, field) from error
    if not isinstance(value, dict):
        raise RefusedError(Reason.WRONG_TYPE, f"{field} must be an object")
    return value


def _text(container: Mapping[str, Any], field: str) -> str:
    try:
        value = container[field]
    except KeyError as error:
        raise RefusedError(Reason.MISSING_FIELD, field) from error
    if not isinstance(value, str):
        raise RefusedError(Reason.WRONG_TYPE, f"{field} must be a string")
    if not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise RefusedError(Reason.BAD_NAME, f"{field}: 1 to {MAX_TEXT} printable characters")
    return value


def _only(container: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for field in container:
        if field not in known:
            raise RefusedError(Reason.UNKNOWN_FIELD, f"{where}.{field[:64]}")


def _check_document(document: Mapping[str, Any], subject: FactSubject, *, strict: bool) -> tuple[MessageId, int]:
    envelope, fact = _object(document, "envelope"), _object(document, "fact")
    if strict:
        _only(document, frozenset(("envelope", "fact")), "message")
        _only(envelope, _ENVELOPE_FIELDS, "envelope")
        _only(fact, _FACT_FIELDS, "fact")
    message_id = parse_message_id(_text(envelope, "message_id"))
    _check_zones(envelope, subject)
    produced_at = envelope.get("produced_at_unix_ms")
    if produced_at is None:
        raise RefusedError(Reason.MISSING_FIELD, "produced_at_unix_ms")
    if type(produced_at) is not int or not 0 <= produced_at <= MAX_EXACT_INTEGER:
        raise RefusedError(Reason.WRONG_TYPE, "produced_at_unix_ms must be milliseconds since 1970, an integer")
    for field in _ENVELOPE_TEXTS:
        if field in envelope:
            _text(envelope, field)
    _check_labels(envelope.get("labels", {}))
    _text(fact, "subject")
    _text(fact, "predicate")
    _object(fact, "object_json")
    return message_id, produced_at


def _check_zones(envelope: Mapping[str, Any], subject: FactSubject) -> None:
    from_zone, to_zone = _text(envelope, "from_zone"), _text(envelope, "to_zone")
    if from_zone != identity_of(subject.origin):
        raise RefusedError(Reason.ZONE_MISMATCH, f"from_zone {from_zone!r} on a subject of {subject.origin}")
    if to_zone != address_of(subject.to):
        raise RefusedError(Reason.ZONE_MISMATCH, f"to_zone {to_zone!r} on a subject to {subject.to}")


def _check_labels(labels: object) -> None:
    if not isinstance(labels, dict):
        raise RefusedError(Reason.WRONG_TYPE, "labels must be an object of strings")
    if len(labels) > MAX_LABELS:
        raise RefusedError(Reason.TOO_MANY_KEYS, f"{len(labels)} labels, {MAX_LABELS} are allowed")
    for key in labels:
        _text(labels, key)


def _check_values(document: dict[str, Any]) -> None:
    """Depth, number of keys, number range and text: level by level, so that depth costs no stack."""
    level: list[Any] = [document]
    keys = 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                keys += len(value)
                for key in value:
                    _check_scalar(key)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            else:
                _check_scalar(value)
        if keys > MAX_KEYS:
            raise RefusedError(Reason.TOO_MANY_KEYS)
        if not below:
            return
        level = below
    raise RefusedError(Reason.TOO_DEEP)


def _check_scalar(value: object) -> None:
    if isinstance(value, str):
        if value.isascii():
            return
        try:
            value.encode()
        except UnicodeEncodeError as error:  # a lone surrogate has no UTF-8 form
            raise RefusedError(Reason.MALFORMED_JSON, "a text is not valid Unicode") from error
    elif isinstance(value, float):
        # An integral float would be written as an integer that its reader could not tell from a rounded one.
        if not math.isfinite(value) or (value.is_integer() and abs(value) > MAX_EXACT_INTEGER):
            raise RefusedError(Reason.NUMBER_RANGE, repr(value))
    elif isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER:
        raise RefusedError(Reason.NUMBER_RANGE, str(value))


def address_of(to: str) -> str:
    """An addressee as it stands in envelopes: ``all``, or the zone's identity."""
    return EVERYONE if to == EVERYONE else identity_of(ZoneId(to))


def addressee_of(to_zone: str) -> str:
    """The inverse of :func:`address_of`. :raises RefusedError: ``bad_name``."""
    return EVERYONE if to_zone == EVERYONE else zone_of_identity(to_zone)
