# SPDX-License-Identifier: Apache-2.0
"""Our values as JSON values and back, by the types that their dataclasses state. Pure.

There is one form only: bytes are base64, whole numbers decimal text (JSON's are exact to 2^53 only), an absent value
is null, a tuple is a list, and an object has exactly its dataclass's fields.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from appliance.keys.documents import base64_bytes, base64_text


def to_json(value: Any) -> Any:  # noqa: PLR0911 - one line per kind of value
    """A value as JSON has it. :raises TypeError: a kind of value that does not travel."""
    match value:
        case None:
            return None
        case StrEnum() | str():
            return str(value)
        case bytes():
            return base64_text(value)
        case Path():
            return str(value)
        case float():
            return value
        case int() if not isinstance(value, bool):
            return str(value)
        case Mapping():
            return {str(key): to_json(each) for key, each in value.items()}
        case tuple():
            return [to_json(each) for each in value]
    if is_dataclass(value):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    raise TypeError(f"{type(value).__name__} does not travel")


def from_json(kind: Any, value: Any) -> Any:  # noqa: PLR0911 - one line per kind of value
    """A value of this type; tuples are of one kind (``tuple[Kind, ...]``).

    :raises ValueError: it is none, or not in its one form.
    """
    kind = getattr(kind, "__supertype__", kind)
    if get_origin(kind) in {Union, types.UnionType}:
        (inner,) = (each for each in get_args(kind) if each is not type(None))
        return None if value is None else from_json(inner, value)
    if kind is type(None):
        return _is(value, value is None)
    if get_origin(kind) is Mapping:
        key_kind, value_kind = get_args(kind)
        _is(value, isinstance(value, dict))
        return {from_json(key_kind, key): from_json(value_kind, each) for key, each in value.items()}
    if get_origin(kind) is tuple:
        _is(value, isinstance(value, list))
        return tuple(from_json(get_args(kind)[0], each) for each in value)
    if is_dataclass(kind):
        return _object(kind, value)
    if kind is float:
        return float(_is(value, type(value) in {int, float} and math.isfinite(value)))
    _is(value, isinstance(value, str))
    if kind is bytes:
        return base64_bytes(value)
    if kind is int:
        return _is(number := int(value), str(number) == value)
    return kind(value)


def _object(kind: Any, value: Any) -> Any:
    hints = _hints(kind)
    _is(value, isinstance(value, dict) and set(value) == set(hints))
    return kind(**{name: from_json(hint, value[name]) for name, hint in hints.items()})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _is(value: Any, good: bool) -> Any:
    if not good:
        raise ValueError(f"unexpected {str(value)[:40]!r}")
    return value
