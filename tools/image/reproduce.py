# SPDX-License-Identifier: Apache-2.0
"""Builds an image twice from scratch and compares what came out.

Both builds share the tools, the keys and the downloaded packages, and nothing else: layers, wheels, folders and times
are their own. Both are of one copy of the checkout as it is when the first begins. With the same keys every byte of the
image is the same; with other keys all is the same but signatures, public keys and what is measured of them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.image.build import build, source_epoch
from tools.image.contents import Node, extract_root, read_initrd, read_tree
from tools.image.errors import BuildError
from tools.image.inventory import parts_of
from tools.image.mirror import Mirror
from tools.image.places import Places
from tools.image.progress import Say, step
from tools.image.toolstree import ToolsTree

BUILDS: Final = ("first", "second")
ROOT: Final = "root"
PARTITIONS: Final = {
    ROOT: "appliance.root.raw",
    "hash tree": "appliance.verity.raw",
    "root hash's signature": "appliance.sig.raw",
}
_SOURCES: Final = ("appliance", "firmware-config", "hardening", "image", "requirements", "tools")
_FILES: Final = ("pyproject.toml", "README.md", "LICENSE")
_SHOWN: Final = 20
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that both builds made. :param digests: SHA-256 in hex, or another value, of each."""

    what: str
    digests: tuple[str, str]

    @property
    def same(self) -> bool:
        """Whether it is the same in both."""
        return self.digests[0] == self.digests[1]


def reproduce(places: Places, profile: str, say: Say) -> int:
    """Build twice and compare; print a table. 0: everything is the same; 1: it is not."""
    outs = []
    os.environ["SOURCE_DATE_EPOCH"] = str(source_epoch(places.checkout))
    builds = [places.apart(name) for name in BUILDS]
    for mine in builds:
        shutil.rmtree(mine.build.parent, ignore_errors=True)
        copy_sources(places.checkout, mine.checkout)
    for name, mine in zip(BUILDS, builds, strict=True):
        with step(say, f"{name} build"):
            outs.append(build(mine, profile, say))
    rows = compare(outs[0], outs[1])
    for line in table(rows):
        say(line)
    tools = ToolsTree.ready(places, Mirror.find())
    for line in differences(tools, places, (outs[0], outs[1])) if not all(row.same for row in rows) else ():
        say(line)
    return 0 if all(row.same for row in rows) else 1


def copy_sources(checkout: Path, target: Path) -> None:
    """Copy what an image is built from: others may go on working on it."""
    target.mkdir(parents=True)
    for name in _SOURCES:
        shutil.copytree(checkout / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copyfile(checkout / name, target / name)


def compare(first: Path, second: Path) -> list[Row]:
    """Partitions, the sections of the kernel image, and both images as a whole. :raises BuildError: one is missing."""
    return [Row(what, (one, two)) for (what, one), (_, two) in zip(_digests(first), _digests(second), strict=True)]


def _digests(out: Path) -> Iterator[tuple[str, str]]:
    for what, name in PARTITIONS.items():
        yield what, _file(out / name)
    parts = parts_of(out / "appliance.efi")
    for name in sorted(parts):
        yield f"kernel image {name}", hashlib.sha256(parts[name]).hexdigest()
    yield "kernel image as signed", _file(out / "appliance.efi")
    yield "whole image", _file(out / "appliance.raw")


def _file(path: Path) -> str:
    if not path.is_file():
        raise BuildError(f"there is no {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table(rows: Sequence[Row]) -> list[str]:
    """A line for each row."""
    return [f"{'same' if row.same else 'DIFFERS':8} {row.what:32} {' '.join(_short(row))}" for row in rows]


def _short(row: Row) -> list[str]:
    return [row.digests[0][:16]] if row.same else [digest[:16] for digest in row.digests]


def changed(first: Sequence[Node], second: Sequence[Node]) -> list[str]:
    """Paths of what is not the same in two lists, or in one only."""
    ours, theirs = ({node.path: node for node in nodes} for nodes in (first, second))
    return sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))


def differences(tools: ToolsTree, places: Places, outs: tuple[Path, Path]) -> Iterator[str]:
    """What differs within root and initrd, file by file; diffoscope says how."""
    folders = [
        extract_root(tools, out / PARTITIONS[ROOT], places.build / "apart" / f"root-{name}")
        for out, name in zip(outs, BUILDS, strict=True)
    ]
    paths = changed(*(read_tree(folder) for folder in folders))
    yield from (f"root: {path}" for path in paths[:_SHOWN])
    for path in paths[:_SHOWN]:
        pair = [folder / path.lstrip("/") for folder in folders]
        if all(one.is_file() and not one.is_symlink() for one in pair):
            yield from _diffoscope(tools, places.build / "apart", pair)
    initrds = [read_initrd(parts_of(out / "appliance.efi")[".initrd"]) for out in outs]
    yield from (f"initrd: {path}" for path in changed(*initrds)[:_SHOWN])


def _diffoscope(tools: ToolsTree, folder: Path, pair: Sequence[Path]) -> list[str]:
    """Its first lines. It ends with 1 when files differ."""
    command = ["diffoscope", "--max-report-size", "4000", "--text", "-", *map(str, pair)]
    script = '"$@" || [ $? -eq 1 ]'
    return tools.output(["bash", "-c", script, "bash", *command], cwd=folder).splitlines()[:40]
