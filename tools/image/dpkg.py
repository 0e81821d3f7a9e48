# SPDX-License-Identifier: Apache-2.0
"""What dpkg knew of a root before its database was removed: ``image/mkosi.postinst`` keeps it for the build."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.image.errors import BuildError

_MERGED: Final = re.compile(r"/(bin|sbin|lib|lib32|lib64|libx32)(?=/)")
_SOURCE: Final = re.compile(r"(\S+)(?: \(.*\))?")
_LINKED: Final = re.compile(r"([a-z0-9][a-z0-9+.-]+) \(= ([0-9][0-9A-Za-z.+:~-]*)\)")


@dataclass(frozen=True, slots=True, order=True)
class Linked:
    """A source package that was linked into a program, and so is in the image without being installed."""

    source: str
    version: str


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package. :param licence: as its copyright file says it; empty where that has no fixed form.

    :param linked: what is linked into its programs, by its own word (``Static-Built-Using``).
    """

    name: str
    version: str
    architecture: str
    source: str
    licence: str
    linked: tuple[Linked, ...] = ()


@dataclass(frozen=True, slots=True)
class Dpkg:
    """A database. :param owners: package by file. :param md5: of a file as packaged; of most files.

    :param copyrights: the text of each package's copyright file.
    """

    packages: Mapping[str, Package] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    md5: Mapping[str, str] = field(default_factory=dict)
    copyrights: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Dpkg:
        """Read what was kept in a folder. :raises BuildError: there is nothing."""
        if not (folder / "status").is_file():
            raise BuildError(f"{folder}: nothing was kept of dpkg's database", "build the image anew")
        copyrights = {path.name: _text(path) for path in sorted((folder / "copyright").iterdir())}
        stanzas = list(_stanzas(_text(folder / "status")))
        packages = {
            one["Package"]: _package(one, copyrights) for one in stanzas if one["Status"].endswith(" installed")
        }
        md5 = {path: digest for one in stanzas for path, digest in _conffiles(one.get("Conffiles", ""))}
        owners: dict[str, str] = {}
        for name in sorted(packages):
            for path in _of_package(folder, name, "list"):
                owners.update(dict.fromkeys(map(merged, _text(path).splitlines()), name))
            for path in _of_package(folder, name, "md5sums"):
                for line in _text(path).splitlines():
                    digest, _, file = line.partition("  ")
                    md5[merged(f"/{file}")] = digest
        return cls(packages, owners, md5, copyrights)

    @classmethod
    def read_status(cls, file: Path) -> Dpkg:
        """A database of which only the status file is at hand: packages, and no files."""
        stanzas = [one for one in _stanzas(_text(file)) if one["Status"].endswith(" installed")]
        return cls({one["Package"]: _package(one, {}) for one in stanzas})


def merged(path: str) -> str:
    """A path of a package as it lies on a system whose ``/bin``, ``/lib`` and so on are links into ``/usr``."""
    return _MERGED.sub(r"/usr/\1", path, count=1) if _MERGED.match(path) else path


def licence_of(copyright_text: str) -> str:
    """What a copyright file in the fixed form (DEP 5) says of all its files; empty for other forms."""
    if not re.match(r"Format(?:-Specification)?:", copyright_text.lstrip()):
        return ""
    names: dict[str, None] = {}
    for stanza in re.split(r"\n\s*\n", copyright_text):
        if re.search(r"^Files:", stanza, re.MULTILINE):
            found = re.search(r"^License:[ \t]*(\S.*)$", stanza, re.MULTILINE)
            names[re.sub(r",? (?=(?:and|or) )", " ", found[1].strip()) if found else "unknown"] = None
    if len(names) == 1:
        return next(iter(names))
    return " and ".join(f"({name})" if " or " in name else name for name in names)


def _package(stanza: Mapping[str, str], copyrights: Mapping[str, str]) -> Package:
    name = stanza["Package"]
    source = _SOURCE.fullmatch(stanza.get("Source", name))
    licence = licence_of(copyrights.get(name, ""))
    linked = tuple(sorted(_linked(name, stanza.get("Static-Built-Using", ""))))
    return Package(name, stanza["Version"], stanza["Architecture"], source[1] if source else name, licence, linked)


def _linked(name: str, value: str) -> Iterator[Linked]:
    for entry in filter(None, (part.strip() for part in value.replace("\n", " ").split(","))):
        found = _LINKED.fullmatch(entry)
        if found is None:
            raise BuildError(f"{name}: what it says of what is linked into it cannot be read: {entry[:60]!r}")
        yield Linked(found[1], found[2])


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        last = ""
        for line in block.splitlines():
            if line[:1] in {" ", "\t"}:
                fields[last] += f"\n{line.strip()}"
            else:
                last, _, value = line.partition(":")
                fields[last] = value.strip()
        if "Package" in fields:
            yield fields


def _conffiles(value: str) -> Iterator[tuple[str, str]]:
    for line in value.splitlines():
        words = line.split()
        if len(words) >= 2:
            yield merged(words[0]), words[1]


def _of_package(folder: Path, name: str, kind: str) -> list[Path]:
    """Of packages for several architectures the files are named with the architecture."""
    return [path for path in (folder / f"{name}.{kind}", *folder.glob(f"{name}:*.{kind}")) if path.is_file()]


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace")
