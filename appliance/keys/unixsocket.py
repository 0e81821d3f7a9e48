# SPDX-License-Identifier: Apache-2.0
"""Unix sockets of a box: listening at a path, taking callers, and whose process calls. One place for all services."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

ACCEPT_PAUSE_S: Final = 0.1
"""After a connection that could not be taken."""
BACKLOG: Final = 64
_CREDENTIALS: Final = struct.Struct("3i")

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[trio.socket.SocketType]:
    """A listening socket at a path, mode 0660; a dead predecessor's is replaced in one step.

    :raises RefusedError: ``bad_input``: something else is there. :raises OSError: there can be none.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise RefusedError(Reason.BAD_INPUT, f"{path} exists and is no socket")
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with trio.socket.from_stdlib_socket(plain) as listener:
        with address_of(temporary) as address:
            plain.bind(address)
        temporary.chmod(0o660)  # nobody can find it yet
        listener.listen(BACKLOG)
        temporary.replace(path)
        inode = path.lstat().st_ino
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()


async def callers(listener: trio.socket.SocketType) -> AsyncIterator[tuple[trio.socket.SocketType, int]]:
    """Every connection, and the user at its other end; without end."""
    while True:
        try:
            connection, _ = await listener.accept()
        except OSError as error:  # the machine is out of files, or the caller has left
            _log.warning("accept: %s", error)
            await trio.sleep(ACCEPT_PAUSE_S)
            continue
        yield connection, user_of(connection)


def user_of(connection: trio.socket.SocketType) -> int:
    """The user at the other end when it connected (SO_PEERCRED, unix(7)); the kernel's word, not the caller's."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """A short address of a unix socket, whose own path may be longer than the 107 bytes that fit (unix(7))."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
