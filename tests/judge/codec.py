# SPDX-License-Identifier: Apache-2.0
"""Histories as JSON Lines: strict in both directions.

Every field of an event must be present with its exact type; unknown fields, empty strings, negative numbers and digests
that are not SHA-256 are refused, because a history that was recorded wrongly proves nothing.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, NoReturn

from tests.judge.events import EVENT_TYPES, DisasterKind, Event, HistoryError, Link

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "int | None": (int, NoneType),
    "float": (float, int),
    "bool": (bool,),
    "DisasterKind": (str,),
    "tuple[Link, ...]": (list,),
}
_BY_NAME = {cls.EV: cls for cls in EVENT_TYPES}
_FIELDS = {cls.EV: {f.name: _TYPES[str(f.type)] for f in dataclasses.fields(cls)} for cls in EVENT_TYPES}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Placed(NamedTuple):
    """An event and where it was written, for messages (``file:line``)."""

    event: Event
    place: str


def encode(event: Event) -> str:
    """One event as one JSON line without the line end."""
    return json.dumps({"ev": event.EV, **dataclasses.asdict(event)}, ensure_ascii=False, separators=(",", ":"))


def decode(line: str) -> Event:
    """One JSON line as an event.

    :raises HistoryError: when the line is not exactly one well-formed event.
    """
    try:
        data = json.loads(line, parse_constant=_no_constant)
    except ValueError as error:
        raise HistoryError(f"not JSON: {error}") from error
    if type(data) is not dict:
        raise HistoryError("not a JSON object")
    name = data.pop("ev", None)
    fields = _FIELDS.get(name) if type(name) is str else None
    if fields is None:
        raise HistoryError(f"unknown event {name!r}")
    if data.keys() != fields.keys():
        raise HistoryError(f"{name}: fields that differ: {sorted(data.keys() ^ fields.keys())}")
    for field, value in data.items():
        _check(name, field, value, fields[field])
    if name == "topology":
        data["links"] = tuple(_link(link) for link in data["links"])
    elif name == "disaster":
        data["kind"] = _kind(data["kind"])
    return _BY_NAME[name](**data)


def _no_constant(text: str) -> NoReturn:
    """NaN and infinities are no numbers of a history."""
    raise ValueError(f"{text} is not allowed")


def _check(name: str, field: str, value: object, types: tuple[type, ...]) -> None:
    """Refuse a value of another type, an empty string, a negative or infinite number, a bad digest."""
    kind = type(value)
    if kind not in types:
        raise HistoryError(f"{name}.{field}: {value!r} has the wrong type")
    if kind is str:
        if not value:
            raise HistoryError(f"{name}.{field} is empty")
        if field == "content" and not _SHA256.fullmatch(str(value)):
            raise HistoryError(f"{name}.content is not a SHA-256 in lower-case hexadecimal digits")
    elif (kind is int or kind is float) and not 0 <= value < math.inf:  # type: ignore[operator]
        raise HistoryError(f"{name}.{field}: {value!r} is out of range")


def _link(data: Any) -> Link:
    """One link of a topology."""
    if type(data) is not dict or data.keys() != {"origin", "target", "categories"}:
        raise HistoryError("topology.links: a link has exactly origin, target, categories")
    names = data["categories"]
    if type(names) is not list or any(type(n) is not str or not n for n in (data["origin"], data["target"], *names)):
        raise HistoryError("topology.links: names are non-empty strings")
    return Link(data["origin"], data["target"], tuple(names))


def _kind(text: str) -> DisasterKind:
    """The kind of a disaster."""
    try:
        return DisasterKind(text)
    except ValueError as error:
        raise HistoryError(f"disaster.kind: {error}") from error


def _placed(path: Path) -> Iterator[Placed]:
    """The events of one file; a last line without line end is refused as torn."""
    before = 0.0
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            place = f"{path.name}:{number}"
            if not line.endswith("\n"):
                raise HistoryError(f"{place}: the last line is torn (no line end)")
            try:
                event = decode(line)
            except HistoryError as error:
                raise HistoryError(f"{place}: {error}") from error
            if event.t < before:
                raise HistoryError(f"{place}: t goes back from {before} to {event.t}")
            before = event.t
            yield Placed(event, place)


def load(paths: Sequence[Path]) -> list[Placed]:
    """The events of one or more files, merged by ``t`` (a tie keeps the order of ``paths``).

    :raises HistoryError: when a line is malformed or time goes back inside a file.
    """
    return list(heapq.merge(*(_placed(path) for path in paths), key=lambda placed: placed.event.t))


def dump(events: Iterable[Event]) -> str:
    """A whole history as JSON Lines text."""
    return "".join(encode(event) + "\n" for event in events)
