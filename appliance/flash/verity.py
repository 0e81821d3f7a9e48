# SPDX-License-Identifier: Apache-2.0
"""dm-verity on files and disks, without the kernel: the root hash of a data partition and its tree.

Only what the image uses: format 1, SHA-256, data and hash blocks of 4096 bytes, the tree behind its superblock.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

BLOCK: Final = 4096
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s")
_PER_BLOCK: Final = BLOCK // 32
_AT_ONCE: Final = 256
MAX_BLOCKS: Final = 1 << 28

Read = Callable[[int, int], bytes]
"""``read(offset, count)``: exactly ``count`` bytes."""


@dataclass(frozen=True, slots=True)
class VeritySuperblock:
    """What stands at the start of a hash partition. :param data_blocks: how many blocks are covered."""

    data_blocks: int
    salt: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read it out of the first block. :raises RefusedError: ``bad_image``: not one, or of another kind."""
        try:
            magic, version, kind, _, name, data_size, hash_size, blocks, salt_size, salt = _SUPERBLOCK.unpack_from(data)
        except struct.error as error:
            raise RefusedError(Reason.BAD_IMAGE, "the hash partition is too short") from error
        expected = (b"verity\0\0", 1, 1, b"sha256", BLOCK, BLOCK)
        if (magic, version, kind, name.rstrip(b"\0"), data_size, hash_size) != expected or salt_size > len(salt):
            raise RefusedError(Reason.BAD_IMAGE, "the hash partition has no superblock of the image's kind")
        if not 0 < blocks <= MAX_BLOCKS:
            raise RefusedError(Reason.BAD_IMAGE, "the hash partition covers an impossible number of blocks")
        return cls(blocks, salt[:salt_size])

    @property
    def data_bytes(self) -> int:
        """How many bytes of the data partition are covered."""
        return self.data_blocks * BLOCK

    def tree_bytes(self) -> int:
        """How many bytes of the hash partition superblock and tree take."""
        total, count = 1, self.data_blocks
        while count > 1:
            count = -(-count // _PER_BLOCK)
            total += count
        return total * BLOCK


def root_hash(read_data: Read, read_hashes: Read) -> bytes:
    """The root hash of the data, after its hash partition was compared with it in every byte.

    :raises RefusedError: ``bad_image``: the tree of the hash partition is not that of the data.
    """
    block = VeritySuperblock.parse(read_hashes(0, BLOCK))
    level = _digests(read_data, block.data_blocks, block.salt)
    levels = []
    while len(level) > 32:
        packed = b"".join(level[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(level), BLOCK))
        levels.append(packed)
        level = b"".join(_digest(packed[at : at + BLOCK], block.salt) for at in range(0, len(packed), BLOCK))
    at = BLOCK
    for packed in reversed(levels):
        if read_hashes(at, len(packed)) != packed:
            raise RefusedError(Reason.BAD_IMAGE, "the hash tree is not that of the root")
        at += len(packed)
    return level


def _digest(data: bytes | memoryview, salt: bytes) -> bytes:
    made = hashlib.sha256(salt)
    made.update(data)
    return made.digest()


def _digests(read: Read, blocks: int, salt: bytes) -> bytes:
    found = []
    for first in range(0, blocks, _AT_ONCE):
        count = min(_AT_ONCE, blocks - first)
        data = memoryview(read(first * BLOCK, count * BLOCK))
        found += [_digest(data[at : at + BLOCK], salt) for at in range(0, count * BLOCK, BLOCK)]
    return b"".join(found)
