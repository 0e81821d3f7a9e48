# SPDX-License-Identifier: Apache-2.0
"""Tables of a site configuration: strict as :class:`Section` is, and every error has its line and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.sections import Section
from appliance.site.errors import BadSiteError
from appliance.site.fields import FIELDS, names_of
from appliance.site.lines import Lines, Path

E = TypeVar("E", bound=StrEnum)
V = TypeVar("V")


_CHOSEN: Final = {
    "interfaces": "<role>",
    "categories": "<category>",
    "peers": "<zone>",
    "applications": "<name>",
}
"""Tables in which the writer chooses the names."""


@dataclass(frozen=True, slots=True)
class Source:
    """A text with its name, for errors."""

    file: str
    lines: Lines


class Table(Section):
    """One table. :param path: its place in the document. :param kind: its name in :data:`FIELDS`."""

    def __init__(self, source: Source, path: Path, kind: str, values: Mapping[str, Any]) -> None:
        super().__init__(_shown(path), values)
        self._source = source
        self._path = path
        self._kind = kind
        self._given = frozenset(values)

    def has(self, field: str) -> bool:
        """Whether a field or table is given, taken or not."""
        return field in self._given

    def number(self, field: str, first: int, last: int, default: int | None = None) -> int:
        """A whole number within bounds. :raises BadSiteError: it is none."""
        value = self.take(field, int, default)
        if not first <= value <= last:
            raise self.fault(field, f"{field} {value} is out of range")
        return value

    def maybe_number(self, field: str, first: int, last: int) -> int | None:
        """As :meth:`number`, where the field may be left out."""
        return self.number(field, first, last) if self.has(field) else None

    def word(self, field: str, kind: type[E]) -> E:
        """One word of an enumeration. :raises BadSiteError: it is none of them."""
        text = self.take(field, str)
        try:
            return kind(text)
        except ValueError as error:
            raise self.fault(field, f"{field} {_quoted(text)} is not one of them") from error

    def value(self, field: str, parse: Callable[[str], V]) -> V:
        """A text that ``parse`` understands. :raises BadSiteError: it raised :class:`ValueError`."""
        text = self.take(field, str)
        try:
            return parse(text)
        except ValueError as error:
            raise self.fault(field, f"{field} {_quoted(text)}: {error}") from error

    def maybe_value(self, field: str, parse: Callable[[str], V]) -> V | None:
        """As :meth:`value`, where the field may be left out."""
        return self.value(field, parse) if self.has(field) else None

    def values(self, field: str, parse: Callable[[str], V], least: int, most: int) -> tuple[V, ...]:
        """A list of different texts that ``parse`` understands. :raises BadSiteError: anything else."""
        if not self.has(field) and least == 0:
            return ()
        texts = self._list(field, str, "texts")
        found: list[V] = []
        for index, text in enumerate(texts):
            try:
                item = parse(text)
            except ValueError as error:
                raise self.fault(field, f"{field} {_quoted(text)}: {error}", index) from error
            if item in found:
                raise self.fault(field, f"{field} {_quoted(text)} stands there twice", index)
            found.append(item)
        if not least <= len(found) <= most:
            raise self.fault(field, f"{field} has {len(found)} entries")
        return tuple(found)

    def zone(self, field: str = "zone") -> ZoneId:
        """A field that names a zone. :raises BadSiteError: it names none."""
        text = self.take(field, str)
        try:
            return parse_zone(text)
        except RefusedError as error:
            raise self.fault(field, error.detail) from error

    def section(self, field: str) -> Table | None:
        """A table of this one, if it is there. :raises BadSiteError: it is no table."""
        value = self._values.pop(field, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fault(field, f"{field} must be a table")
        return Table(self._source, (*self._path, field), self._inner(field), value)

    def need(self, field: str) -> Table:
        """A table of this one. :raises BadSiteError: it is missing."""
        table = self.section(field)
        if table is None:
            raise self.fault(None, f"[{_shown((*self._path, field))}] is missing")
        return table

    def tables(self, field: str) -> list[Table]:
        """The tables of an array; none if it is not there. :raises BadSiteError: it is no array of tables."""
        if not self.has(field):
            return []
        rows = self._list(field, dict, "tables")
        kind = self._inner(field)
        return [Table(self._source, (*self._path, field, index), kind, row) for index, row in enumerate(rows)]

    def fault(self, field: str | None, text: str, *inner: int | str) -> BadSiteError:
        """What is wrong with a field, or with the table itself; to be raised. :param inner: place in it."""
        path = self._path if field is None else (*self._path, field, *inner)
        known = FIELDS.get((self._kind, field)) if field is not None else None
        allowed = f"; allowed: {known.allowed}" if known else ""
        name = f"[{_shown(self._path)}] " if self._path else ""
        return BadSiteError(self._source.file, self._source.lines.of(path), f"{name}{text}{allowed}")

    def refuse(self, text: str) -> RefusedError:
        """The error that says what is wrong here; the first field that the text names is where. To be raised."""
        words = re.findall(r"[\w-]+", text)
        return self.fault(next((word for word in words if (self._kind, word) in FIELDS), None), text)

    def end(self) -> None:
        """Nothing may be left. :raises BadSiteError: with the first field that nobody asked for."""
        if self._values:
            field = next(iter(self._values))
            names = ", ".join(names_of(self._kind)) or "nothing"
            raise self.fault(field, f"has an unknown field {_quoted(field)}; there are: {names}")

    def _inner(self, field: str) -> str:
        """What kind a table in this one is."""
        name = _CHOSEN.get(self._kind, field)
        return f"{self._kind}.{name}" if self._kind else name

    def _list(self, field: str, kind: type[V], what: str) -> list[V]:
        value = self._values.pop(field, None)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise self.fault(field, f"{field} must be a list of {what}")
        return value


def _shown(path: Path) -> str:
    return ".".join(str(part) for part in path)


def _quoted(text: str) -> str:
    """A value on one line, and not all of it: the file has it."""
    return repr(text if len(text) <= 64 else f"{text[:60]}…")
