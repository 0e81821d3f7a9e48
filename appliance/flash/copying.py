# SPDX-License-Identifier: Apache-2.0
"""Copies a running system from its stick to a disk, so that the disk boots whole or not at all.

Copied are the EFI system partition, with the site configuration and the voucher in it, and the slot that runs; whatever
else is on the stick is not. The new disk gets a table of its own. As in :mod:`appliance.flash.writing`, both ends of
the disk are blanked first and the table comes last; before that, what was written is read back, and its root must have
the root hash that the signed kernel was started with.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from appliance.boundary.errors import IntegrityError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.disks import Target
from appliance.flash.gpt import (
    HEAD_BYTES,
    MIB,
    ROOT_VERITY_SIG_X86_64,
    ROOT_VERITY_X86_64,
    ROOT_X86_64,
    SECTOR,
    TAIL_BYTES,
    Partition,
    PartitionTable,
)
from appliance.flash.verity import BLOCK, VeritySuperblock, root_hash
from appliance.flash.writing import Progress, Written, blank, quiet

_ROOT_HASH: Final = re.compile(r"(?:^|\s)roothash=([0-9a-f]{64})(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Part:
    """A partition to be copied. :param size: how many bytes of it carry something."""

    partition: Partition
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """The stick. :param root_hash: of the root that runs. :param parts: what is copied, in order of place.

    :param table: as the new disk gets it.
    """

    reader: Target
    table: PartitionTable
    esp: Part
    root: Part
    hashes: Part
    signature: Part
    root_hash: bytes

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that is copied."""
        return self.esp, self.root, self.hashes, self.signature

    @property
    def need(self) -> int:
        """How many bytes the new disk must have."""
        return -(-(max(part.partition.end for part in self.parts) + TAIL_BYTES) // MIB) * MIB

    @classmethod
    def read(cls, reader: Target, digest: bytes) -> Source:
        """Find the parts on a disk. :param digest: the root hash that the system was started with.

        :raises RefusedError: ``bad_image``: the disk has no such root, or no table of the image's kind.
        """
        table = PartitionTable.parse(reader.read(0, HEAD_BYTES))
        root, hashes = (
            _one(table, kind, own) for kind, own in ((ROOT_X86_64, digest[:16]), (ROOT_VERITY_X86_64, digest[16:]))
        )
        following = [part for part in table.of(ROOT_VERITY_SIG_X86_64) if part.first > hashes.first]
        if not following:
            raise RefusedError(Reason.BAD_IMAGE, "no signature of the root follows its hashes")
        signature = min(following, key=lambda part: part.first)
        block = VeritySuperblock.parse(reader.read(hashes.start, BLOCK))
        if block.data_bytes > root.size or block.tree_bytes() > hashes.size:
            raise RefusedError(Reason.BAD_IMAGE, "the root is larger than its partition")
        esp = replace(table.esp(), id=uuid.uuid4())
        kept = (esp, root, hashes, signature)
        fresh = replace(table, disk=uuid.uuid4(), partitions=tuple(sorted(kept, key=lambda part: part.first)))
        return cls(
            reader,
            fresh,
            Part(esp, esp.size),
            Part(root, block.data_bytes),
            Part(hashes, block.tree_bytes()),
            Part(signature, signature.size),
            digest,
        )


def _one(table: PartitionTable, kind: uuid.UUID, own: bytes) -> Partition:
    found = [part for part in table.of(kind) if part.id == uuid.UUID(bytes=own)]
    if len(found) != 1:
        raise RefusedError(Reason.BAD_IMAGE, "the running root is not one of the partitions of the disk it runs from")
    return found[0]


def booted_root_hash(root: Path = Path("/")) -> bytes:
    """What the kernel was started with. :raises RefusedError: ``bad_image``: it names no root hash."""
    found = _ROOT_HASH.search((root / "proc/cmdline").read_text("ascii", errors="replace"))
    if found is None:
        raise RefusedError(Reason.BAD_IMAGE, "this system was not started from an image: no roothash=")
    return bytes.fromhex(found[1])


def copy_system(source: Source, target: Target, progress: Progress = quiet) -> Written:
    """Copy, prove, and only then make the disk one that boots.

    :raises RefusedError: ``disk_refused``: too small; ``bad_image``: what was copied has not the root hash.
    :raises IntegrityError: ``disk_failed``: it reads otherwise than it was written. :raises UnavailableError: likewise.
    """
    started, done = time.monotonic(), 0
    head, tail = source.table.render(target.size // SECTOR * SECTOR)
    blank(target)
    total = sum(part.size for part in source.parts)
    digests = []
    for part in source.parts:
        made = hashlib.sha256()
        for at, count in _pieces(part):
            data = source.reader.read(at, count)
            made.update(data)
            target.write(at, data)
            done += count
            progress("write", done, total)
        digests.append(made.hexdigest())
    target.flush()
    done = 0
    for part, digest in zip(source.parts, digests, strict=True):
        made = hashlib.sha256()
        for at, count in _pieces(part):
            made.update(target.read_back(at, count))
            done += count
            progress("read back", done, total)
        if made.hexdigest() != digest:
            raise IntegrityError(Reason.DISK_FAILED, f"partition {part.partition.label} reads back otherwise")
    _prove_root(source, target)
    for offset, data in ((target.size // SECTOR * SECTOR - len(tail), tail), (0, head)):
        target.write(offset, data)
        target.flush()
        if target.read_back(offset, len(data)) != data:
            raise IntegrityError(Reason.DISK_FAILED, "the partition table reads back otherwise")
    progress("finish", total, total)
    return Written(total + len(head) + len(tail), 0, target.direct, time.monotonic() - started)


def _prove_root(source: Source, target: Target) -> None:
    def within(part: Part) -> Callable[[int, int], bytes]:
        return lambda at, count: target.read_back(part.partition.start + at, count)

    if root_hash(within(source.root), within(source.hashes)) != source.root_hash:
        raise RefusedError(
            Reason.BAD_IMAGE, "what is on this stick has not the root hash that the kernel was signed for"
        )


def _pieces(part: Part) -> list[tuple[int, int]]:
    start, end = part.partition.start, part.partition.start + part.size
    return [(at, min(MIB, end - at)) for at in range(start, end, MIB)]
