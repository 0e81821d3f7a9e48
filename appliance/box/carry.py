# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.carry``: write a quarantined box's evidence onto a USB stick that asks for it. As root.

A box has no shell, so a stick is how its evidence gets to the operators. ``bsfg-stick`` has read the stick, and starts
this only when the box is in quarantine and the stick has one of :data:`ASKS`; systemd has mounted it a second time,
to be written. Both are looked at here once more: the stick may be another one by now, and whether the box is in
quarantine is the watchdog's word. The watchdog lays out what is to be carried
(:mod:`appliance.watchdog.evidence.outgoing`); here it is copied.

=========================================== ======================================================================
``bsfg/evidence-<zone>-<digest>/``           the first 12 digits of the bundle's SHA-256
``…/<zone>-<number>-<digest>.evidence.json`` the bundle; written last: where it is, the others are
``…/<zone>-<number>-<digest>.seal.json``     its seal
``…/<zone>-<number>-<digest>.request.json``  the request for release
=========================================== ======================================================================

**Nothing that is on the stick is written over.** A file gets its name when all of it is on the stick. What an earlier
attempt began is completed; where something else has such a name, the next free folder (``-2``, ``-3``, …) is taken.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import click
import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.box.layout import BoxLayout
from appliance.box.options import layout_of, root_option, run_program
from appliance.keys.files import add_file, is_there, read_regular, sync_folder
from appliance.keys.release import MAXIMUM_BYTES, ReleaseRequest
from appliance.node.documents import write_status
from appliance.watchdog.desk import ask
from appliance.watchdog.evidence.bundle import BUNDLE_BYTES, SEAL_BYTES, Bundle, Seal, digest_of
from appliance.watchdog.evidence.outgoing import BUNDLE, REQUEST, SEAL

NAME: Final = "carry"
FOLDER: Final = "bsfg"
"""Of the stick's file system."""
ASKS: Final = ("take-evidence", "take-evidence.txt")
"""A file or folder of one of these names in it asks for the evidence. What is in it is not looked at. Windows likes to
add an ending, and does not show it."""
PLACES: Final = 9
"""So many folders are tried for one evidence."""
SPARE_BYTES: Final = 128 * 1024
"""Room that must be left on the stick, for names and blocks."""

_log = logging.getLogger("appliance.box.carry")


@dataclass(frozen=True, slots=True)
class Carried:
    """What is to be on the stick.

    :param folder: its name. :param files: names and contents, in the order of writing.
    :param has_request: whether the request for release is among them.
    """

    folder: str
    files: tuple[tuple[str, bytes], ...]
    has_request: bool


def is_asked(folder: Path) -> bool:
    """Whether a stick asks for the evidence. :param folder: the one of it that is ours."""
    return any(_kind(folder / name) in {stat.S_IFREG, stat.S_IFDIR} for name in ASKS)


def _kind(path: Path) -> int:
    """What it is, by its mode; 0: it is not there, or cannot be looked at. A link is not followed."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except OSError:
        return 0


def laid_out(folder: Path) -> Carried:
    """What the watchdog has laid out, if it fits together.

    :raises UnavailableError: ``bad_evidence``: it does not. :raises OSError: it cannot be read.
    """
    bundle, seal = read_regular(folder / BUNDLE, BUNDLE_BYTES), read_regular(folder / SEAL, SEAL_BYTES)
    try:
        request = read_regular(folder / REQUEST, MAXIMUM_BYTES)
    except FileNotFoundError:
        request = b""
    shown, digest = Bundle.parse(bundle), digest_of(bundle)
    Seal.parse(seal)
    if request and ReleaseRequest.parse(request).evidence != digest:
        raise UnavailableError(Reason.BAD_EVIDENCE, "the request for release is one for other evidence")
    name = f"{shown.zone}-{shown.number:04}-{digest.hex()[:16]}"
    files = [(f"{name}.seal.json", seal), (f"{name}.request.json", request), (f"{name}.evidence.json", bundle)]
    return Carried(
        f"evidence-{shown.zone}-{digest.hex()[:12]}", tuple((name, data) for name, data in files if data), bool(request)
    )


def put(folder: Path, carried: Carried) -> Path:
    """Have all of it durably on the stick; the folder it is in.

    :raises RefusedError: ``bad_stick``: other things have all the names.
    :raises OSError: as the operating system says; ``ENOSPC``: it is full, and what there was room for is there.
    """
    for number in range(1, PLACES + 1):
        place = folder / (carried.folder if number == 1 else f"{carried.folder}-{number}")
        try:
            _into(place, carried)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            _log.warning("%s: %s", place.name, error.strerror or "another file has that name")
            continue
        return place
    raise RefusedError(Reason.BAD_STICK, f"{FOLDER}/{carried.folder} is something else; use another stick")


def _into(place: Path, carried: Carried) -> None:
    with contextlib.suppress(FileExistsError):
        place.mkdir()
    if _kind(place) != stat.S_IFDIR:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    missing = [(name, data) for name, data in carried.files if not is_there(place / name, data)]
    room = os.statvfs(place)
    if sum(len(data) for _, data in missing) + SPARE_BYTES > room.f_bavail * room.f_frsize and missing:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for name, data in missing:
        add_file(place / name, data)
    sync_folder(place)
    sync_folder(place.parent)


def carry(layout: BoxLayout) -> Path:
    """Write what there is onto the stick that is mounted; the folder it is in.

    :raises BsfgError: nothing, or not all of it, is on the stick: why, for people.
    """
    folder = layout.carry / FOLDER
    if not is_asked(folder):
        raise RefusedError(Reason.BAD_STICK, f"there is no {FOLDER}/{ASKS[0]} on it any more")
    trio.run(partial(ask, layout.watchdog_socket, op="evidence"))
    try:
        carried = laid_out(layout.outgoing)
    except (OSError, ValueError) as error:
        raise UnavailableError(Reason.BAD_EVIDENCE, f"what the watchdog laid out: {error}") from error
    try:
        place = put(folder, carried)
    except OSError as error:
        raise UnavailableError(Reason.BAD_STICK, WHY.get(error.errno or 0, f"it cannot be written: {error}")) from error
    if not carried.has_request:
        detail = "evidence and seal are on it; the keeper makes no request for release now: put it in again later"
        raise UnavailableError(Reason.KEEPER_UNAVAILABLE, detail)
    return place


WHY: Final = {
    errno.ENOSPC: "it is full: make room for 5 MB, and put it in again",
    errno.EROFS: "it is write-protected or damaged: use another one",
    errno.EIO: "it was taken out too early or is broken: put it in again, or use another one",
    errno.ENODEV: "it was taken out too early: put it in again",
}
"""What people read for an error of the stick."""


def run(layout: BoxLayout) -> None:
    """Do it, and leave word for ``bsfg-stick``. :raises BsfgError: as :func:`carry`."""
    try:
        place = carry(layout)
    except BsfgError as error:
        write_status(layout.status, NAME, {"state": "failed", "reason": error.reason, "detail": error.detail})
        raise
    _log.warning("evidence and request for release are on the USB stick: %s", place.name)
    write_status(layout.status, NAME, {"state": "done", "detail": f"{FOLDER}/{place.name} on the USB stick"})


def said(layout: BoxLayout) -> str:
    """What the last run left word of. It is read as a stranger's."""
    try:
        values = json.loads(read_regular(layout.status_document(NAME), MAXIMUM_BYTES))
        return str(values["detail"])[:300]
    except (OSError, ValueError, KeyError, TypeError):
        return "nothing is known of it"


@click.command(help="Write the evidence of a quarantine onto the USB stick that is mounted for it.")
@root_option()
def command(root: Path) -> None:
    """Run once."""
    run_program(lambda: run(layout_of(root)))


if __name__ == "__main__":
    command.main(prog_name="bsfg-carry")
