# SPDX-License-Identifier: Apache-2.0
"""What a release is made of, and the two lists about the root that a build writes for it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.image.errors import BuildError

GO: Final = "golang"
"""A Go module, by its path; the standard library is :data:`GO_LIBRARY`."""
GO_LIBRARY: Final = "stdlib"
DEBIAN_SOURCE: Final = "deb-source"
"""A source package of Debian."""
_KINDS: Final = (GO, DEBIAN_SOURCE)
OWN: Final = "own"
"""The owner of our own files; the component ``bsfg-appliance``."""
_OWNER: Final = re.compile(r"own|deb:[a-z0-9][a-z0-9+.-]+|py:[A-Za-z0-9][A-Za-z0-9._-]*|generated:[\x20-\x7e]{3,100}")
_HEX: Final = {"sha256": 64, "sha1": 40}


@dataclass(frozen=True, slots=True)
class ReleaseInputs:
    """All that :func:`tools.image.release.assemble` reads.

    :param folder: with ``appliance.raw``, mkosi's output.
    :param version: of the image, as in its names (``0.1.0``). :param profile: ``cloud``, ``metal``; empty: none.
    :param files: ``files.json``: a list of ``{"path", "owner", "sha256", "sha1", "size"}``, one for each regular file
        of the root. ``owner`` is ``deb:NAME``, ``py:NAME``, ``own``, or ``generated:WHY``. ``sha1`` is there because
        SPDX 2.3 demands it of every file; nothing relies on it.
    :param packages: ``packages.json``: a list of ``{"name", "version", "architecture", "source"}`` and, where it is
        known, ``"licence"``, and ``"linked"``: a list of ``{"kind", "name", "version"}``. ``architecture`` is
        ``amd64``, ``all``, or ``python`` for a Python distribution; ``source`` is the source package, empty for Python.
    :param key: the release key, EC P-256, PEM; encrypted if there is a ``passphrase``. ``None``: it is on another
        machine, and the release is left without a signature.
    :param built_unix_s: SOURCE_DATE_EPOCH. :param root_hash: of the root, 64 hex digits.
    :param development: whether the key was made on this machine for development; the manifest says so.
    :param extra: more files that are copied and signed with the rest (measurements, licences).
    :param threads: for the compression; the result does not depend on it.
    """

    folder: Path
    version: str
    profile: str
    files: Path
    packages: Path
    key: Path | None
    built_unix_s: int
    root_hash: str
    development: bool = True
    passphrase: str | None = None
    extra: tuple[Path, ...] = ()
    threads: int = 2


@dataclass(frozen=True, slots=True)
class RootFile:
    """A regular file of the root. :param path: absolute. :param owner: see :class:`ReleaseInputs`."""

    path: str
    owner: str
    sha256: str
    sha1: str
    size: int


@dataclass(frozen=True, slots=True, order=True)
class RootLinked:
    """Something that is linked into a program of a package. :param kind: :data:`GO` or :data:`DEBIAN_SOURCE`."""

    kind: str
    name: str
    version: str


@dataclass(frozen=True, slots=True, order=True)
class RootPackage:
    """An installed package. :param python: whether it is a Python distribution and not a Debian package.

    :param linked: what is linked into its programs.
    """

    python: bool
    name: str
    version: str
    architecture: str
    source: str
    licence: str
    linked: tuple[RootLinked, ...] = ()

    @property
    def owner(self) -> str:
        """How a file names it as its owner."""
        return f"{'py' if self.python else 'deb'}:{self.name}"


def read_root(files: Path, packages: Path) -> tuple[list[RootFile], list[RootPackage]]:
    """Both lists, sorted. :raises BuildError: one is malformed, a path stands twice, or a file's owner is unknown."""
    found = sorted((_file(item) for item in _items(files)), key=lambda file: file.path)
    installed = sorted(_package(item) for item in _items(packages))
    if not found or len({file.path for file in found}) != len(found):
        raise BuildError(f"{files}: empty, or a path stands twice")
    owners = {package.owner for package in installed}
    if len(owners) != len(installed):
        raise BuildError(f"{packages}: a package stands twice")
    lost = sorted({file.owner for file in found if file.owner.startswith(("deb:", "py:"))} - owners)
    if lost:
        raise BuildError(f"{files}: owners that are not in {packages}: {', '.join(lost[:10])}")
    return found, installed


def _items(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text("utf-8"))
    if not isinstance(document, list) or not all(isinstance(item, dict) for item in document):
        raise BuildError(f"{path}: not a list of objects")
    return document


def _file(item: dict[str, Any]) -> RootFile:
    path, owner, size = item.get("path"), item.get("owner"), item.get("size")
    if not isinstance(path, str) or not path.startswith("/") or type(size) is not int or size < 0:
        raise BuildError(f"a file without path or size: {item!r}")
    digests = {name: item.get(name) for name in _HEX}
    if any(not re.fullmatch(f"[0-9a-f]{{{_HEX[name]}}}", str(value)) for name, value in digests.items()):
        raise BuildError(f"{path}: sha256 or sha1 is missing", "SPDX 2.3 demands both of each file")
    if not isinstance(owner, str) or not _OWNER.fullmatch(owner):
        raise BuildError(f"{path}: nobody owns it", "give it an owner: deb:NAME, py:NAME, own, generated:WHY")
    return RootFile(path, owner, str(digests["sha256"]), str(digests["sha1"]), size)


def _package(item: dict[str, Any]) -> RootPackage:
    name, version, architecture, source, licence = values = [
        item.get(field, "") for field in ("name", "version", "architecture", "source", "licence")
    ]
    if not all(isinstance(value, str) for value in values) or not all(values[:3]):
        raise BuildError(f"a package without name, version or architecture: {item!r}")
    linked = item.get("linked", [])
    if not isinstance(linked, list):
        raise BuildError(f"{name}: what is linked into it is no list")
    found = tuple(sorted(_linked(name, one) for one in linked))
    return RootPackage(architecture == "python", name, version, architecture, source, licence, found)


def _linked(package: str, item: object) -> RootLinked:
    values = [item.get(field) for field in ("kind", "name", "version")] if isinstance(item, dict) else []
    if len(values) != 3 or not all(isinstance(value, str) and value for value in values) or values[0] not in _KINDS:
        raise BuildError(f"{package}: something is linked into it without kind, name or version: {item!r}")
    return RootLinked(*map(str, values))
