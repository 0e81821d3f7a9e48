# SPDX-License-Identifier: Apache-2.0
"""Disks in memory, with the rules of the port; and targets that fail when a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.flash.disks import DiskFacts


class PowerCut(BaseException):
    """Everything stops, as when the power fails: nobody handles it."""


class FakeTarget:
    """A disk in memory. What was not flushed is lost in a power cut."""

    def __init__(self, size: int) -> None:
        self.medium = bytearray(size)
        self.cache = bytearray(size)
        self.writes: list[tuple[int, int]] = []
        self.before_write: Callable[[int], None] = lambda _: None
        self.spoil: Callable[[int, bytes], bytes] = lambda _, data: data
        self.closed = 0

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self.medium)

    @property
    def direct(self) -> bool:
        """It has no cache to go past but its own."""
        return True

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write into the cache."""
        if offset + len(data) > self.size:
            raise UnavailableError(Reason.DISK_FAILED, "beyond its end")
        self.before_write(len(self.writes))
        self.writes.append((offset, len(data)))
        self.cache[offset : offset + len(data)] = self.spoil(offset, bytes(data))

    def read(self, offset: int, count: int) -> bytes:
        """Read the cache."""
        if offset + count > self.size:
            raise UnavailableError(Reason.DISK_FAILED, "beyond its end")
        return bytes(self.cache[offset : offset + count])

    def flush(self) -> None:
        """Make the medium like the cache."""
        self.medium[:] = self.cache

    def read_back(self, offset: int, count: int) -> bytes:
        """Read the medium."""
        if offset + count > self.size:
            raise UnavailableError(Reason.DISK_FAILED, "beyond its end")
        self.flush()
        return bytes(self.medium[offset : offset + count])

    def descriptor(self) -> int:
        """There is none: a site configuration is embedded through a real file's, and tests of that have one."""
        raise NotImplementedError("a disk in memory has no descriptor")

    def close(self) -> None:
        """Count it."""
        self.closed += 1


class FakeDisks:
    """The disks that a test says there are."""

    def __init__(self, *facts: DiskFacts) -> None:
        self.disks = {disk.name: disk for disk in facts}
        self.partitions: dict[str, str] = {}
        self.links: dict[str, str] = {}
        self.targets = {disk.name: FakeTarget(disk.size) for disk in facts}

    def all(self) -> list[DiskFacts]:
        """All known ones, by name."""
        return [self.disks[name] for name in sorted(self.disks) if self.disks[name].known]

    def facts(self, path: Path) -> DiskFacts:
        """One of them."""
        name = Path(self.links.get(str(path), str(path))).name
        if name in self.partitions:
            raise RefusedError(Reason.DISK_REFUSED, f"{path}: a partition of {self.partitions[name]}")
        if name not in self.disks:
            raise RefusedError(Reason.DISK_REFUSED, f"{path}: no disk of this machine")
        return self.disks[name]

    def open(self, facts: DiskFacts) -> FakeTarget:
        """Its target, unless it is another disk by now."""
        now = self.disks.get(facts.name)
        if now is None or (now.serial, now.size, now.model) != (facts.serial, facts.size, facts.model):
            raise RefusedError(Reason.DISK_REFUSED, f"{facts.node}: another disk than a moment ago")
        return self.targets[facts.name]

    def change(self, name: str, **values: object) -> None:
        """Something happened to a disk."""
        self.disks[name] = replace(self.disks[name], **values)  # type: ignore[arg-type]
