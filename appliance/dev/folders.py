# SPDX-License-Identifier: Apache-2.0
"""Where a folder lies: session keys belong into memory, and a folder of development may be anywhere."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/self/mountinfo")
_OF_MEMORY: Final = frozenset(("tmpfs", "ramfs"))


def in_memory(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether what is written there stays in memory (tmpfs); the folder itself need not be there yet."""
    return _filesystem(folder.absolute(), mounts.read_text(encoding="utf-8", errors="surrogateescape")) in _OF_MEMORY


def _filesystem(folder: Path, mounts: str) -> str:
    """The type of a folder's filesystem: that of the longest mount point above it; a later mount hides an earlier."""
    longest, found = -1, ""
    for line in mounts.splitlines():
        # proc(5): id parent major:minor root MOUNT-POINT options tags… - TYPE source options
        before, _, after = line.partition(" - ")
        point = codecs.decode(before.split()[4].encode("utf-8", "surrogateescape"), "unicode_escape")
        depth = len(Path(point).parts)
        if depth >= longest and folder.is_relative_to(point):
            longest, found = depth, after.split()[0]
    return found
