# SPDX-License-Identifier: Apache-2.0
"""The service that shows the status page: ``python -m appliance.console [--tty /dev/tty1]``.

It owns nothing, asks nobody and changes nothing: it reads status documents and what the kernel says, and writes to one
terminal, by default its standard output. systemd opens that for it (StandardOutput=tty), so it needs no device.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from appliance.console.documents import SystemClock, neutral
from appliance.console.judgement import judge
from appliance.console.memory import Memory
from appliance.console.model import Looker
from appliance.console.page import HEIGHT, moment, render
from appliance.console.screen import Kind, Screen, kind_of
from appliance.console.texts import load
from appliance.console.turning import Room, shown
from appliance.factlog.notify import ServiceManager

EVERY_S: Final = 2.0
_STOP: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


class Page:
    """Makes the page again and again; a defect in it becomes a page too."""

    def __init__(self, root: Path, credentials: Path | None, room: Callable[[], Room | None] = Room) -> None:
        self._looker, self._room = Looker(root, credentials=credentials), room
        self._memory, self._texts = Memory(), load()
        self.state = ""
        self._defect = ""

    def lines(self) -> tuple[str, ...]:
        """The page now."""
        try:
            box = self._looker.look()
            judgement = self._memory.complete(box, judge(box))
            self.state = judgement.overall
            return shown(render(box, judgement, self._texts), box, judgement, self._texts, self._room())
        except Exception as defect:  # noqa: BLE001 - a page that tells of its defect is better than none
            told = neutral(f"{type(defect).__name__}: {defect}", 60)
            if told != self._defect:
                _log.exception("the page")
            self._defect, self.state = told, "defect of this page"
            return _defect_page(told)


def _defect_page(told: str) -> tuple[str, ...]:
    lines = (
        f" BSFG appliance   {moment(SystemClock().unix_s())} UTC",
        "=" * 79,
        " THIS PAGE HAS A DEFECT. The services of the box do not depend on it.",
        f" {told.encode('ascii', 'replace').decode()}",
        "",
        " Do: call the operator and read this out. 'bsfg status' at the hub tells more.",
    )
    return (*lines, *[""] * (HEIGHT - len(lines)))


def run(page: Callable[[], Sequence[str]], screen: Screen, told: Callable[[bool], None]) -> None:
    """Show the page each :data:`EVERY_S` until SIGTERM or SIGINT, which the caller has blocked.

    :param told: called after each page, with whether the terminal took it.
    """
    while True:
        told(screen.show(page()))
        if signal.sigtimedwait(_STOP, EVERY_S) is not None:
            return


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and show the page until told to end. Answers the exit code."""
    parser = argparse.ArgumentParser(prog="bsfg-console", description="Show the status page of this box on a terminal.")
    parser.add_argument("--tty", type=Path, help="the terminal's device; without it: standard output")
    parser.add_argument("--kind", choices=[*Kind], help="what the terminal can do; without it, it is looked at")
    parser.add_argument("--root", type=Path, default=Path("/"), help="the file system to look at")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    manager = ServiceManager()
    try:
        handle = _open(chosen.tty)
        screen = Screen(handle, Kind(chosen.kind) if chosen.kind else kind_of(handle, os.environ.get("TERM", "")))
        page = Page(chosen.root, Path(credentials) if credentials else None, screen.room)
        screen.prepare()
        try:
            run(page.lines, screen, lambda taken: manager.alive(ready=True, text=_line(page.state, taken=taken)))
        finally:
            manager.stopping()
            screen.close()
    except OSError as error:
        _log.error("the terminal: %s", error)
        return 1
    return 0


def _line(state: str, *, taken: bool) -> str:
    return state if taken else f"{state}; the terminal takes no output"


def _open(tty: Path | None) -> int:
    """The terminal, not blocking, and never as a controlling one."""
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(tty, flags) if tty is not None else sys.stdout.fileno()
    os.set_blocking(handle, False)
    return handle


if __name__ == "__main__":
    sys.exit(main())
