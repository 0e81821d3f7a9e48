# SPDX-License-Identifier: Apache-2.0
"""The input of ``bsfg fact append``: lines of JSON become messages ready to be published.

A line is either a whole message ``{"envelope": ..., "fact": ...}``, sent as it is, or a bare object that becomes the
fact's ``object_json``. A bare object's id is derived from what it says and where it goes, and the time it was produced
is never the time of this command: so the same line appended again is the same fact, byte for byte, and stored once.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from string import Formatter
from typing import Any, Final

import rfc8785

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.messages import address_of, addressee_of, parse_produced
from appliance.boundary.names import EVERYONE, Category, FactSubject, ProducerId, ZoneId, identity_of
from appliance.boundary.producing import ProducedFact
from appliance.boundary.reasons import Reason

_ID_DIGITS: Final = 32
_NOT_IN_KIND = re.compile(r"[^A-Za-z0-9_-]+")
_KIND_TOKENS: Final = 8
_KIND_LENGTH: Final = 64


class Template:
    """Text with ``{field}`` places that are filled from an object's fields by name; ``{{`` is a brace.

    ``{row}`` is the object's field of that name if it has one, else the number of its line.
    """

    def __init__(self, text: str) -> None:
        """:raises RefusedError: ``bad_input``: braces that do not pair, or a place that is more than a name."""
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise RefusedError(Reason.BAD_INPUT, f"template {text!r}: {error}") from error
        if any(name == "" or form or conversion for _, name, form, conversion in parts):
            raise RefusedError(Reason.BAD_INPUT, f"template {text!r}: a place is the name of a field, as in {{row}}")
        self._parts = [(literal, name) for literal, name, _, _ in parts]

    def fill(self, values: Mapping[str, Any], number: int) -> str:
        """The text for one object. :raises RefusedError: ``missing_field``, ``wrong_type``."""
        text = []
        for literal, name in self._parts:
            text.append(literal)
            if name is None:
                continue
            value = values.get(name, number if name == "row" else None)
            if value is None:
                raise RefusedError(Reason.MISSING_FIELD, f"the object has no field {name!r} for the template")
            if isinstance(value, dict | list):
                raise RefusedError(Reason.WRONG_TYPE, f"field {name!r} is not a text or number")
            text.append(value if isinstance(value, str) else json.dumps(value))
        return "".join(text)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message ready to be published; ``number`` is its line."""

    number: int
    subject: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Preparation:
    """How lines become messages.

    :param to: an addressee, or ``None``: a whole message says itself, a bare object goes to everyone.
    :param default_produced_at: Unix milliseconds for bare objects when ``produced_at`` is not given.
    """

    zone: ZoneId
    category: Category
    producer: ProducerId
    to: str | None
    subject: Template | None
    predicate: Template | None
    produced_at: Template | None
    default_produced_at: int

    def prepare(self, number: int, line: bytes) -> Prepared:
        """One line. :raises RefusedError: with the reason; the zone's node decides about all the rest."""
        try:
            value = json.loads(line.decode(), parse_int=_parse_int)
        except (ValueError, RecursionError) as error:
            raise RefusedError(Reason.MALFORMED_JSON, str(error)) from error
        if not isinstance(value, dict):
            raise RefusedError(Reason.MALFORMED_JSON, "not an object")
        if value.keys() == {"envelope", "fact"} and isinstance(value["envelope"], dict):
            return self._whole(number, line, value)
        return self._bare(number, line, value)

    def _whole(self, number: int, line: bytes, value: Mapping[str, Any]) -> Prepared:
        to = self.to
        if to is None:
            try:
                to = addressee_of(value["envelope"]["to_zone"])
            except (BsfgError, KeyError, AttributeError):
                to = EVERYONE  # the node refuses it, and says why
        fact = value["fact"] if isinstance(value["fact"], dict) else {}
        return Prepared(number, self._address(to, fact.get("predicate")), line)

    def _bare(self, number: int, line: bytes, value: dict[str, Any]) -> Prepared:
        if self.subject is None or self.predicate is None:
            raise RefusedError(Reason.MISSING_FIELD, "a bare object needs --subject and --predicate")
        subject, predicate = self.subject.fill(value, number), self.predicate.fill(value, number)
        to = self.to or EVERYONE
        identity: dict[str, Any] = {"category": self.category, "object": value, "predicate": predicate}
        identity |= {"subject": subject, "to": to}
        produced_at = self.default_produced_at
        if self.produced_at is not None:
            produced_at = identity["produced_at"] = parse_time(self.produced_at.fill(value, number))
        address = self._address(to, predicate)
        # The object's own text goes on, not what Python made of it: what it hides, such as a key that stands twice, is
        # for the node to judge.
        shell = json.dumps({"subject": subject, "predicate": predicate}).encode()
        fact = shell[:-1] + b', "object_json": ' + line + b"}"
        try:
            message_id = content_id(identity)
        except (ValueError, RecursionError) as error:  # it has no canonical form
            payload = self._payload("no-canonical-form", to, produced_at, fact)
            parse_produced(ProducedFact(address, payload))  # says why
            raise RefusedError(Reason.NUMBER_RANGE, str(error)) from error
        return Prepared(number, address, self._payload(message_id, to, produced_at, fact))

    def _payload(self, message_id: str, to: str, produced_at: int, fact: bytes) -> bytes:
        envelope = {
            "message_id": message_id,
            "from_zone": identity_of(self.zone),
            "to_zone": address_of(to),
            "produced_at_unix_ms": produced_at,
        }
        return b'{"envelope": ' + json.dumps(envelope).encode() + b', "fact": ' + fact + b"}"

    def _address(self, to: str, predicate: object) -> str:
        kind = kind_of(predicate) if isinstance(predicate, str) else ()
        return str(FactSubject(self.category, self.zone, to, self.producer, kind))


def _parse_int(text: str) -> float:
    """Python refuses to read very long integers; for our purpose they are as good as infinite."""
    return int(text) if len(text) < 32 else math.inf


def content_id(identity: Mapping[str, Any]) -> str:
    """An id made of content alone. :raises rfc8785.CanonicalizationError: the content has no canonical form."""
    return f"c-{hashlib.sha256(rfc8785.dumps(dict(identity))).hexdigest()[:_ID_DIGITS]}"


def kind_of(predicate: str) -> tuple[str, ...]:
    """A predicate as the tail of a subject: its words between dots, with other characters replaced."""
    words = (_NOT_IN_KIND.sub("-", word).strip("-")[:_KIND_LENGTH] for word in predicate.split("."))
    return tuple(word for word in words if word)[:_KIND_TOKENS]


def parse_time(text: str) -> int:
    """Unix milliseconds from a number or an RFC 3339 time with its zone. :raises RefusedError: ``wrong_type``."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise RefusedError(Reason.WRONG_TYPE, f"{text[:64]!r} is neither Unix milliseconds nor a time") from error
    if moment.tzinfo is None:
        raise RefusedError(Reason.WRONG_TYPE, f"{text[:64]!r} does not say its time zone")
    return round(moment.timestamp() * 1000)
