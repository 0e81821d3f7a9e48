# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.stick``: take what a technician brings on a USB stick, if one is expected. As root.

udev starts it when a stick is put in; the stick has no driver then. Nobody can log in, so what says that one is
expected is the box's own state, and standing in front of it: it has no site configuration, it is in quarantine, it has
suspended a producer, or it was switched on just now, with the stick in it or put in right after. Otherwise the stick
gets no driver, and the page says what to do.

Then systemd loads the driver and mounts the stick's FAT file system read-only; this program reads the files of
:data:`BROUGHT` from the folder ``bsfg``, up to a size, hands each to its handler, and has all of it taken away again.
What is brought is judged by the same rules as on any other way; being on a stick gives it no right.

A box in quarantine also gives something away, if the stick asks for it: its evidence. That is a second step, after the
stick was read and is mounted no more; systemd mounts it to be written then, and another program does it
(:mod:`appliance.box.carry`). This one writes onto no stick.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import parse_producer
from appliance.boundary.reasons import Reason
from appliance.box import carry
from appliance.box.carry import FOLDER
from appliance.box.layout import BoxLayout
from appliance.box.options import layout_of, root_option, run_program
from appliance.box.site import say_again
from appliance.keys.enrolment.voucher import Voucher
from appliance.keys.files import PUBLIC, read_regular, replace_file, write_atomically
from appliance.keys.release import MAXIMUM_BYTES
from appliance.node.documents import write_status
from appliance.site.reading import MOST_BYTES
from appliance.site.store import Outcome, SiteStore, boottime
from appliance.watchdog.desk import ask

NAME: Final = "stick"
AT_START_S: Final = 300.0
"""After switching on, a stick is expected for so long."""
DRIVER: Final = "bsfg-usb.service"
MOUNT: Final = "run-bsfg-stick.mount"
CARRY_MOUNT: Final = "run-bsfg-carry.mount"
CARRY: Final = "bsfg-carry.service"
SHOWN_S: Final = 15.0
"""How long the page says that the box starts anew, before it does."""
SYSTEMCTL: Final = "/usr/bin/systemctl"
_TOLD: Final = 200
_DOCUMENT_BYTES: Final = 256 << 10
_SYSTEMCTL_S: Final = 60.0

Systemctl = Callable[..., bool]
"""Asks systemd for something in the words of ``systemctl``, and waits; whether it was done."""

_log = logging.getLogger("appliance.box.stick")


class StickState(StrEnum):
    """What is said of a stick."""

    IGNORED = "ignored"
    """None is expected; it got no driver."""
    READING = "reading"
    READ = "read"
    """It may be taken out."""
    RESTARTING = "restarting"
    """Something was taken that counts from the next start on, which comes now."""
    WRITING = "writing"
    WRITTEN = "written"
    """The evidence of a quarantine and the request for release are on it, and it may be taken out."""
    UNWRITTEN = "unwritten"
    """It asked for them, and they are not, or not all, on it."""
    FAILED = "failed"
    """It has no file system that is read here, or none at all."""


class Came(StrEnum):
    """What came of a file."""

    TAKEN = "taken"
    KNOWN = "known"
    """The box has it already, or had it before."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Result:
    """Of one file.

    :param detail: for people. :param restart: it counts from the next start on. :param asks: others read this in the
        status document, and do it.
    """

    file: str
    came: Came
    detail: str = ""
    reason: str = ""
    restart: bool = False
    asks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Brought:
    """A file that may be on a stick. :param limit: bytes it may have. :param take: judges and takes it.

    A handler raises a :class:`~appliance.boundary.errors.BsfgError` for what it refuses.
    """

    name: str
    limit: int
    take: Callable[[BoxLayout, bytes, str], Result]


def take_site(layout: BoxLayout, data: bytes, shown: str) -> Result:
    """A site configuration, by the rule of :class:`~appliance.site.store.SiteStore`; the page says what was refused."""
    try:
        offer = SiteStore(layout.site).offer(data, shown)
    finally:
        say_again(layout)
    version = f"version {offer.site.config.version} of {offer.site.config.zone}"
    if offer.outcome in (Outcome.SAME, Outcome.OLDER):
        return Result(shown, Came.KNOWN, version)
    return Result(shown, Came.TAKEN, version, restart=True)


def take_voucher(layout: BoxLayout, data: bytes, shown: str) -> Result:
    """A voucher of an enrolment operator, for the next time this box asks its hub.

    It is kept over a start as well, for a site configuration on the same stick has the box start at once. No secret.
    """
    voucher = Voucher.parse(data)
    write_atomically(layout.kept_voucher, data, PUBLIC)
    replace_file(layout.voucher, data, PUBLIC)  # the folder is enrolment's alone
    return Result(shown, Came.TAKEN, f"voucher for {voucher.zone}")


def take_release(layout: BoxLayout, data: bytes, shown: str) -> Result:
    """A release from quarantine: the watchdog and the TPM judge it. A box that is released counts from its next start.

    One that is left on the stick for a box that is in no quarantine is an old one, and no fault.
    """
    try:
        document = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise RefusedError(Reason.BAD_RELEASE, "not ASCII") from error
    try:
        trio.run(partial(ask, layout.watchdog_socket, op="release", document=document))
    except BsfgError as error:
        if error.reason is not Reason.NOT_QUARANTINED:
            raise
        return Result(shown, Came.KNOWN, "the box is in no quarantine, or released already")
    return Result(shown, Came.TAKEN, "released by two operators", restart=True)


def take_lift(_layout: BoxLayout, data: bytes, shown: str) -> Result:
    """Producers that are to be served again, a name each line; none: all that are suspended. The agent does it.

    It takes no signature: a restart does the same, and whoever can put in a stick can switch the box off and on.
    """
    try:
        names = [parse_producer(line.strip()) for line in data.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise RefusedError(Reason.BAD_INPUT, "not ASCII") from error
    asked = {"asked_unix_ms": time.time_ns() // 1_000_000, "producers": names}
    told = f"{', '.join(names) or 'all producers'}: served again"
    return Result(shown, Came.TAKEN, told[:_TOLD], asks={"lift": asked})


BROUGHT: Final = (
    Brought("site.toml", MOST_BYTES, take_site),
    Brought("voucher.json", 16_384, take_voucher),
    Brought("release.json", MAXIMUM_BYTES, take_release),
    Brought("lift-producers", 4096, take_lift),
)
"""What is looked for, in this order. Nothing else on a stick is read."""


def is_expected(layout: BoxLayout, uptime_s: float) -> bool:
    """Whether somebody may bring something now. :param uptime_s: since the box was switched on."""
    if uptime_s <= AT_START_S or _in_quarantine(layout) or _suspends(layout):
        return True
    try:
        return SiteStore(layout.site).load() is None
    except BsfgError:  # it has one that cannot be read: a new one is what it needs
        return True


def _in_quarantine(layout: BoxLayout) -> bool:
    """By the watchdog's word: then its release is expected."""
    try:
        values = json.loads(read_regular(layout.status_document("watchdog"), MOST_BYTES))
        return bool(values["state"] == "quarantined")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _suspends(layout: BoxLayout) -> bool:
    """By the agent's word: then somebody may come to have a producer served again."""
    try:
        values = json.loads(read_regular(layout.status_document("agent"), _DOCUMENT_BYTES))
        return any(each["reason"] == Reason.PRODUCER_SUSPENDED for each in values["problems"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def bring(
    layout: BoxLayout, systemctl: Systemctl, uptime_s: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Take what the stick has, if one is expected, and say so. Nothing that is on a stick makes this fail."""
    if not is_expected(layout, uptime_s):
        _log.warning("a USB stick was put in, and none is expected: it gets no driver")
        _say(layout, StickState.IGNORED)
        return
    _say(layout, StickState.READING)
    try:
        with _driver(systemctl):
            results, asked = _read(layout, systemctl)
            restart = any(result.restart for result in results)
            # What was taken may be what ends the quarantine; if not, the stick is still in after the new start.
            written = _carry(layout, systemctl, results) if asked and not restart and _in_quarantine(layout) else None
    except UnavailableError as error:
        _log.warning("the USB stick was not read: %s", error.detail)
        _say(layout, StickState.FAILED, detail=error.detail)
        return
    if restart:
        _say(layout, StickState.RESTARTING, results)
        sleep(SHOWN_S)
        systemctl("--no-block", "reboot")
    elif written is None:
        _say(layout, StickState.READ, results)
    else:
        _say(layout, written.state, results, written.detail)


@dataclass(frozen=True, slots=True)
class Written:
    """What came of writing. :param detail: for people."""

    state: StickState
    detail: str


@contextmanager
def _driver(systemctl: Systemctl) -> Iterator[None]:
    """A stick has its driver for as long as this lasts. :raises UnavailableError: ``bad_stick``."""
    try:
        if not systemctl("start", DRIVER):
            raise UnavailableError(Reason.BAD_STICK, "this box has no driver for USB sticks")
        yield
    finally:
        systemctl("stop", MOUNT)
        systemctl("stop", DRIVER)


def _read(layout: BoxLayout, systemctl: Systemctl) -> tuple[list[Result], bool]:
    """What came of its files, and whether it asks for evidence; it is mounted no more.

    :raises UnavailableError: ``bad_stick``.
    """
    try:
        if not systemctl("start", MOUNT):
            raise UnavailableError(Reason.BAD_STICK, "it has no FAT file system, or cannot be read")
        folder = layout.stick / FOLDER
        results = [result for each in BROUGHT if (result := _take(layout, folder, each)) is not None]
        for result in results:
            _log.warning("%s: %s %s", result.file, result.came, result.detail)
        return results, carry.is_asked(folder)
    finally:
        systemctl("stop", MOUNT)


def _carry(layout: BoxLayout, systemctl: Systemctl, results: list[Result]) -> Written:
    """Have the evidence written. Only when it is mounted no more, everything is said to be on it."""
    _say(layout, StickState.WRITING, results)
    write_status(
        layout.status, carry.NAME, {"state": "begun", "detail": "it took too long, or was taken out too early"}
    )
    done = False
    try:
        if not systemctl("start", CARRY_MOUNT):
            written = Written(StickState.UNWRITTEN, "it is write-protected or damaged: use another one")
            _log.warning("evidence: %s", written.detail)
            return written
        done = systemctl("start", CARRY)
    finally:
        away = systemctl("stop", CARRY_MOUNT)
    if done and not away:
        return Written(StickState.UNWRITTEN, "it was not let go of: put it in again")
    written = Written(StickState.WRITTEN if done else StickState.UNWRITTEN, carry.said(layout))
    _log.warning("evidence: %s: %s", written.state, written.detail)
    return written


def _take(layout: BoxLayout, folder: Path, brought: Brought) -> Result | None:
    """``None``: it is not there."""
    shown = f"{FOLDER}/{brought.name} on the USB stick"
    try:
        return brought.take(layout, read_regular(folder / brought.name, brought.limit), shown)
    except FileNotFoundError:
        return None
    except BsfgError as error:
        return Result(shown, Came.REFUSED, error.detail, error.reason)
    except (OSError, ValueError) as error:
        why = error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)
        return Result(shown, Came.REFUSED, why, Reason.BAD_STICK)


def _say(layout: BoxLayout, state: StickState, results: list[Result] | None = None, detail: str = "") -> None:
    files: list[dict[str, Any]] = [
        {"file": each.file, "came": each.came, "detail": each.detail, "reason": each.reason} for each in results or ()
    ]
    told = "; ".join(f"{each.file}: {each.came} {each.detail}".strip() for each in results or ())
    if state is StickState.READ and not files:
        told = f"there is no {' and no '.join(f'{FOLDER}/{each.name}' for each in BROUGHT)} on it"
        if _in_quarantine(layout):
            told = f"{told}; to fetch the evidence, put an empty file {FOLDER}/{carry.ASKS[0]} on it"
    asks = {name: value for each in results or () for name, value in each.asks.items()}
    write_status(layout.status, NAME, {"state": state, "files": files, "detail": detail or told, **asks})


def _systemctl(*words: str) -> bool:
    try:
        return subprocess.run((SYSTEMCTL, *words), check=False, timeout=_SYSTEMCTL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@click.command(help="Take what was brought on the USB stick that was put in, if one is expected.")
@root_option()
def command(root: Path) -> None:
    """Run once."""
    run_program(lambda: bring(layout_of(root), _systemctl, boottime()))


if __name__ == "__main__":
    command.main(prog_name="bsfg-stick")
