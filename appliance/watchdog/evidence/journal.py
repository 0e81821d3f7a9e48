# SPDX-License-Identifier: Apache-2.0
"""A window of the system's journal: the services of the box, the kernel, and what its audit says of refusals.

``journalctl`` reads it, since nothing else in the image knows the format. Its output is bounded in bytes and in time;
lines of other origin are left out, and what is kept is cleaned of secrets: a journal is where anybody may write.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.watchdog.evidence.bundle import JournalLine
from appliance.watchdog.secrecy import clean_foreign

PROGRAM: Final = "/usr/bin/journalctl"
WINDOW: Final = "-30min"
ENTRIES: Final = 1500
OUTPUT_BYTES: Final = 6 * 1024 * 1024
"""More is not read; journalctl gives the newest entries first here."""
KEPT_BYTES: Final = 512 * 1024
"""So much text goes into a bundle."""
TEXT_LENGTH: Final = 400
_FIELDS: Final = "MESSAGE,PRIORITY,_SYSTEMD_UNIT,_TRANSPORT,SYSLOG_IDENTIFIER,_PID"
_UNITS: Final = re.compile(
    r"(?:bsfg-[a-z0-9@:\\-]{1,64}|nats-(?:facts|control)(?:-reload)?|systemd-[a-z0-9@-]{1,64}|chrony)\.service|init\.scope"
)
_AUDIT: Final = re.compile(r"(?:AVC|IPE_[A-Z_]+|SECCOMP|ANOM_[A-Z]+|MAC_[A-Z_]+|CONFIG_CHANGE|INTEGRITY_[A-Z]+)\b")
"""Refusals and changes. Not the records of programs that ran, which quote their arguments."""


@dataclass(frozen=True, slots=True)
class Window:
    """What was read. :param cut: whether there was more. :param withheld: texts that were cleaned."""

    lines: tuple[JournalLine, ...]
    cut: bool
    withheld: int


async def read_journal(command: Sequence[str] = (PROGRAM,), *, since: str = WINDOW) -> Window:
    """The last entries of the journal that are of the box's own programs, the oldest first.

    :raises UnavailableError: ``bad_environment``: there is no journalctl, or it fails.
    """
    options = ("--output=json", f"--output-fields={_FIELDS}", "--no-pager", "--reverse", f"--lines={ENTRIES}")
    arguments = [*command, *options, f"--since={since}"]
    try:
        process = await trio.lowlevel.open_process(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{command[0]}: {error.strerror}") from error
    read, whole = bytearray(), False
    try:
        while process.stdout is not None and len(read) < OUTPUT_BYTES:
            chunk = await process.stdout.receive_some(65536)
            if not chunk:
                whole = True
                break
            read += chunk
    finally:
        if not whole:
            process.kill()
        with trio.CancelScope(shield=True):
            code = await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
    if whole and code:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"journalctl ended with {code}")
    return await trio.to_thread.run_sync(parse_journal, bytes(read), whole)


def parse_journal(output: bytes, whole: bool = True) -> Window:
    """What journalctl printed, newest first, one JSON object a line. What cannot be read is left out."""
    kept: deque[JournalLine] = deque()
    room, withheld, cut, entries = KEPT_BYTES, 0, not whole, output.splitlines()
    for raw in entries if whole else entries[:-1]:
        line, cleaned = _line(raw)
        if line is None:
            continue
        room -= len(line.text.encode()) + 96
        if room < 0:
            cut = True
            break
        withheld += cleaned
        kept.appendleft(line)
    return Window(tuple(kept), cut or len(entries) >= ENTRIES, withheld)


def _line(raw: bytes) -> tuple[JournalLine | None, bool]:
    """An entry, and whether something in it was withheld; ``None``: it is none of ours."""
    try:
        values: Any = json.loads(raw)
        unit, text = _unit(values), values.get("MESSAGE")
        if unit is None or not isinstance(text, str):
            return None, False
        printable = "".join(each if each.isprintable() else "?" for each in text[: 2 * TEXT_LENGTH])
        cleaned = clean_foreign(printable)
        at, priority = int(values["__REALTIME_TIMESTAMP"]), int(values.get("PRIORITY", 6))
        return JournalLine(at, unit, min(max(priority, 0), 7), cleaned[:TEXT_LENGTH]), cleaned != printable
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None, False


def _unit(values: Any) -> str | None:
    transport = values.get("_TRANSPORT")
    if transport == "kernel":
        return "kernel"
    if transport == "audit":
        return "audit" if _AUDIT.match(str(values.get("MESSAGE"))) else None
    unit = values.get("_SYSTEMD_UNIT")
    return unit if isinstance(unit, str) and _UNITS.fullmatch(unit) else None
