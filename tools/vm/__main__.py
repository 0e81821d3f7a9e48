# SPDX-License-Identifier: Apache-2.0
"""``python -m tools.vm`` (``make vm``): boot the image in a virtual machine next to a hub on this host, and watch.

It flashes the site configuration and a voucher, shows the serial line and how far the box is, and ends by itself: exit
code 0 when facts crossed both ways, 1 when something did not happen. ``--keep`` leaves the machine running with its
serial line on this terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import sys
import tempfile
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.vm import pace
from tools.vm.box import Box
from tools.vm.faults import VmError
from tools.vm.hub import BenchHub
from tools.vm.images import WORK, Image
from tools.vm.journey import Journey, beside
from tools.vm.machine import Machine
from tools.vm.show import Progress, SerialShown

LEAVE: Final = b"\x1d"
"""Ctrl-]: leaves the console that --keep attaches."""
_print = threading.Lock()


def say(line: str) -> None:
    """One line on standard output, whole."""
    with _print:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.vm", description="Boot the image next to a hub, and watch.")
    profiles = ("cloud", "test")
    parser.add_argument(
        "--profile", choices=profiles, default="cloud", help="which image (default: cloud, the product)"
    )
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="memory of the machine (default: 1024)")
    parser.add_argument("--dir", type=Path, help="where box and hub are made, and stay; else a folder that is removed")
    parser.add_argument(
        "--keep", action="store_true", help="leave it running, with its serial line here; Ctrl-] ends it"
    )
    parser.add_argument("--quiet", action="store_true", help="do not show the serial line")
    arguments = parser.parse_args()
    try:
        image = Image.find(arguments.profile)
        with _folder(arguments.dir) as folder:
            return _run(arguments, image, folder)
    except VmError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("ended by you")
        return 1


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        if given.exists() and any(given.iterdir()):
            raise VmError(f"{given} is not empty")
        yield given.absolute()
        return
    WORK.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="vm-", dir=WORK))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(arguments: argparse.Namespace, image: Image, folder: Path) -> int:
    say(f"image: {image.raw} (version {image.version}, profile {image.profile})")
    say(f"machine: {pace.accelerator()}, Secure Boot with our keys, software TPM (development only), no forwarded port")
    box = Box.new(folder / "box", image, folder / "vendor")
    hub = BenchHub.make(folder / "hub", box.vendor_cas.read_bytes())
    hub.flash(box)
    say("flashed: site configuration and voucher; the hub starts on this host, a machine of the plant beside the box")
    progress = Progress(say)

    def reached(step: str) -> None:
        progress.reach(step, journey.times[step])

    with hub.running():
        hub.publish(image.uki, image.version)
        changes = {"memory_mib": arguments.memory}
        with beside(box, hub, "box", capture=folder / "uplink.pcap", say=reached, **changes) as journey:
            shown = SerialShown(journey.machine.serial, (lambda _: None) if arguments.quiet else say)
            shown.start()
            try:
                failed = _watch(journey, progress)
            finally:
                shown.stop()
            say("\n" + progress.table())
            if arguments.keep and journey.machine.alive:
                _attach(journey.machine)
    say(failed or "everything held")
    return 1 if failed else 0


def _watch(journey: Journey, progress: Progress) -> str:
    """Follow the box until facts have crossed both ways; what went wrong, or nothing."""
    try:
        journey.watched_from_outside()
        journey.cross("show")
    except VmError as error:
        return f"error: {error}"
    return "" if progress.complete else "error: not everything was reached; see the table"


def _attach(machine: Machine) -> None:
    """The serial line on this terminal, until Ctrl-] or the machine's end."""
    say("the machine runs on, its serial line is here; Ctrl-] ends it")
    if not sys.stdin.isatty():
        while machine.alive:
            select.select([], [], [], 1)
        return
    saved = termios.tcgetattr(sys.stdin)
    position = machine.serial_log.stat().st_size
    try:
        tty.setraw(sys.stdin)
        while machine.alive:
            if select.select([sys.stdin], [], [], 0.2)[0]:
                typed = os.read(sys.stdin.fileno(), 1024)
                if LEAVE in typed:
                    return
                machine.type(typed.decode("utf-8", "replace"))
            position = _copy_raw(machine.serial_log, position)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def _copy_raw(log: Path, position: int) -> int:
    """Write what the log has got since, with its escape sequences."""
    with log.open("rb") as file:
        file.seek(position)
        data = file.read()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return position + len(data)


if __name__ == "__main__":
    sys.exit(main())
