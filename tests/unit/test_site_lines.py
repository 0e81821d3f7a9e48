# SPDX-License-Identifier: Apache-2.0
"""The line of every place in a TOML text, compared with what the parser of the standard library makes of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.site.lines import Lines, Path
from tests import sites

ROWS = (
    "# [not.a.table]",
    "top = 1",
    r'"odd key" = "a # b ] } \" c"',
    "[site]",
    'name = """',
    "[hub]",
    'host = "x" """     # the bracket above is text',
    "zone.inner = 'it is'",
    "",
    '[ hub . "a.b" ]',
    "list = [",
    '  "one",   # ] no end',
    "  'two', { a = 1, b = [1,",
    "  2] },",
    "]",
    "literal = '''",
    "[x]",
    "y = 2'''",
    "[[rows]]",
    "id = 1",
    "[[rows]]",
    "id = 2",
    "[rows.sub]",
    "deep = 1979-05-27 07:32:00",
    "[[rows.more]]",
    "x = { y.z = 1 }",
)
TEXT = "\n".join(ROWS) + "\n"


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a parsed document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield (*path, index)
            yield from places(inner, (*path, index))


def test_tricky_text() -> None:
    """Strings over lines, brackets in strings and comments, dotted and quoted names, arrays of tables."""
    assert set(places(tomllib.loads(TEXT))) >= {
        ("rows", 1, "more", 0, "x", "y", "z"),
        ("hub", "a.b", "list", 2, "b", 1),
    }
    lines, rows = Lines(TEXT), ROWS
    wanted: dict[Path, str] = {
        ("top",): "top = 1",
        ("odd key",): '"odd key"',
        ("site",): "[site]",
        ("site", "name"): 'name = """',
        ("site", "zone", "inner"): "zone.inner",
        ("hub", "a.b"): "[ hub",
        ("hub", "a.b", "list"): "list = [",
        ("hub", "a.b", "list", 0): '  "one"',
        ("hub", "a.b", "list", 2, "b"): "  'two'",
        ("hub", "a.b", "list", 2, "b", 1): "  2] }",
        ("hub", "a.b", "literal"): "literal",
        ("rows", 0, "id"): "id = 1",
        ("rows", 1, "id"): "id = 2",
        ("rows", 1, "sub", "deep"): "deep",
        ("rows", 1, "more", 0, "x", "y", "z"): "x = {",
    }
    for path, start in wanted.items():
        assert rows[lines.of(path) - 1].startswith(start), path
    assert lines.of(("rows", 1, "nothing", "here")) == lines.of(("rows", 1))
    assert lines.of(("nothing",)) == 1


@pytest.mark.parametrize("name", sites.NAMES)
def test_every_place_of_the_examples(name: str) -> None:
    """The line that is named has the name of the field or table in it."""
    text = sites.example(name)
    lines, rows = Lines(text), text.splitlines()
    found = list(places(tomllib.loads(text)))
    assert len(found) > 20
    for path in found:
        if isinstance(path[-1], str):
            assert path[-1] in rows[lines.of(path) - 1], path


_names = st.sampled_from(["a", "b-c", '"d.e"', "'f'", '"g\\"h"'])
_scalars = st.sampled_from(['"x#]"', "'y}'", "1", "true", '"""\nz\n[q]\n"""', "1979-05-27", "'''\nw = 1\n'''"])
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ", # c ]\n".join(items) + "\n]"),
        st.dictionaries(_names, inner, max_size=2).map(
            lambda pairs: "{ " + ", ".join(f"{name} = {value}" for name, value in pairs.items()) + " }"
        ),
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["k", "l", "m", "n"]), st.dictionaries(_names, _values, max_size=3), max_size=4))
@settings(max_examples=150, deadline=None)
def test_made_up_documents(tables: dict[str, dict[str, str]]) -> None:
    """Cut before the line that is named, a document has not yet the place; cut after its value, it has."""
    text = "".join(
        f"[{table}]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())
        for table, fields in tables.items()
    )
    document = tomllib.loads(text)
    lines, rows = Lines(text), text.splitlines(keepends=True)
    for table, fields in document.items():
        for name in fields:
            head = tomllib.loads("".join(rows[: lines.of((table, name)) - 1]))
            assert name not in head.get(table, {})
            assert set(head.get(table, {})) | {name} <= set(fields)
            before = list(fields)[: list(fields).index(name)]
            assert list(head.get(table, {})) == before
