# SPDX-License-Identifier: Apache-2.0
"""Write nats-server's configuration language from plain values; what cannot be written safely is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

Value: TypeAlias = "str | int | bool | Sequence[Value] | Mapping[str, Value]"
"""A text, a number, a switch, a list, or a block of named values."""

_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TEXT = re.compile(r'[^\x00-\x1f\x7f"\\]*')
_INDENT: Final = "  "
_WIDTH: Final = 100


def render(comment: str, document: Mapping[str, Value]) -> str:
    """A whole configuration file. :raises RefusedError: ``bad_input`` for a text the language could misread."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + "".join(f"{_field(name)}: {_value(value, 0)}\n" for name, value in document.items())


def _field(name: str) -> str:
    if not _FIELD.fullmatch(name):
        raise RefusedError(Reason.BAD_INPUT, f"{name[:64]!r} cannot name a field of a broker's configuration")
    return name


def _value(value: Value, depth: int) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return _text(value)
        case Mapping():
            lines = [f"{_field(name)}: {_value(inner, depth + 1)}" for name, inner in value.items()]
            return _enclosed("{", lines, "}", depth)
        case _:
            return _enclosed("[", [_value(inner, depth + 1) for inner in value], "]", depth)


def _text(text: str) -> str:
    """Always quoted, so that ``$`` names no variable and a number stays a text."""
    if not _TEXT.fullmatch(text):
        raise RefusedError(
            Reason.BAD_INPUT, "quotes, backslashes and control characters cannot stand in a broker's text"
        )
    return f'"{text}"'


def _enclosed(opening: str, lines: Sequence[str], closing: str, depth: int) -> str:
    line = f"{opening} {', '.join(lines)} {closing}" if lines else opening + closing
    if "\n" not in line and len(line) + len(_INDENT) * depth <= _WIDTH:
        return line
    inner = _INDENT * (depth + 1)
    body = "".join(f"{inner}{line}\n" for line in lines)
    return f"{opening}\n{body}{_INDENT * depth}{closing}"
