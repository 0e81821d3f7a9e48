# SPDX-License-Identifier: Apache-2.0
"""The kernel's table of mounts (proc_pid_mountinfo(5)), parsed. Pure but for one function that reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount.

    :param device: ``major:minor``. :param root: which part of the file system. :param point: where.
    :param options: of this mount; those of the file system are :attr:`of_all`.
    """

    device: str
    root: str
    point: str
    options: frozenset[str]
    kind: str
    source: str
    of_all: frozenset[str]

    @property
    def writable(self) -> bool:
        """Whether something can be written through this mount."""
        return "ro" not in self.options and "ro" not in self.of_all

    def __str__(self) -> str:
        """For people."""
        part = "" if self.root == "/" else f" ({self.root})"
        return f"{self.point}: {self.kind} from {self.source}{part}"


def parse(text: str) -> list[Mount]:
    """All mounts, in the order they were made. :raises ValueError: it is no such table."""
    return [_mount(line) for line in text.splitlines()]


def read(path: Path) -> list[Mount]:
    """The table of a process. :raises OSError: it cannot be read. :raises ValueError: it is none."""
    return parse(path.read_bytes().decode("utf-8", "surrogateescape"))


def root_of(mounts: list[Mount]) -> Mount:
    """What is at ``/``: the last one mounted there. :raises ValueError: nothing is."""
    found = [mount for mount in mounts if mount.point == "/"]
    if not found:
        raise ValueError("nothing is mounted at /")
    return found[-1]


def _mount(line: str) -> Mount:
    fields = line.split(" ")
    dash = fields.index("-", 6)
    kind, source, of_all = fields[dash + 1 : dash + 4]
    return Mount(
        fields[2],
        _plain(fields[3]),
        _plain(fields[4]),
        frozenset(fields[5].split(",")),
        _plain(kind),
        _plain(source),
        frozenset(of_all.split(",")),
    )


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)
