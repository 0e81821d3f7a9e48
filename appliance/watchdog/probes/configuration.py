# SPDX-License-Identifier: Apache-2.0
"""Probe ``configuration``: no service is defined outside of the image, and what services read is what the site signed.

**Units.** systemd takes definitions from folders that can be written: :data:`EMPTY` have none on a box, and generators
fill :data:`GENERATED` from what the image says, with the names of :data:`NAMES` and programs of systemd alone. What was
there at the first look of this boot is kept in a file of this boot; what comes later, or changes, is foreign.

**Configuration.** What follows from the site document is made anew here, from the document in force in this boot and by
the same code that made it, and compared byte by byte. So the signature is what protects: whoever changes a file and
wants to stay unseen must forge the site's signature, or be root and change this sensor's own memory. A difference
must last for a moment (:data:`SETTLES_S`): a new document is applied file by file, and generators write line by line.

Not compared: what has secrets of this boot in it (the leaf's broker configuration, credentials), and the table of
looked-up names. See ``docs/sensor.md``.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Final

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.watchdog.probes.inotify import Watch
from appliance.watchdog.probes.places import Places, View
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code, ProbeName

SETTLES_S: Final = 0.15
PERIOD_S: Final = 5.0
UNSETTLED_PERIOD_S: Final = 0.05
"""While there is a difference that did not last long enough yet."""
FIRST_SEEN: Final = "units.json"
EMPTY: Final = (
    *("systemd/system", "systemd/system.control", "systemd/system.attached", "systemd/transient"),
    *("systemd/user", "systemd/user.control", "systemd/system-generators", "systemd/system-environment-generators"),
    *("systemd/system.conf.d", "systemd/journald.conf.d", "systemd/networkd.conf.d", "systemd/resolved.conf.d"),
    *("systemd/system-preset", "systemd/nspawn", "udev/rules.d", "sysctl.d", "modprobe.d", "modules-load.d"),
    *("tmpfiles.d", "sysusers.d", "binfmt.d", "environment.d", "credstore", "credstore.encrypted"),
    *("extensions", "confexts", "portables", "verity.d", "dbus-1/system.d", "dbus-1/system-services"),
)
"""Folders below ``/run`` from which systemd and udev take orders, and in which a box has nothing."""
AT_BOOT: Final = frozenset({"tmpfiles.d/static-nodes.conf"})
"""Made by ``kmod static-nodes`` at boot, from the image's list of modules; kept as those of generators are."""
GENERATED: Final = ("systemd/generator", "systemd/generator.early", "systemd/generator.late")
NAMES: Final = (
    *("-.mount", "boot.automount", "boot.mount", "tmp.mount", "var.mount", "*.device", "*.swap", "*.target"),
    *("systemd-cryptsetup@*.service", "systemd-veritysetup@*.service", "systemd-fsck-root.service"),
    *("systemd-fsck@*.service", "systemd-hibernate-*.service", "systemd-growfs*.service", "systemd-tpm2-*.service"),
)
"""What systemd's own generators make units of: the table of file systems, and the command line."""
PROGRAMS: Final = ("/usr/lib/systemd/systemd-", "/usr/bin/systemd-", "/usr/sbin/fsck")
NETWORK: Final = "systemd/network"
_UNIT: Final = "unit "
_LEVELS: Final = 8
_INNER: Final = 64
"""What is beyond is seen at the next look of the period, as what somebody makes faster than it is listed."""
_SHOWN: Final = 8
_LARGE: Final = 1024 * 1024
_NO_FILE: Final = b"\0no file"


@dataclass(frozen=True, slots=True)
class Expected:
    """What must be there.

    :param files: content by path; ``None``: no such file. :param document: the site document it follows from.
    """

    files: Mapping[Path, bytes | None]
    document: str


Render = Callable[[], Expected]
"""Makes what must be there from the site document in force.

:raises DeniedError: the document is not signed by whom it must be. :raises BsfgError, OSError: it cannot be read.
"""


class ConfigurationProbe:
    """See the module. :param kept: a folder that lasts as long as the boot. :param clock: seconds that only grow."""

    name = ProbeName.CONFIGURATION

    def __init__(self, places: Places, kept: Path, render: Render, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._first = kept / FIRST_SEEN
        self._render = render
        self._clock = clock
        self._watch: Watch | None = None
        self._since: dict[str, float] = {}
        self.period_s = PERIOD_S

    def look(self) -> Reading:
        """As the port says."""
        view = View(self.name)
        if self._watch is not None:
            self._watch.drain()
            self._follow(self._watch)
        foreign, wrong, unsettled = list[str](), list[str](), list[str]()
        with view.part("units"):
            foreign, changed = self._units(view)
            unsettled += [f"{_UNIT}{name}" for name in changed]
        with view.part("configuration"):
            try:
                expected = self._render()
            except DeniedError as error:
                view.see(Code.SITE_UNSIGNED, error.detail)
            except BsfgError as error:
                view.cannot("site document", f"{error.reason}: {error.detail}")
            else:
                view.note("site_document", expected.document)
                unsettled += self._differences(expected.files)
        for what in self._lasting(unsettled):
            (foreign if what.startswith(_UNIT) else wrong).append(what.removeprefix(_UNIT))
        for code, found in ((Code.UNIT_FOREIGN, foreign), (Code.CONFIGURATION_CHANGED, wrong)):
            if found:
                view.see(code, ", ".join(sorted(set(found))[:_SHOWN]))
        return view.reading()

    def _lasting(self, found: list[str]) -> list[str]:
        """Of what is wrong now, what was so a moment ago."""
        now = self._clock()
        self._since = {what: self._since.get(what, now) for what in found}
        lasting = [what for what, since in self._since.items() if now - since >= SETTLES_S]
        self.period_s = PERIOD_S if len(lasting) == len(self._since) else UNSETTLED_PERIOD_S
        return lasting

    # -- units ---------------------------------------------------------------------------------------------------------

    def _units(self, view: View) -> tuple[list[str], list[str]]:
        """What has no business there, and what is another than it was at first."""
        run, foreign = self._places.run, list[str]()
        made = {f"{folder}/{name}": digest for folder in GENERATED for name, digest in _files(run / folder)}
        for folder in EMPTY:
            found = {f"{folder}/{name}": digest for name, digest in _files(run / folder)}
            made |= {name: digest for name, digest in found.items() if name in AT_BOOT}
            foreign += [name for name in found if name not in AT_BOOT]
        at_first = self._at_first(made)
        changed = [name for name, digest in made.items() if at_first.get(name) != digest]
        changed += [name for name in made if name not in AT_BOOT and not _is_generators(name, run)]
        view.note("generated_units", len(made))
        return foreign, changed

    def _at_first(self, made: dict[str, str]) -> dict[str, str]:
        try:
            found = json.loads(self._first.read_bytes())
            return {str(name): str(digest) for name, digest in found.items()}
        except FileNotFoundError:
            beside = self._first.with_suffix(".new")
            beside.write_text(json.dumps(made), "utf-8")
            os.replace(beside, self._first)
            return made

    # -- what follows from the site document ---------------------------------------------------------------------------

    def _differences(self, files: Mapping[Path, bytes | None]) -> Iterator[str]:
        for path, wanted in files.items():
            found = _content(path)
            if found != wanted:
                how = "is missing" if found is None else "should not be there" if wanted is None else "differs"
                yield f"{path.name} {how}"
        folder = self._places.run / NETWORK
        expected = {path.name for path in files if path.parent.name == folder.name}
        for name, _ in _files(folder):
            if name not in expected:
                yield f"{NETWORK}/{name} should not be there"

    # -- the port ------------------------------------------------------------------------------------------------------

    def _folders(self) -> Iterator[Path]:
        run = self._places.run
        for folder in (*EMPTY, *GENERATED, NETWORK):
            yield from _with_inner(run / folder)
        yield from (run, run / "systemd", run / "udev", run / "bsfg/config")

    def _follow(self, watch: Watch) -> None:
        """Watch every folder there is, before anything in it is looked at.

        One that was made before the folder above was watched is told by nobody: they are listed until none is new.
        """
        known: set[Path] = set()
        for _ in range(_LEVELS):
            found = set(self._folders())
            if found <= known:
                return
            watch.add(found - known)
            known |= found

    def descriptor(self) -> int | None:
        """Readable when something was changed below those folders."""
        if self._watch is None:
            try:
                self._watch = Watch()
            except OSError:  # it is looked at each period all the same
                return None
            self._follow(self._watch)
        return self._watch.fileno()

    def close(self) -> None:
        """As the port says."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None


def _with_inner(folder: Path) -> list[Path]:
    """A folder and those in it, such as one of drop-ins; so many, and no links."""
    try:
        inner = [Path(each.path) for each in os.scandir(folder) if each.is_dir(follow_symlinks=False)]
    except OSError:
        inner = []  # it is not there; the folder above says when it comes
    return [folder, *inner[:_INNER]]


def _content(path: Path) -> bytes | None:
    """What a file holds; of a pipe, a link or a device, that it is none: somebody laid it there, and it may block."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            return _NO_FILE
        raise
    with os.fdopen(file, "rb") as opened:
        return opened.read(_LARGE) if stat.S_ISREG(os.fstat(file).st_mode) else _NO_FILE


def _files(folder: Path) -> list[tuple[str, str]]:
    """Names below a folder, with digests; a link counts by what it says."""
    found = []
    for at, folders, names in os.walk(folder):
        for name in [*names, *(each for each in folders if (Path(at) / each).is_symlink())]:
            path = Path(at) / name
            try:
                content = os.fsencode(os.readlink(path)) if path.is_symlink() else _content(path)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if content is not None:
                found.append((str(path.relative_to(folder)), sha256(content).hexdigest()))
    return found


def _is_generators(name: str, run: Path) -> bool:
    """Whether one of systemd's generators makes such a unit: by its name, and it starts systemd's programs only."""
    unit = name.split("/")[2].removesuffix(".d").removesuffix(".wants").removesuffix(".requires")
    if not any(fnmatchcase(unit, pattern) for pattern in NAMES):
        return False
    path = run / name
    if path.is_symlink():
        return True
    text = (_content(path) or b"").decode("utf-8", "replace")
    commands = (
        value.strip().lstrip("-@:+!|")
        for key, equals, value in (line.partition("=") for line in text.splitlines())
        if equals and key.strip().startswith("Exec")
    )
    return all(command.startswith(PROGRAMS) for command in commands if command)
