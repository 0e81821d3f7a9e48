# SPDX-License-Identifier: Apache-2.0
"""Where each table and field of a TOML text stands, because the parser of the standard library does not say.

Only texts that ``tomllib`` has read come here, so this walks over the grammar and checks nothing.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from typing import Final

Path = tuple[str | int, ...]
"""A place in a document: names of tables and fields, and indices of arrays."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING: Final = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""(?!")|\'\'\'.*?\'\'\'(?!\')|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]+")


class Lines:
    """The line of each place in one text, from 1."""

    def __init__(self, text: str) -> None:
        self._found = _Walk(text).found

    def of(self, path: Path) -> int:
        """The line of a place; of the nearest table around it that stands in the text; 1 if there is none."""
        while path and path not in self._found:
            path = path[:-1]
        return self._found.get(path, 1)


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._arrays: dict[Path, int] = {}
        self.found: dict[Path, int] = {}
        self._document()

    def _document(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._peek("[["):
                table = self._array_header()
            elif self._peek("["):
                self._at += 1
                table = self._resolved(self._key())
                self._at += 1
                self._header(table)
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _array_header(self) -> Path:
        line = self._line()
        self._at += 2
        *above, name = self._key()
        self._at += 2
        array = (*self._resolved(above), name)
        index = self._arrays.get(array, -1) + 1
        self._arrays[array] = index
        self.found.setdefault(array, line)
        self._header((*array, index))
        return (*array, index)

    def _header(self, table: Path) -> None:
        """A table, and those around it that nothing else has named yet."""
        line = self._line()
        for length in range(1, len(table)):
            self.found.setdefault(table[:length], line)
        self.found[table] = line

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for name in self._key():
            path = (*path, name)
            self.found.setdefault(path, line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._peek("["):
            self._at += 1
            self._items(path)
        elif self._peek("{"):
            self._at += 1
            self._fields(path)
        else:
            match = _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at)
            self._at = match.end() if match else len(self._text)

    def _items(self, path: Path) -> None:
        index = 0
        self._skip(_BLANK)
        while self._at < len(self._text) and not self._peek("]"):
            self._note((*path, index))
            self._value((*path, index))
            self._skip(_BLANK)
            self._comma()
            index += 1
        self._at += 1

    def _fields(self, path: Path) -> None:
        self._skip(_BLANK)
        while self._at < len(self._text) and not self._peek("}"):
            self._pair(path)
            self._skip(_BLANK)
            self._comma()
        self._at += 1

    def _comma(self) -> None:
        if self._peek(","):
            self._at += 1
        self._skip(_BLANK)

    def _key(self) -> list[str]:
        names: list[str] = []
        while True:
            self._skip(_SPACE)
            match = _KEY.match(self._text, self._at)
            if match is None:
                self._at = len(self._text)
                return names or [""]
            self._at = match.end()
            names.append(_plain(match[0]))
            self._skip(_SPACE)
            if not self._peek("."):
                return names
            self._at += 1

    def _resolved(self, names: list[str]) -> Path:
        """The place a header means: of an array of tables, its last one."""
        path: Path = ()
        for name in names:
            path = (*path, name)
            if path in self._arrays:
                path = (*path, self._arrays[path])
        return path

    def _note(self, path: Path) -> None:
        self.found[path] = self._line()

    def _line(self) -> int:
        return bisect.bisect_left(self._ends, self._at) + 1

    def _peek(self, word: str) -> bool:
        return self._text.startswith(word, self._at)

    def _skip(self, what: re.Pattern[str]) -> None:
        match = what.match(self._text, self._at)
        self._at = match.end() if match else self._at


def _plain(key: str) -> str:
    """A key without its quotes."""
    if key[0] not in "\"'":
        return key
    return next(iter(tomllib.loads(f"{key} = 0")))
