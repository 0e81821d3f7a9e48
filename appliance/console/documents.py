# SPDX-License-Identifier: Apache-2.0
"""Status documents as they are found: read with suspicion, never an error.

Whoever writes a document may be broken or taken over. So a document is read up to a size, what it holds is taken field
by field and only in its right type, and texts come out with nothing in them that a terminal would obey.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from appliance.console.codes import DocState

STALE_AFTER_S: Final = 10.0
"""As :data:`appliance.node.status.STALE_AFTER_S`; that module is not imported, to keep this process small."""
MAX_BYTES: Final = 1 << 18
"""A document of ours has about 10 KB."""
MAX_DOCUMENTS: Final = 32
MAX_ITEMS: Final = 64
MAX_TEXT: Final = 400
ONCE: Final = frozenset({"site", "local", "names-sets", "stick", "carry"})
"""Documents that are written at boot and when something changes: they do not age."""
NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_LARGEST: Final = 1 << 62


class Clock(Protocol):
    """The two clocks of a box."""

    def unix_s(self) -> float:
        """The wall clock, Unix seconds."""
        ...

    def uptime_s(self) -> float:
        """Seconds since the machine was switched on; no step of the wall clock changes it."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def unix_s(self) -> float:
        """The wall clock, Unix seconds."""
        return time.time()

    def uptime_s(self) -> float:
        """Seconds since the machine was switched on, sleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def neutral(text: str, limit: int = MAX_TEXT) -> str:
    """A text in one line, with nothing that a terminal would obey, and not longer than ``limit``."""
    shown = "".join(c if c.isprintable() else " " if c in "\t\n\r" else "?" for c in text[: limit + 1])
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


class Values:
    """A JSON object whose fields are asked for by type; whatever does not fit counts as not there."""

    def __init__(self, values: object = None) -> None:
        self._values: Mapping[str, object] = values if isinstance(values, dict) else {}

    def text(self, name: str, limit: int = MAX_TEXT) -> str:
        """A text, neutralised; empty: there is none."""
        value = self._values.get(name)
        return neutral(value, limit) if isinstance(value, str) else ""

    def number(self, name: str) -> int | None:
        """A whole number, or one in decimal text as the keeper writes it; within 62 bits."""
        value = self._values.get(name)
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, float) and abs(value) < _LARGEST:  # so neither NaN nor infinity
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _LARGEST:
            return None
        return value

    def truth(self, name: str) -> bool | None:
        """True or false; ``None``: neither is said."""
        value = self._values.get(name)
        return value if isinstance(value, bool) else None

    def part(self, name: str) -> Values:
        """An object within."""
        return Values(self._values.get(name))

    def items(self, name: str) -> Iterator[Values]:
        """The objects of a list within, the first :data:`MAX_ITEMS`."""
        value = self._values.get(name)
        for each in value[:MAX_ITEMS] if isinstance(value, list) else ():
            if isinstance(each, dict):
                yield Values(each)

    def __bool__(self) -> bool:
        return bool(self._values)


@dataclass(frozen=True, slots=True)
class Told:
    """Something that is wrong by a document's own word.

    :param reason: a reason code, or what stands in its place. :param source: the document's name.
    """

    reason: str
    detail: str = ""
    where: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One status document.

    :param age_s: seconds since it was written; ``None``: it does not say, or says what cannot be.
    :param fault: why it is damaged.
    """

    name: str
    state: DocState = DocState.MISSING
    age_s: float | None = None
    fault: str = ""
    values: Values = field(default_factory=Values, compare=False)

    @property
    def speaks(self) -> bool:
        """Whether what it says is of now."""
        return self.state is DocState.FRESH

    @property
    def told(self) -> tuple[Told, ...]:
        """The problems it names: a list of objects, or one text ``reason: detail``."""
        found = [
            Told(reason, each.text("detail"), each.text("where", 60), self.name)
            for each in self.values.items("problems")
            if (reason := each.text("reason", 40))
        ]
        if text := self.values.text("problem"):
            reason, _, detail = text.partition(":")
            if re.fullmatch(r"[a-z][a-z0-9_]{0,39}", reason):
                found.append(Told(reason, detail.strip(), "", self.name))
            else:
                found.append(Told("internal", text, "", self.name))
        return tuple(found)


class Reader:
    """Reads the documents of a folder, again and again.

    A wall clock may step. So a document counts as fresh by the wall clock when it is first seen, and from then on by
    whether it was replaced lately.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._seen: dict[str, tuple[tuple[int, int, int], float]] = {}
        """By name: which file it was, and when a new one was last seen (uptime; minus infinity: it was old then)."""

    def read(self) -> dict[str, Document]:
        """Every document that is there, by name."""
        found: dict[str, Document] = {}
        for name in self._names():
            found[name] = self._document(name)
        self._seen = {name: seen for name, seen in self._seen.items() if name in found}
        return found

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                files = sorted(entry.name for entry in entries if entry.name.endswith(".json"))
        except OSError:
            return []
        return [name[:-5] for name in files if NAME.fullmatch(name[:-5])][:MAX_DOCUMENTS]

    def _document(self, name: str) -> Document:
        path = self._folder / f"{name}.json"
        try:
            content, identity = read_file(path)
            values = json.loads(content)
        except FileNotFoundError:
            return Document(name)
        except RecursionError:
            return Document(name, DocState.DAMAGED, fault="nested too deeply")
        except (OSError, ValueError) as error:
            return Document(name, DocState.DAMAGED, fault=neutral(_why(error), 80))
        if not isinstance(values, dict):
            return Document(name, DocState.DAMAGED, fault="no JSON object")
        if not values:  # it has its owner since boot, and nobody has spoken yet
            return Document(name)
        return self._judged(name, identity, Values(values))

    def _judged(self, name: str, identity: tuple[int, int, int], values: Values) -> Document:
        now = self._clock.uptime_s()
        written = values.number("updated_at_unix_ms")
        age = None if written is None else self._clock.unix_s() - written / 1000
        fresh = name in ONCE or (age is not None and abs(age) <= STALE_AFTER_S)
        known = self._seen.get(name)
        if known is None:
            self._seen[name] = (identity, now - max(0.0, age or 0.0) if fresh else -float("inf"))
        elif known[0] != identity:
            self._seen[name], fresh = (identity, now), True
        elif name not in ONCE:
            fresh = now - known[1] <= STALE_AFTER_S
        return Document(
            name, DocState.FRESH if fresh else DocState.STALE, None if age is None or age < 0 else age, "", values
        )


def read_file(path: Path, limit: int = MAX_BYTES) -> tuple[bytes, tuple[int, int, int]]:
    """A regular file's content and which file it was; it never waits, as it would for a pipe.

    :raises OSError, ValueError: it cannot be read; it is no regular file; it is too large.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("no regular file")
        content = b""
        while len(content) <= limit and (more := os.read(handle, limit + 1 - len(content))):
            content += more
    finally:
        os.close(handle)
    if len(content) > limit:
        raise ValueError(f"more than {limit} bytes")
    return content, (found.st_ino, found.st_mtime_ns, found.st_size)


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return "no JSON"
    return error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)


def as_json(value: Any) -> Any:
    """A value of the model as JSON has it."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_json(getattr(value, name)) for name in value.__dataclass_fields__ if name != "values"}
    if isinstance(value, dict):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, tuple | list | frozenset | set):
        return [as_json(each) for each in value]
    return value
