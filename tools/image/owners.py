# SPDX-License-Identifier: Apache-2.0
"""Who brought each file into an image: a Debian package, a Python package, this repository, or a step of the build.

A file of a package is that package's only if it is as it was packaged: dpkg's own checksums say so.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from tools.image.contents import Node
from tools.image.dpkg import Dpkg
from tools.image.errors import BuildError
from tools.image.release.inputs import OWN

PRODUCT: Final = "bsfg-appliance"
"""The product's own Python distribution: its files are our own."""
_BYTE_CODE: Final = re.compile(r"(.*/)__pycache__/([^/]+?)\.cpython-\d+(?:\.opt-\d)?\.pyc")
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Made:
    """A file that a step of the build makes. :param path: a pattern; ``*`` may be anything. :param why: for readers."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """A Python distribution as it lies in the tree.

    :param files: absolute paths on the box. :param folder: of its metadata, here.
    """

    name: str
    version: str
    licence: str
    files: frozenset[str]
    folder: Path


def distributions(tree: Path) -> list[Distribution]:
    """All distributions in a tree that is laid over the root, from their ``RECORD``."""
    found = []
    for record in sorted(tree.rglob("*.dist-info/RECORD")):
        site = record.parent.parent
        fields = HeaderParser().parsestr((record.parent / "METADATA").read_text("utf-8"))
        rows = csv.reader(io.StringIO(record.read_text("utf-8")))
        paths = (site / row[0] for row in rows if row)
        files = frozenset(f"/{path.relative_to(tree)}" for path in paths if path.is_relative_to(tree))
        licence = fields["License-Expression"] or _short(fields["License"]) or _classified(fields.get_all("Classifier"))
        found.append(Distribution(fields["Name"], fields["Version"], licence, files, record.parent))
    return found


def python_owners(found: Iterable[Distribution]) -> dict[str, str]:
    """Owner by path. Byte code belongs to whom its source belongs; :func:`owner_of` looks it up so."""
    return {path: OWN if one.name == PRODUCT else f"py:{one.name}" for one in found for path in one.files}


@dataclass(frozen=True, slots=True)
class Owners:
    """All that may own a file of one part of an image.

    :param trees: of this repository or generated from it, laid over the root: their files are our own, as long as
        they are the same. :param python: owner by path. :param dpkg: databases, the first that knows a path counts.
    """

    dpkg: Sequence[Dpkg]
    trees: Sequence[Path] = ()
    python: Mapping[str, str] | None = None
    made: Sequence[Made] = ()

    def assign(self, nodes: Iterable[Node]) -> dict[str, str]:
        """The owner of each regular file, by path. :raises BuildError: some have none, or were changed."""
        found, lost = {}, []
        for node in nodes:
            if node.regular:
                owner = self.owner_of(node)
                if owner is None:
                    lost.append(self._said(node))
                else:
                    found[node.path] = owner
        if lost:
            more = f"\n  and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
            raise BuildError(
                f"{len(lost)} files of the image belong to nobody:\n  " + "\n  ".join(lost[:_SHOWN]) + more,
                "find out what makes each, and say so in tools/image/inventory.py",
            )
        return found

    def owner_of(self, node: Node) -> str | None:
        """The owner of a file; None if there is none."""
        source = _BYTE_CODE.sub(r"\1\2.py", node.path)
        if self.python is not None and (owner := self.python.get(source)):
            return owner
        if any(_same(tree / node.path.lstrip("/"), node) for tree in self.trees):
            return OWN
        for dpkg in self.dpkg:
            name = dpkg.owners.get(node.path)
            if name and dpkg.md5.get(node.path, node.md5) == node.md5:
                return f"deb:{name}"
        if source != node.path and (
            name := next((one.owners[source] for one in self.dpkg if source in one.owners), "")
        ):
            return f"generated:byte code of a file of {name}"
        why = next((one.why for one in self.made if fnmatchcase(node.path, one.path)), None)
        return None if why is None else f"generated:{why}"

    def _said(self, node: Node) -> str:
        owners = [dpkg.owners[node.path] for dpkg in self.dpkg if node.path in dpkg.owners]
        return f"{node.path} (not as in package {owners[0]})" if owners else node.path


def _same(path: Path, node: Node) -> bool:
    """Whether a file of a tree is this very one."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != node.size:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == node.sha256


def _short(licence: str | None) -> str:
    """A licence field that is a name; some packages put the whole text there."""
    return licence.strip() if licence and len(licence) < 80 and "\n" not in licence.strip() else ""


def _classified(classifiers: list[str] | None) -> str:
    names = [line.rpartition("::")[2].strip() for line in classifiers or [] if line.startswith("License ::")]
    return " and ".join(name for name in names if name != "OSI Approved")
