# SPDX-License-Identifier: Apache-2.0
"""The kernel's audit: programs that it refused to run, as it says so, and whether audit is as the image locked it.

A denial of IPE (record 1420) that names a file is an attempt to run a program, or to load a library, that is not part
of the image; it is said from then on, until the process ends. Memory that belongs to no file is only counted: some
libraries ask for executable memory and go on without it.

The image locks audit until the next boot (``-e 2``). Where that has never been seen, nothing was taken away: the probe
is blind, and the uplink stays closed. Where it was seen and is so no more, somebody has changed the kernel.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from appliance.watchdog.netlink import DUMP, Netlink, NetlinkMessage
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import Code, ProbeName

PERIOD_S: Final = 5.0
IPE_ACCESS: Final = 1420
"""AUDIT_IPE_ACCESS (Linux, ``include/uapi/linux/audit.h``)."""
LOCKED: Final = 2
KEPT: Final = 8
"""The most attempts that are told apart."""
RULES: Final = Path("/usr/lib/bsfg/audit.rules")
_NETLINK_AUDIT: Final = 9
_READ_LOG: Final = 1
_GET, _LIST_RULES = 1000, 1013
_STATUS: Final = struct.Struct("=8I")
_FIELD: Final = re.compile(r'(\w+)=("[^"]*"|\S+)')


@dataclass(frozen=True, slots=True)
class AuditStatus:
    """What audit says of itself. :param lost: records that were dropped since boot."""

    enabled: int
    lost: int
    rules: int


class AuditSource(Protocol):
    """The kernel's audit."""

    def status(self) -> AuditStatus:
        """Now. :raises OSError: it does not say."""
        ...

    def records(self) -> tuple[list[NetlinkMessage], bool]:
        """What was recorded since, and whether some of it is missing. Does not wait."""
        ...

    def fileno(self) -> int:
        """Readable when there are records."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class KernelAudit:
    """The real one; needs CAP_AUDIT_READ and CAP_AUDIT_CONTROL, in the first network namespace.

    :raises OSError: not here, or no right.
    """

    def __init__(self) -> None:
        self._events = Netlink(_NETLINK_AUDIT, _READ_LOG)

    def status(self) -> AuditStatus:
        """As the port says."""
        with Netlink(_NETLINK_AUDIT) as kernel:
            (answer,) = kernel.ask(_GET, b"", flags=0)
        with Netlink(_NETLINK_AUDIT) as kernel:
            rules = [each for each in kernel.ask(_LIST_RULES, b"", flags=DUMP) if each.kind == _LIST_RULES]
        _, enabled, _, _, _, _, lost, _ = _STATUS.unpack_from(answer.body)
        return AuditStatus(enabled, lost, len(rules))

    def records(self) -> tuple[list[NetlinkMessage], bool]:
        """As the port says."""
        return self._events.events()

    def fileno(self) -> int:
        """As the port says."""
        return self._events.fileno()

    def close(self) -> None:
        """As the port says."""
        self._events.close()


class AuditProbe:
    """A :class:`~appliance.watchdog.probing.Probe`.

    :param open_source: listens to audit; tried again when it fails. :param rules: the image's.
    :param run_dir: keeps for this boot that audit was seen locked.
    :param refusals: the types of records that are denials.
    """

    name = ProbeName.AUDIT
    period_s = PERIOD_S

    def __init__(
        self,
        open_source: Callable[[], AuditSource],
        run_dir: Path,
        rules: Path = RULES,
        refusals: frozenset[int] = frozenset({IPE_ACCESS}),
    ) -> None:
        self._open, self._rules, self._refusals = open_source, rules, refusals
        self._source: AuditSource | None = None
        self._locked = run_dir / "audit-locked"
        self._refused: dict[str, None] = {}
        self._anonymous = 0
        self._missed = 0
        self._lost_at_first: int | None = None

    def descriptor(self) -> int | None:
        """As the port says."""
        try:
            return self._listening().fileno()
        except OSError:
            return None

    def look(self) -> Reading:
        """As the port says."""
        try:
            self._take()
            status = self._listening().status()
            wanted = sum(line.startswith("-a ") for line in self._rules.read_text("utf-8").splitlines())
            locked = status.enabled == LOCKED
            if locked and not self._locked.exists():
                self._locked.touch()
            was_locked = self._locked.exists()
        except (OSError, ValueError, struct.error) as error:
            return Reading(self.name, tuple(self._seen()), blind=f"{type(error).__name__}: {error}")
        seen = list(self._seen())
        if was_locked and (not locked or status.rules < wanted):
            what = f"enabled {status.enabled}" if not locked else f"{status.rules} of {wanted} rules"
            seen.append(Seen(Code.AUDIT_OFF, what))
        self._lost_at_first = status.lost if self._lost_at_first is None else self._lost_at_first
        if lost := status.lost - self._lost_at_first + self._missed:
            seen.append(Seen(Code.AUDIT_LOST, f"{lost} since the watchdog's sensor began"))
        blind = "" if was_locked else f"the image's rules were never locked in this boot (enabled {status.enabled})"
        facts = {"enabled": str(status.enabled), "lost": str(status.lost), "rules": str(status.rules)}
        return Reading(self.name, tuple(seen), blind, {**facts, "anonymous": str(self._anonymous)})

    def close(self) -> None:
        """As the port says."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _listening(self) -> AuditSource:
        if self._source is None:
            self._source = self._open()
        return self._source

    def _take(self) -> None:
        records, missed = self._listening().records()
        self._missed += missed
        for record in records:
            if record.kind not in self._refusals:
                continue
            what = refused(record.body)
            if what is None:
                self._anonymous += 1
            elif len(self._refused) < KEPT:
                self._refused[what] = None

    def _seen(self) -> list[Seen]:
        return [Seen(Code.EXECUTABLE_REFUSED, what) for what in self._refused]


def refused(record: bytes) -> str | None:
    """What a denial was about: program, hook, process; ``None``: memory that is of no file."""
    values = {name: value.strip('"') for name, value in _FIELD.findall(record.decode("utf-8", "replace"))}
    path = values.get("path", values.get("name", "?"))
    if path == "?":
        return None
    return f"{path} by {values.get('comm', '?')} ({values.get('ipe_hook', values.get('ipe_op', '?'))})"


def probe(run_dir: Path) -> AuditProbe:
    """The probe of a box. :param run_dir: may be written, and does not outlive a boot."""
    return AuditProbe(KernelAudit, run_dir)
