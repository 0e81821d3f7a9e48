# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.flash.install``: the running image copies itself from its USB stick to a disk of the machine.

Somebody at the console, a screen or a serial line, chooses the disk and types its serial number. What is copied, and
how, is in :mod:`appliance.flash.copying`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.reasons import ExitCode, Reason
from appliance.flash.copying import Source, booted_root_hash, copy_system
from appliance.flash.disks import DiskFacts
from appliance.flash.embed import FOLDER, SITE
from appliance.flash.gpt import MIB
from appliance.flash.guards import check_confirmation, check_disk, refusals
from appliance.flash.sysfs import SysfsDisks
from appliance.flash.target import DiskTarget
from appliance.flash.writing import Written
from appliance.site.document import open_site

TRIES: Final = 3
"""How often somebody may mistype."""
_SAY_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody wants, if nobody is there to be asked."""

    disk: Path | None = None
    serial: str | None = None


class Installer:
    """One installation, told about on a plain console.

    :param ask: prints a question and gives the line that was typed; raises ``EOFError`` when nobody is there.
    :param say: prints a line.
    """

    def __init__(
        self, disks: SysfsDisks, root: Path, ask: Callable[[str], str], say: Callable[[str], None], choice: Choice
    ) -> None:
        self._disks = disks
        self._root = root
        self._ask = ask
        self._say = say
        self._choice = choice
        self._said = 0.0

    def run(self) -> Written:
        """From the first question to the last byte. :raises BsfgError: whatever speaks against it."""
        running = self._disks.system_disk()
        reader = self._reader(running)
        try:
            source = Source.read(reader, booted_root_hash(self._root))
            self._say(f"This installs the system of {running.node} ({running.model or 'no model'}) on another disk.")
            self._tell_site()
            disk = self._choose(source.need)
            self._confirm(disk)
            check_disk(self._disks.facts(disk.node), source.need)
            target = self._disks.open(disk)
            try:
                done = copy_system(source, target, self._progress)
            finally:
                target.close()
        finally:
            reader.close()
        self._say(f"Done in {done.seconds:.0f} s; everything was read back and compared. Take the stick out.")
        return done

    def _reader(self, disk: DiskFacts) -> DiskTarget:
        os.sync()  # the boot partition may have been written to
        node = self._root / str(disk.node).lstrip("/")
        try:
            return DiskTarget(os.open(node, os.O_RDONLY | os.O_CLOEXEC), str(disk.node))
        except OSError as error:
            raise RefusedError(Reason.DISK_REFUSED, f"{disk.node}: {error.strerror}") from error

    def _tell_site(self) -> None:
        path = self._root / "boot" / FOLDER / SITE
        if not path.is_file():
            if (self._root / "boot/EFI").is_dir():
                self._say("There is no site configuration on the stick: the box will wait for one.")
            else:  # the installer's boot entry mounts nothing but the root
                self._say("Site configuration and voucher go with the system, if they are on the stick.")
            return
        site = open_site(path.read_bytes(), SITE)
        self._say(f"Site configuration for zone {site.config.zone}, version {site.config.version}.")

    def _choose(self, need: int) -> DiskFacts:
        if self._choice.disk is not None:
            disk = self._disks.facts(self._choice.disk)
            check_disk(disk, need)
            return disk
        good: list[DiskFacts] = []
        for disk in self._disks.all():
            why = refusals(disk, need)
            if not why:
                good.append(disk)
            mark, told = (f"{len(good):>3}", "") if not why else ("  -", f"  cannot be used: {'; '.join(why)}")
            facts = f"{disk.node}  {disk.model or 'no model'}  serial {disk.serial or 'none'}  {disk.size} bytes"
            self._say(f"{mark}  {facts}{told}")
        if not good:
            raise RefusedError(Reason.DISK_REFUSED, "this machine has no disk that can be written")
        for _ in range(TRIES):
            typed = self._typed("Number of the disk to install on: ")
            if typed.isdecimal() and 0 < int(typed) <= len(good):
                return good[int(typed) - 1]
            self._say(f"Type a number from 1 to {len(good)}.")
        raise RefusedError(Reason.NOT_CONFIRMED, "no disk was chosen")

    def _confirm(self, disk: DiskFacts) -> None:
        if self._choice.serial is not None:
            check_confirmation(disk, self._choice.serial)
            return
        self._say(f"EVERYTHING on {disk.node} ({disk.model or 'no model'}) will be lost.")
        what = "serial number" if disk.serial else "size in bytes"
        for left in reversed(range(TRIES)):
            try:
                check_confirmation(disk, self._typed(f"Type its {what} to go on: "))
            except RefusedError as error:
                if not left:
                    raise
                self._say(f"{error.detail}; look again.")
            else:
                return

    def _typed(self, question: str) -> str:
        try:
            return self._ask(question).strip()
        except EOFError as error:
            raise RefusedError(Reason.NOT_CONFIRMED, "nobody typed anything") from error

    def _progress(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY_S or done == total:
            self._said = now
            self._say(f"{stage}: {done // MIB} of {total // MIB} MiB")


@click.command()
@click.option("--disk", type=click.Path(path_type=Path), help="Install on this disk instead of asking.")
@click.option("--yes-serial", "serial", help="Its serial number, if nobody is there to type it.")
def main(disk: Path | None, serial: str | None) -> None:
    """Copy the running image from its stick to a disk of this machine."""
    root = Path("/")

    def say(line: str) -> None:
        click.echo(line)

    def ask(question: str) -> str:
        click.echo(question, nl=False)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line

    try:
        Installer(SysfsDisks(root), root, ask, say, Choice(disk, serial)).run()
    except BsfgError as error:
        click.echo(f"error: {error}\nhint: {error.hint}", err=True)
        sys.exit(error.text.exit)
    sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
