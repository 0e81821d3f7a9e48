# SPDX-License-Identifier: Apache-2.0
"""The recovery key is shown once, on what can show it, and is gone afterwards in any case."""

from __future__ import annotations

import os
import pty
import select
from pathlib import Path

import pytest

from appliance.box.recovery import grouped, run

KEY = bytes(range(32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the initrd of a first boot leaves it."""
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "first").touch()
    return tmp_path


def test_a_new_key_is_shown_and_forgotten(folder: Path) -> None:
    """On a real terminal; and a second run has nothing to show."""
    master, terminal = pty.openpty()
    name = Path(os.ttyname(terminal))
    assert run(folder, [folder / "no-terminal", name], 0.05)
    shown = ""
    while "\x1b[2J" not in shown.partition(grouped(KEY))[2]:  # the kernel hands it on in pieces
        assert select.select([master], [], [], 10)[0], f"not shown, or it stays on the screen: {shown!r}"
        shown += os.read(master, 4096).decode("ascii")
    assert all(len(line) <= 110 for line in shown.splitlines())
    assert not list(folder.iterdir())
    assert not run(folder, [name], 0)
    os.close(master)
    os.close(terminal)


def test_the_key_of_a_later_boot_is_removed_unseen(folder: Path) -> None:
    """It opens nothing, and shown it would make people believe that it did."""
    (folder / "first").unlink()
    terminal = folder / "terminal"
    terminal.touch()
    assert not run(folder, [terminal], 0)
    assert terminal.read_bytes() == b""
    assert not (folder / "key").exists()


def test_no_terminal_does_not_stop_the_boot(folder: Path) -> None:
    """Nobody waits for nobody."""
    assert run(folder, [folder / "none"], 3600.0)
    assert not (folder / "key").exists()


def test_a_key_is_written_down_in_groups() -> None:
    """Sixty-four digits in eight groups, which is one line."""
    assert grouped(KEY).split() == [KEY.hex()[n : n + 8] for n in range(0, 64, 8)]
