# SPDX-License-Identifier: Apache-2.0
"""An open disk, or a file that takes the place of one (for virtual machines)."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.reasons import Reason

_ALIGN: Final = 4096
_SYNC_EVERY: Final = 32 << 20
"""Bytes after which written data is forced out, so that progress tells of the disk and not of this machine's memory."""


class DiskTarget:
    """Implements :class:`appliance.flash.disks.Target` on a file descriptor."""

    def __init__(self, descriptor: int, name: str) -> None:
        """Take over an open descriptor."""
        self._fd = descriptor
        self._name = name
        self._size = os.lseek(descriptor, 0, os.SEEK_END)
        self._unsynced = 0
        self._direct: int | None = None
        with contextlib.suppress(OSError):  # tmpfs has no O_DIRECT
            self._direct = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self._size

    @property
    def direct(self) -> bool:
        """Whether what is read back comes past the cache."""
        return self._direct is not None

    def descriptor(self) -> int:
        """The open file."""
        return self._fd

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of it."""
        if offset + len(data) > self._size:
            raise UnavailableError(Reason.DISK_FAILED, f"{self._name}: {offset + len(data)} is beyond its end")
        rest = memoryview(data)
        with self._failing("write", offset):
            while rest:
                done = os.pwrite(self._fd, rest, offset)
                offset, rest = offset + done, rest[done:]
                self._unsynced += done
        if self._unsynced >= _SYNC_EVERY:
            self.flush()

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly that much."""
        with self._failing("read", offset):
            return self._whole(self._fd, offset, count)

    def flush(self) -> None:
        """Wait for the medium."""
        with self._failing("sync", 0):
            os.fsync(self._fd)
        self._unsynced = 0

    def read_back(self, offset: int, count: int) -> bytes:
        """Read exactly that much from the medium."""
        if self._unsynced:
            self.flush()
        with self._failing("read back", offset):
            if self._direct is None:
                os.posix_fadvise(self._fd, offset, count, os.POSIX_FADV_DONTNEED)
                return self._whole(self._fd, offset, count)
            start = offset // _ALIGN * _ALIGN
            span = -(-(offset + count - start) // _ALIGN) * _ALIGN
            with mmap.mmap(-1, span) as buffer:  # anonymous memory is aligned as O_DIRECT needs it
                have = 0
                while start + have < offset + count:
                    with memoryview(buffer) as view, view[have:] as free:
                        got = os.preadv(self._direct, [free], start + have)
                    if not got:
                        raise OSError(f"ends at {start + have}")
                    have += got
                return buffer[offset - start : offset - start + count]

    def close(self) -> None:
        """Close it."""
        for descriptor in (self._direct, self._fd):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self._fd, self._direct = -1, None

    @staticmethod
    def _whole(descriptor: int, offset: int, count: int) -> bytes:
        parts = []
        while count:
            data = os.pread(descriptor, count, offset)
            if not data:
                raise OSError(f"ends at {offset}")
            parts.append(data)
            offset, count = offset + len(data), count - len(data)
        return b"".join(parts)

    @contextlib.contextmanager
    def _failing(self, what: str, offset: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnavailableError(Reason.DISK_FAILED, f"{self._name}: {what} at {offset}: {error}") from error


def open_file(path: Path, size: int, *, again: bool) -> DiskTarget:
    """A regular file as a disk. :param size: bytes it shall have. :param again: whether it may be there already.

    :raises RefusedError: ``disk_refused``: it is there, or is no regular file; or it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if again else os.O_EXCL)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise RefusedError(Reason.DISK_REFUSED, f"{path}: {error.strerror}") from error
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > size:
            raise RefusedError(Reason.DISK_REFUSED, f"{path}: not a file of at most {size} bytes")
        os.ftruncate(descriptor, size)
        return DiskTarget(descriptor, str(path))
    except OSError as error:
        os.close(descriptor)
        raise RefusedError(Reason.DISK_REFUSED, f"{path}: {error.strerror}") from error
    except BaseException:
        os.close(descriptor)
        raise
