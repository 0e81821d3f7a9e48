# SPDX-License-Identifier: Apache-2.0
"""What strace saw a broker do: whether a record was on disk before it was acknowledged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

SYSCALLS: Final = "write,writev,pwrite64,sendto,sendmsg,fsync,fdatasync,sync_file_range"
_LINE = re.compile(r"^(?P<pid>\d+) (?P<rest>.*)$")
_START = re.compile(r"^(?P<call>\w+)\((?P<arguments>.*)$")
_RESUMED = re.compile(r"^<\.\.\. (?P<call>\w+) resumed>")
_FILE = re.compile(r"^\d+<(?P<path>[^>]*)>")
_ACK = re.compile(r'\\"stream\\":\s*\\"(?P<stream>\w+)\\",\s*\\"seq\\":\s*(?P<seq>\d+)')
_SYNCS: Final = frozenset(("fsync", "fdatasync"))
_BLOCK: Final = ".blk"


@dataclass(frozen=True, slots=True)
class Wrote:
    """A write to a file of records has returned."""

    path: str


@dataclass(frozen=True, slots=True)
class Synced:
    """A file has been synced: the call has returned."""

    path: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An acknowledgement is about to go out on a socket: the call has begun."""

    stream: str
    seq: int


Step = Wrote | Synced | Acknowledged


def command(output: str) -> list[str]:
    """How to watch a program: put its command behind this."""
    return ["strace", "-f", "-y", "-s", "65536", "-e", f"trace={SYSCALLS}", "-e", "signal=none", "-o", output]


def steps(lines: Iterable[str]) -> Iterator[Step]:
    """What of a trace matters here, in order; of calls of many threads at once, each when it counts."""
    begun: dict[str, tuple[str, str]] = {}
    for line in lines:
        if (parts := _LINE.match(line.strip())) is None:
            continue
        pid, rest = parts["pid"], parts["rest"].lstrip()
        if (start := _START.match(rest)) is not None:
            call, arguments = start["call"], start["arguments"]
            if call not in _SYNCS:
                yield from (Acknowledged(ack["stream"], int(ack["seq"])) for ack in _ACK.finditer(arguments))
            if arguments.endswith("<unfinished ...>"):
                begun[pid] = (call, arguments)
                continue
        elif _RESUMED.match(rest) is not None and pid in begun:
            call, arguments = begun.pop(pid)
        else:
            continue
        file = _FILE.match(arguments)
        if file is None or not file["path"].endswith(_BLOCK) or rest.rpartition("= ")[2].startswith("-1"):
            continue
        yield Synced(file["path"]) if call in _SYNCS else Wrote(file["path"])


def unsynced(lines: Iterable[str], stream: str, watched: str) -> tuple[list[int], list[int]]:
    """The sequences of a stream that were acknowledged at all, and those whose record was not synced before.

    Records must have been written one at a time, each after the one before it was acknowledged.

    :param watched: what stands in the path of the stream's files.
    """
    acknowledged: list[int] = []
    early: list[int] = []
    dirty, fresh = False, False
    for step in steps(lines):
        match step:
            case Wrote(path) if watched in path:
                dirty, fresh = True, True
            case Synced(path) if watched in path:
                dirty = False
            case Acknowledged(name, seq) if name == stream and seq not in acknowledged:
                acknowledged.append(seq)
                if dirty or not fresh:
                    early.append(seq)
                fresh = False
            case _:
                pass
    return acknowledged, early
