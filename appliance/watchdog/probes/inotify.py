# SPDX-License-Identifier: Apache-2.0
"""Changes in folders, as the kernel tells them (inotify(7)): only that there were some; what, a look says."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_MODIFY: Final = 0x2
_ATTRIB: Final = 0x4
_CLOSE_WRITE: Final = 0x8
_MOVED: Final = 0x40 | 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_ONLYDIR: Final = 0x01000000
WHAT: Final = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _ONLYDIR


class Watch:
    """Watches folders. :raises OSError: the kernel gives no more of them."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._file = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def fileno(self) -> int:
        """Readable when something has changed."""
        return int(self._file)

    def add(self, folders: Iterable[Path]) -> None:
        """Watch these too; one that is not there, or is watched already, is no fault."""
        for folder in folders:
            self._library.inotify_add_watch(self._file, os.fsencode(folder), WHAT)

    def drain(self) -> None:
        """Forget what was told."""
        with suppress(BlockingIOError):
            while os.read(self._file, 65536):
                pass

    def close(self) -> None:
        """Watch no more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
