# SPDX-License-Identifier: Apache-2.0
"""What ``make image`` left: disk images, their parts, and the keys they are signed with, in ``build/image``."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.firmware.keys import SecureBootKeys
from tools.image.keys import BuildKeys
from tools.image.places import Places
from tools.image.toolstree import ToolsTree
from tools.vm.faults import NotBuiltError

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PLACES: Final = Places.of(ROOT)
WORK: Final = ROOT / "build" / "vm"
"""Golden states and logs of virtual machines; ``make clean`` removes it."""
NAME: Final = "appliance"
_VARIABLE: Final = "BSFG_VM_IMAGE"
"""Names a folder with another image, such as a copy of one that was built before."""
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """The image of a profile (``cloud``, ``metal``, ``test``). :param folder: where its files are."""

    profile: str
    folder: Path

    @classmethod
    def find(cls, profile: str, places: Places = PLACES) -> Image:
        """The image that was built last, or that in folder ``BSFG_VM_IMAGE``. :raises NotBuiltError: none is there."""
        named = os.environ.get(_VARIABLE)
        image = cls(profile, Path(named).absolute() if named else places.out(profile))
        if not image.raw.is_file():
            raise NotBuiltError(
                f"there is no image of profile {profile}: run 'make image profile={profile}' (it looks for {image.raw})"
            )
        return image

    @property
    def raw(self) -> Path:
        """The whole disk."""
        return self.folder / f"{NAME}.raw"

    @property
    def uki(self) -> Path:
        """The signed unified kernel image."""
        return self.folder / f"{NAME}.efi"

    @property
    def version(self) -> str:
        """Its version."""
        return str(json.loads((self.folder / "image.json").read_text("utf-8"))["version"])

    def digest(self) -> str:
        """SHA-256 over the disk's data and its length; holes are not read."""
        return sparse_digest(self.raw)


def sparse_digest(path: Path) -> str:
    """SHA-256 over a file's data with their places, and its length; what is a hole is not read."""
    total = hashlib.sha256()
    size = path.stat().st_size
    total.update(size.to_bytes(8, "big"))
    with path.open("rb", buffering=0) as file:
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            position = start - start % _CHUNK  # holes have any length; pieces have not
            os.lseek(file.fileno(), position, os.SEEK_SET)
            data = file.read(_CHUNK)
            if data.count(0) != len(data):
                total.update(position.to_bytes(8, "big"))
                total.update(data)
            position += _CHUNK
    return total.hexdigest()


def build_keys() -> BuildKeys:
    """The keys that images of this checkout are signed with. :raises NotBuiltError: there are none."""
    if not (PLACES.keys / "secure-boot").is_dir():
        raise NotBuiltError(f"there are no signing keys: run 'make image' (it looks for {PLACES.keys})")
    return BuildKeys(PLACES.keys, SecureBootKeys.load(PLACES.keys / "secure-boot"), made=False)


def tools_tree() -> ToolsTree:
    """The build's Debian 13 root, whose programs see this checkout. :raises NotBuiltError: it is not there."""
    if not (PLACES.tools / "usr/bin/ukify").exists():
        raise NotBuiltError(f"there is no tools tree: run 'make image' (it looks for {PLACES.tools})")
    return ToolsTree(PLACES.tools, (ROOT,))
