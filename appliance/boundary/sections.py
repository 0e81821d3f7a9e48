# SPDX-License-Identifier: Apache-2.0
"""Tables of a TOML document, parsed strictly: each field once, with its type, and none that nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ZoneId, parse_category, parse_zone
from appliance.boundary.reasons import Reason

T = TypeVar("T", str, int, float, bool)


class Section:
    """A table of the document that gives out each field once and refuses what nobody asked for."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._name = name
        self._values = dict(values)

    def take(self, field: str, kind: type[T], default: T | None = None) -> T:
        """A field of one type. :raises RefusedError: ``bad_input``: it is missing, or of another type."""
        value = self._values.pop(field, default)
        if value is None:
            raise self.refuse(f"needs {field}")
        if kind is float and type(value) is int:  # 15 and 15.0 are one number to whoever writes it
            value = kind(value)
        if type(value) is not kind:
            raise self.refuse(f"{field} must be {kind.__name__}")
        return value

    def zone(self, field: str = "zone") -> ZoneId:
        """A field that names a zone. :raises RefusedError: ``bad_input``."""
        try:
            return parse_zone(self.take(field, str))
        except RefusedError as error:
            raise error if error.reason is Reason.BAD_INPUT else self.refuse(error.detail) from error

    def words(self, field: str) -> frozenset[Category]:
        """A list of categories. :raises RefusedError: ``bad_input``."""
        value = self._values.pop(field, None)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self.refuse(f"{field} must be a list of categories")
        try:
            return frozenset(parse_category(word) for word in value)
        except RefusedError as error:
            raise self.refuse(f"{field}: {error.detail}") from error

    def refuse(self, text: str) -> RefusedError:
        """The error that says what is wrong here; to be raised."""
        return RefusedError(Reason.BAD_INPUT, f"[{self._name}] {text}" if self._name else text)

    def section(self, field: str) -> Section | None:
        """A table of this one, if it is there."""
        value = self._values.pop(field, None)
        if value is None:
            return None
        name = f"{self._name}.{field}" if self._name else field
        if not isinstance(value, dict):
            raise RefusedError(Reason.BAD_INPUT, f"[{name}] must be a table")
        return Section(name, value)

    def need(self, field: str) -> Section:
        """A table of this one. :raises RefusedError: ``bad_input``: it is missing."""
        section = self.section(field)
        if section is None:
            raise self.refuse(f"[{field}] is missing")
        return section

    def fields(self) -> list[str]:
        """The names of what was not taken yet."""
        return list(self._values)

    def rest(self) -> Mapping[str, Any]:
        """All that was not taken yet, whatever its names: for tables whose names the writer chooses."""
        values, self._values = self._values, {}
        return values

    def end(self) -> None:
        """Nothing may be left. :raises RefusedError: ``bad_input`` with the first field that nobody asked for."""
        if self._values:
            raise self.refuse(f"has an unknown field {next(iter(self._values))!r}")
