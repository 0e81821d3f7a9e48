# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.recovery`` (bsfg-recovery.service): show the recovery key of the disk, once, and forget it.

The initrd makes 32 random bytes in memory at every boot. At the first boot they become a key of the disk, and the
initrd says so with a second file. Then this program shows them on the terminals for a minute, before the status page
gets them; in any case it removes them. Nothing of them is written to a disk or a journal. ``docs/recovery.md`` says
how the disk is opened with them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/run/bsfg-recovery")
"""Where the initrd leaves ``key`` and, at a first boot, ``first``; only root may enter."""
TERMINALS: Final = (Path("/dev/tty1"), Path("/dev/ttyS0"))
SHOWN_S: Final = 60.0
KEY_BYTES: Final = 32
_GROUP: Final = 8
_LINES: Final = (
    "RECOVERY KEY OF THIS BOX'S DISK",
    "",
    "{key}",
    "",
    "It is shown now, for {seconds:.0f} seconds, and never again. Write it down and keep it away from the box:",
    "with it the disk can be read on another machine when this box is broken. Nobody else knows it.",
)


def main() -> None:
    """Show the key of a new disk; remove the key of any boot."""
    run(FOLDER, TERMINALS, SHOWN_S)


def run(folder: Path, terminals: Sequence[Path], seconds: float) -> bool:
    """The program, in any folder. :returns: whether there was a key to show."""
    key, first = folder / "key", folder / "first"
    try:
        if not first.exists() or not key.exists():
            return False
        data = key.read_bytes()
        if len(data) != KEY_BYTES:
            return False
        text = shown(data, seconds)
        took = [_write(terminal, text) for terminal in terminals]  # each, whatever became of the one before
        if any(took):
            time.sleep(seconds)
            for terminal in terminals:
                _write(terminal, _CLEARED)
        return True
    finally:
        for path in (key, first):
            path.unlink(missing_ok=True)


def grouped(data: bytes) -> str:
    """A key as people write it down: hexadecimal, in groups of eight digits."""
    digits = data.hex()
    return " ".join(digits[start : start + _GROUP] for start in range(0, len(digits), _GROUP))


def shown(data: bytes, seconds: float) -> str:
    """The page with the key; it fits 80 columns but for two lines of prose."""
    lines = "\r\n  ".join(_LINES).format(key=grouped(data), seconds=seconds)
    return f"{_CLEARED}\r\n\r\n  {lines}\r\n"


_CLEARED: Final = "\x1b[2J\x1b[3J\x1b[H"
"""Clear the screen, what scrolled off it too, and go to its beginning."""


def _write(terminal: Path, text: str) -> bool:
    """Whether a terminal took it; one that is not there, or does not read, must not stop the boot."""
    try:
        descriptor = os.open(terminal, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.write(descriptor, text.encode("ascii")) > 0
    except OSError:
        return False
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
