# SPDX-License-Identifier: Apache-2.0
"""Files that are either the old or the new version, whole, whenever the process is killed or the power fails."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.boundary.sections import Section

T = TypeVar("T")

PRIVATE: Final = 0o600
"""Mode of files that hold a key or a password."""
PUBLIC: Final = 0o644
"""Mode of files that anybody may read."""
GROUP: Final = 0o640
"""Mode of files that their group may read."""


def write_atomically(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Replace a file with ``data``, durably. :raises OSError: as the operating system says.

    The mode is set when the temporary file is created, so that no moment exists in which a secret is readable.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_file(path: Path, data: bytes, mode: int, group: int | None = None) -> None:
    """Replace a file whole, in a file system that does not outlive a power cut anyway: nothing is forced to a disk.

    :param group: number of the group it is to have; ``None``: as the folder has it.
    :raises OSError: as the operating system says.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if group is not None:
                os.fchown(file.fileno(), -1, group)
            os.fchmod(file.fileno(), mode)
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_regular(path: Path, limit: int) -> bytes:
    """A regular file of at most ``limit`` bytes, from whomever; it never waits, as it would for a pipe.

    :raises OSError: as the operating system says; ``ELOOP``: it is a link. :raises ValueError: what it is instead.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("no regular file")
        content = b""
        while len(content) <= limit and (more := os.read(descriptor, limit + 1 - len(content))):
            content += more
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise ValueError(f"more than {limit} bytes")
    return content


def is_there(path: Path, data: bytes) -> bool:
    """Whether a file is there, with this content and no other; no link is followed.

    :raises FileExistsError: something else has its name. :raises OSError: as the operating system says.
    """
    try:
        if read_regular(path, len(data)) == data:
            return True
    except FileNotFoundError:
        return False
    except ValueError:
        pass
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
    raise FileExistsError(errno.EEXIST, "another file has that name", str(path))


def add_file(path: Path, data: bytes) -> bool:
    """Write a new file, durably, that is whole or not there; whether it was not there before. It replaces none.

    For one writer at a time, and for file systems without hard links, as sticks have them. What an earlier call
    began under the name ``.<name>.partial`` is begun anew.

    :raises FileExistsError: another file has its name. :raises OSError: as the operating system says.
    """
    if is_there(path, data):
        return False
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PUBLIC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; a rename alone is not, before its folder is written."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; it is released by the kernel if the process dies. Blocks until it is free."""
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def parse_toml(path: Path, parse: Callable[[Section], T]) -> T:
    """What ``parse`` makes of a TOML document.

    :raises OSError: it cannot be read. :raises RefusedError: ``bad_input`` with the file, and what is wrong in it.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: {error}") from error
    try:
        return parse(Section("", document))
    except BsfgError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: {error.detail}") from error
