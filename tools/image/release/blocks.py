# SPDX-License-Identifier: Apache-2.0
"""Which blocks of an image must be written.

Not simply those that are not zero: where a file system or a hash tree expects zeros, a disk that was used before has
something else. So everything is mapped that the partition table, the data that verity covers, and the used part of
every other partition hold; of an empty partition its first MiB, so that nothing old is recognised there.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from appliance.flash.bmap import BLOCK_BYTES, BlockMap, BlockRange
from appliance.flash.gpt import HEAD_BYTES, MIB, ROOT_VERITY_X86_64, ROOT_X86_64, Partition, PartitionTable, read_table
from appliance.flash.verity import BLOCK, VeritySuperblock
from tools.image.errors import BuildError

RANGE_BYTES: Final = 4 * MIB
"""No range is larger, so that an interrupted flash has little to repeat."""


def map_blocks(raw: Path, used: list[bool]) -> BlockMap:
    """The map of an image. :param used: for each MiB of it, whether it has a byte that is not zero."""
    size = raw.stat().st_size
    if size % BLOCK_BYTES:
        raise BuildError(f"{raw}: its size is no multiple of {BLOCK_BYTES}")
    with raw.open("rb") as file:
        table = read_table(lambda at, count: _read(file, at, count))
        spans = list(_merged(sorted(_needed(file, table, used, size))))
        ranges = [_range(file, start, end) for start, end in _pieces(spans)]
    return BlockMap(size, BLOCK_BYTES, tuple(ranges))


def _needed(file: BinaryIO, table: PartitionTable, used: list[bool], size: int) -> Iterator[tuple[int, int]]:
    yield 0, HEAD_BYTES
    covered = _covered_by_verity(file, table)
    for part in table.partitions:
        last = max((i for i in range(part.start // MIB, -(-part.end // MIB)) if used[i]), default=-1)
        end = part.start + MIB if last < 0 else (last + 2) * MIB
        yield part.start, min(part.end, max(end, part.start + covered.get(part.first, 0)))
    for start, end in _gaps(table, size):  # what stands outside of partitions: the second table
        for index in range(start // MIB, -(-end // MIB)):
            if used[index]:
                yield max(start, index * MIB), min(end, (index + 1) * MIB)


def _gaps(table: PartitionTable, size: int) -> Iterator[tuple[int, int]]:
    at = HEAD_BYTES
    for part in sorted(table.partitions, key=lambda part: part.first):
        if part.start > at:
            yield at, part.start
        at = part.end
    if size > at:
        yield at, size


def _covered_by_verity(file: BinaryIO, table: PartitionTable) -> dict[int, int]:
    """Bytes that verity covers, by the first sector of their partition: roots and hash partitions come in pairs."""
    found = {}
    for root, hashes in zip(table.of(ROOT_X86_64), table.of(ROOT_VERITY_X86_64), strict=True):
        block = _read(file, hashes.start, BLOCK)
        if any(block):
            found[root.first] = _within(root, VeritySuperblock.parse(block).data_bytes)
    return found


def _within(part: Partition, size: int) -> int:
    if size > part.size:
        raise BuildError(f"verity covers more than partition {part.label} has")
    return size


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    at = 0
    for start, end in spans:
        first, last = max(start // BLOCK_BYTES * BLOCK_BYTES, at), -(-end // BLOCK_BYTES) * BLOCK_BYTES
        if last > first:
            yield first, last
            at = last


def _pieces(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The first MiB is a range of its own: it is written last."""
    for start, end in spans:
        cuts = [start, *range((start // RANGE_BYTES + 1) * RANGE_BYTES, end, RANGE_BYTES), end]
        if start < HEAD_BYTES < end:
            cuts = sorted({*cuts, HEAD_BYTES})
        yield from itertools.pairwise(cuts)


def _range(file: BinaryIO, start: int, end: int) -> BlockRange:
    return BlockRange(start, end, hashlib.sha256(_read(file, start, end - start)).hexdigest())


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    data = file.read(count)
    if len(data) != count:
        raise BuildError(f"the image ends within {at} to {at + count}")
    return data
