# SPDX-License-Identifier: Apache-2.0
"""A capture that QEMU writes, followed while it grows: when each frame of the guest was seen, by this host's clock."""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_HEAD: Final = 24
_RECORD: Final = struct.Struct("<IIII")
_POLL_S: Final = 0.005


class Frames:
    """Follows a pcap file (QEMU's filter-dump); a context. :param mac: of the card whose frames count.

    :ivar frames: Unix seconds of each frame from that card, as it was found in the file; oldest first.
    """

    def __init__(self, path: Path, mac: str) -> None:
        self.frames: list[float] = []
        self._path = path
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End."""
        self._ends.set()
        self._thread.join()

    def since(self, moment: float) -> list[float]:
        """When frames came after a moment (Unix seconds), with what was captured until now."""
        time.sleep(4 * _POLL_S)
        return [at for at in self.frames if at > moment]

    def _follow(self) -> None:
        kept = b""
        with self._path.open("rb") as file:
            while len(kept) < _HEAD and not self._ends.wait(_POLL_S):
                kept += file.read(_HEAD - len(kept))
            kept = b""
            while not self._ends.wait(_POLL_S):
                kept = self._take(kept + file.read(), time.time())

    def _take(self, data: bytes, now: float) -> bytes:
        """Note whole frames; what is left is a part of one."""
        at = 0
        while at + _RECORD.size <= len(data):
            size = _RECORD.unpack_from(data, at)[2]
            end = at + _RECORD.size + size
            if end > len(data):
                break
            if data[at + _RECORD.size + 6 : at + _RECORD.size + 12] == self._mac:
                self.frames.append(now)
            at = end
        return data[at:]
