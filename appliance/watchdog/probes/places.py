# SPDX-License-Identifier: Apache-2.0
"""Where probes look, and how they put a reading together.

On a box everything is below ``/``. Tests give other places: a namespace's first process, or a tree laid out like the
kernel's where the kernel at hand has no such file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import Code, ProbeName


@dataclass(frozen=True, slots=True)
class Places:
    """The file systems that probes read.

    :param init: the process whose namespaces are the box's: 1. A sandboxed service has others of its own.
    """

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    dev: Path = Path("/dev")
    usr: Path = Path("/usr")
    etc: Path = Path("/etc")
    run: Path = Path("/run")
    var: Path = Path("/var")
    init: int = 1

    @classmethod
    def below(cls, root: Path) -> Places:
        """All of them in a laid-out tree."""
        return cls(root / "proc", root / "sys", root / "dev", root / "usr", root / "etc", root / "run", root / "var")

    @property
    def mountinfo(self) -> Path:
        """The mounts of the box itself."""
        return self.proc / str(self.init) / "mountinfo"


@dataclass(slots=True)
class View:
    """What one look has found so far."""

    probe: ProbeName
    _seen: list[Seen] = field(default_factory=list)
    _facts: dict[str, str] = field(default_factory=dict)
    _blind: list[str] = field(default_factory=list)

    def see(self, code: Code, detail: str = "") -> None:
        """Something is wrong."""
        self._seen.append(Seen(code, detail))

    def note(self, name: str, value: object) -> None:
        """Something was measured."""
        self._facts[name] = str(value)

    def cannot(self, what: str, why: object) -> None:
        """Something could not be looked at; what else was seen counts all the same."""
        self._blind.append(f"{what}: {why}")

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """A part of the look: whatever cannot be read or understood in it makes the reading blind, and no more."""
        try:
            yield
        except OSError as error:
            self.cannot(what, error.strerror or error)
        except (ValueError, IndexError, KeyError) as error:
            self.cannot(what, f"{type(error).__name__}: {error}")

    def reading(self) -> Reading:
        """All of it."""
        return Reading(self.probe, tuple(self._seen), "; ".join(self._blind), self._facts)


def text_of(path: Path) -> str:
    """A small file of the kernel. :raises OSError: it cannot be read."""
    return path.read_bytes().decode("utf-8", "surrogateescape").strip("\0\n ")


def device_number(text: str) -> int:
    """What stat(2) calls a device, from ``major:minor``. :raises ValueError: it is none."""
    major, _, minor = text.partition(":")
    return os.makedev(int(major), int(minor))
