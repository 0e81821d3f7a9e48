# SPDX-License-Identifier: Apache-2.0
"""Writes an image to a disk so that the disk boots whole or not at all.

1. The disk's first MiB and its end lose what they had: from here on there is no partition table.
2. The mapped ranges are written as the image streams by; each must have its checksum. What stands outside of partitions
   (the first MiB with the table, the second table at the image's end) is kept in memory.
3. When the whole image was as signed, everything written is read back from the medium and compared.
4. Site configuration and voucher are put into the EFI system partition.
5. The end and, last of all, the first MiB are written and read back.

An interrupted flash therefore leaves a disk that no firmware boots. Started again with ``resume``, ranges that the disk
has already are not written again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from appliance.boundary.errors import IntegrityError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.bmap import BlockMap, BlockRange
from appliance.flash.disks import Target
from appliance.flash.gpt import HEAD_BYTES, MIB, Partition, PartitionTable

MAX_KEPT: Final = 16 * MIB
"""What may stand outside of partitions, since it is kept in memory."""
STAGES: Final = ("check", "write", "read back", "finish")


Progress = Callable[[str, int, int], None]
"""Told how work goes on: stage, bytes done, bytes in all."""


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was done.

    :param written: bytes. :param kept: bytes that the disk had already.
    :param direct: whether what was read back came past the cache. :param seconds: how long it took.
    """

    written: int
    kept: int
    direct: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Layout:
    """An image's ranges, and which of them are written last.

    :param early: within partitions. :param late: outside of them; the first MiB first.
    """

    table: PartitionTable
    early: tuple[BlockRange, ...]
    late: tuple[BlockRange, ...]

    @classmethod
    def of(cls, blocks: BlockMap, head: bytes) -> Layout:
        """Divide a map. :param head: the first MiB of the image.

        :raises RefusedError: ``bad_image``: no table, or a range goes over the border of what is written last.
        """
        table = PartitionTable.parse(head)
        end = max((part.end for part in table.partitions), default=HEAD_BYTES)
        early: list[BlockRange] = []
        late: list[BlockRange] = []
        for part in blocks.ranges:
            outside = part.end <= HEAD_BYTES or part.start >= end
            if not outside and (part.start < HEAD_BYTES or part.end > end):
                raise RefusedError(Reason.BAD_IMAGE, "a range of the block map is neither in nor outside of partitions")
            (late if outside else early).append(part)
        if not late or late[0].start or late[0].end != HEAD_BYTES or sum(p.end - p.start for p in late) > MAX_KEPT:
            raise RefusedError(Reason.BAD_IMAGE, "the block map does not have the partition table as its first MiB")
        return cls(table, tuple(early), tuple(late))


def write_image(
    stream: Iterator[bytes],
    blocks: BlockMap,
    target: Target,
    *,
    resume: bool = False,
    embed: Callable[[Target, Partition], None] | None = None,
    progress: Progress = quiet,
) -> Written:
    """Write an image and prove it.

    :param stream: all of it; raises if it is not what was signed. :param embed: puts files into the EFI partition.
    :raises RefusedError: ``bad_image``, ``disk_refused``. :raises IntegrityError: ``disk_failed``: it reads otherwise
        than it was written. :raises UnavailableError: ``disk_failed``: it cannot be written.
    """
    started = time.monotonic()
    if target.size < blocks.image_size:
        raise RefusedError(Reason.DISK_REFUSED, f"{target.size} bytes are too few for {blocks.image_size}")
    pieces = _Pieces(stream)
    head = pieces.peek(HEAD_BYTES)
    layout = Layout.of(blocks, head)
    blank(target)
    work = _Work(target, layout, blocks, progress)
    for part in blocks.ranges:
        work.take(part, pieces, resume=resume)
    pieces.end()
    target.flush()
    work.compare(layout.early)
    if embed is not None:
        embed(target, layout.table.esp())
    work.finish()
    return Written(work.written, work.kept, target.direct, time.monotonic() - started)


def check_image(stream: Iterator[bytes], blocks: BlockMap, progress: Progress = quiet) -> Layout:
    """All checks of :func:`write_image` that need no disk. :raises RefusedError: ``bad_image``."""
    pieces = _Pieces(stream)
    layout = Layout.of(blocks, pieces.peek(HEAD_BYTES))
    layout.table.esp()
    done = 0
    for part in blocks.ranges:
        made = hashlib.sha256()
        for _, data in pieces.read(part.start, part.end):
            made.update(data)
            done += len(data)
            progress("check", done, blocks.mapped)
        _expect(part, made.hexdigest())
    pieces.end()
    return layout


def blank(target: Target) -> None:
    """Take a disk's partition tables away, both. :raises UnavailableError: ``disk_failed``."""
    start = max(HEAD_BYTES, target.size - MIB)
    target.write(0, bytes(HEAD_BYTES))
    if start < target.size:
        target.write(start, bytes(target.size - start))
    target.flush()


def _expect(part: BlockRange, found: str) -> None:
    if found != part.sha256:
        raise RefusedError(Reason.BAD_IMAGE, f"bytes {part.start} to {part.end} do not have their checksum")


class _Pieces:
    """A stream that is read forward by offsets."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._rest = b""
        self._at = 0

    def peek(self, count: int) -> bytes:
        """The first bytes, which are still to come."""
        while len(self._rest) < count and (data := next(self._stream, b"")):
            self._rest += data
        return self._rest[:count]

    def read(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        """What lies between two offsets, as pieces with theirs; what lies before them is passed over."""
        while self._at < end:
            if not self._rest:
                self._rest = next(self._stream, b"")
                if not self._rest:
                    raise RefusedError(Reason.BAD_IMAGE, "the image ends before its block map does")
            skip = min(len(self._rest), max(0, start - self._at))
            take = min(len(self._rest), end - self._at)
            if take > skip:
                yield self._at + skip, self._rest[skip:take]
            self._at, self._rest = self._at + take, self._rest[take:]

    def end(self) -> None:
        """Read to the end, where the stream says whether it was what was signed."""
        for _ in self._stream:
            pass


class _Work:
    """One flash."""

    def __init__(self, target: Target, layout: Layout, blocks: BlockMap, progress: Progress) -> None:
        self._target = target
        self._layout = layout
        self._total = blocks.mapped
        self._progress = progress
        self._held: dict[int, bytes] = {}
        self.written = 0
        self.kept = 0

    def take(self, part: BlockRange, pieces: _Pieces, *, resume: bool) -> None:
        """Write one range, or keep it for later."""
        late = part in self._layout.late
        there = resume and not late and self._digest(part) == part.sha256
        made, held = hashlib.sha256(), bytearray()
        for offset, data in pieces.read(part.start, part.end):
            made.update(data)
            if late:
                held += data
            elif there:
                self.kept += len(data)
            else:
                self._target.write(offset, data)
                self.written += len(data)
            self._progress("write", self.written + self.kept, self._total)
        _expect(part, made.hexdigest())
        if late:
            self._held[part.start] = bytes(held)

    def compare(self, ranges: tuple[BlockRange, ...]) -> None:
        """Read ranges back. :raises IntegrityError: ``disk_failed``: one is not what was written."""
        done, total = 0, sum(part.end - part.start for part in ranges)
        for part in ranges:
            if self._digest(part) != part.sha256:
                raise IntegrityError(Reason.DISK_FAILED, f"bytes {part.start} to {part.end} read back otherwise")
            done += part.end - part.start
            self._progress("read back", done, total)

    def finish(self) -> None:
        """Write what makes it a disk that boots; the first MiB last."""
        for part in reversed(self._layout.late):
            self._target.write(part.start, self._held[part.start])
            self._target.flush()
            self.written += part.end - part.start
            self.compare((part,))
        self._progress("finish", self._total, self._total)

    def _digest(self, part: BlockRange) -> str:
        made = hashlib.sha256()
        for at in range(part.start, part.end, MIB):
            made.update(self._target.read_back(at, min(MIB, part.end - at)))
        return made.hexdigest()
