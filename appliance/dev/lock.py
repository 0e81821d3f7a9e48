# SPDX-License-Identifier: Apache-2.0
"""One supervisor in one folder: a lock that the kernel holds for its holder, and releases however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from typing import Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.dev.layout import Layout

_LOCK_WAIT: Final = 1.0
"""Seconds to try for the lock: whoever only looks whether it is held holds it for a moment."""


@contextlib.contextmanager
def holding_lock(layout: Layout) -> Iterator[None]:
    """Be the only supervisor of a folder. :raises UnavailableError: ``already_running``, ``bad_environment``."""
    try:
        layout.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = layout.lock.open("ab")
    except OSError as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{error.filename}: {error.strerror}") from error
    deadline = time.monotonic() + _LOCK_WAIT
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(Reason.ALREADY_RUNNING, str(layout.root)) from error
                time.sleep(0.05)
        yield


def is_running(layout: Layout) -> bool:
    """Whether a supervisor lives in a folder."""
    try:
        with layout.lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
