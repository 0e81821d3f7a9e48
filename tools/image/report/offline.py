# SPDX-License-Identifier: Apache-2.0
"""What can be measured without starting an image: sizes, files, programs, modes, sandboxes."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.image import gates, inventory
from tools.image.contents import Node, read_tree
from tools.image.errors import BuildError
from tools.image.gates import Gate
from tools.image.hardening.sandbox import OURS
from tools.image.places import Places
from tools.image.toolstree import ToolsTree

PATH_FOLDERS: Final = ("/usr/bin/", "/usr/sbin/")
EXPOSURE: Final = 1.2
"""The largest that ``systemd-analyze security`` may say of a unit of ours."""
_EXPOSURE: Final = re.compile(r"Overall exposure level for (\S+): ([0-9.]+)")
_LARGEST: Final = 15


@dataclass(frozen=True, slots=True)
class Offline:
    """Of the image of a profile.

    :param nodes: of the root. :param initrd_files: how many. :param gates: sizes with their limits; without that of
        the compressed image if there is no release yet. :param debian: packages with a file in the image.
    """

    profile: str
    version: str
    roothash: str
    nodes: tuple[Node, ...]
    initrd_files: int
    gates: tuple[Gate, ...]
    debian: int
    python: int

    @property
    def files(self) -> list[Node]:
        """Regular files of the root."""
        return [node for node in self.nodes if node.regular]

    def largest(self) -> list[Node]:
        """The largest files of the root, the largest first."""
        return sorted(self.files, key=lambda node: (-node.size, node.path))[:_LARGEST]

    def by_folder(self) -> list[tuple[str, int, int]]:
        """Folder, files and bytes of the largest folders of the root."""
        sums: dict[str, list[int]] = {}
        for node in self.files:
            parts = node.path.split("/")
            depth = 4 if node.path.startswith("/usr/lib/") else 3
            entry = sums.setdefault("/".join(parts[:depth]), [0, 0])
            entry[0] += 1
            entry[1] += node.size
        rows = [(folder, count, size) for folder, (count, size) in sums.items()]
        return sorted(rows, key=lambda row: -row[2])[:_LARGEST]

    def programs(self) -> list[str]:
        """What can be executed by its name."""
        return sorted(
            node.path
            for node in self.nodes
            if node.path.startswith(PATH_FOLDERS) and (stat.S_ISLNK(node.mode) or node.mode & 0o111)
        )

    def special(self) -> dict[str, list[str]]:
        """Files with setuid, with setgid, and what everybody may write; each must be empty."""
        return {
            "setuid": [node.path for node in self.files if node.mode & stat.S_ISUID],
            "setgid": [node.path for node in self.files if node.mode & stat.S_ISGID],
            "world-writable": [node.path for node in self.nodes if writable_by_all(node)],
        }


def writable_by_all(node: Node) -> bool:
    """Whether everybody may write it; links have no mode, and a folder with the sticky bit is meant so."""
    if stat.S_ISLNK(node.mode) or not node.mode & stat.S_IWOTH:
        return False
    return not (stat.S_ISDIR(node.mode) and node.mode & stat.S_ISVTX)


def look(places: Places, tools: ToolsTree, profile: str, version: str, roothash: str) -> tuple[Offline, Path]:
    """Measure an image that was built; with the folder of its unpacked root."""
    found = inventory.take(places, tools, profile)
    packed = next(iter(sorted(places.release(profile).glob("*.raw.zst"))), None)
    limits = gates.gates(profile, places.out(profile), packed)
    initrd = sum(node.path.startswith("/uki/initrd/") for node, _ in found.files)
    return (
        Offline(
            profile=profile,
            version=version,
            roothash=roothash,
            nodes=tuple(read_tree(found.root)),
            initrd_files=initrd,
            gates=tuple(limits),
            debian=len(found.packages()),
            python=len(found.python),
        ),
        found.root,
    )


def exposures(tools: ToolsTree, root: Path) -> dict[str, float]:
    """What ``systemd-analyze security`` says of every service of ours in an unpacked root."""
    units = [unit.replace("@.", "@x.") for unit in OURS if (root / "usr/lib/systemd/system" / unit).is_file()]
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--root={root}", *units]
    text = tools.output(["bash", "-c", '"$@" 2>&1 || true', "bash", *command], cwd=root)
    found = parse_exposures(text)
    if missing := set(units) - set(found):
        raise BuildError(f"systemd-analyze says nothing of {', '.join(sorted(missing))}:\n{text[-2000:]}")
    return found


def parse_exposures(text: str) -> dict[str, float]:
    """Exposure by unit."""
    return {unit: float(value) for unit, value in _EXPOSURE.findall(text)}


def too_exposed(found: Iterable[tuple[str, float]]) -> Sequence[str]:
    """Units that are over the limit."""
    return [unit for unit, value in found if value > EXPOSURE]
