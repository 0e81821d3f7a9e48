# SPDX-License-Identifier: Apache-2.0
"""From a built image to the files of a release, in ``build/image/release/<profile>``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from appliance.flash.release import SIGNATURE, SUMS
from tools.image import gates, inventory
from tools.image.errors import BuildError
from tools.image.keys import BuildKeys
from tools.image.measurements import published
from tools.image.mirror import Mirror
from tools.image.notice import notice
from tools.image.places import Places
from tools.image.progress import Say, step
from tools.image.release import ReleaseInputs, assemble
from tools.image.toolstree import ToolsTree

MEASUREMENTS: Final = "measurements.json"
NOTICE: Final = "NOTICE"
COMMON_LICENCES: Final = "usr/share/common-licenses"


@dataclass(frozen=True, slots=True)
class Built:
    """What a build says of its image (``image.json``)."""

    version: str
    profile: str
    built_unix_s: int
    roothash: str

    @classmethod
    def read(cls, out: Path) -> Self:
        """:raises BuildError: there is no finished image."""
        try:
            facts = json.loads((out / "image.json").read_text("utf-8"))
            return cls(**{name: facts[name] for name in ("version", "profile", "built_unix_s", "roothash")})
        except (OSError, ValueError, KeyError) as error:
            raise BuildError(f"there is no finished image in {out.name}: {error}", "build it first") from error


def publish(places: Places, profile: str, say: Say) -> Path:
    """Make the release of the image that was built last; its folder.

    :raises BuildError: a file of the image belongs to nobody, or a size is over its limit.
    """
    if profile == "test":
        raise BuildError("the test profile is never released: it obeys its host")
    out, work = places.out(profile), places.work(profile)
    tools = ToolsTree.ready(places, Mirror.find())
    keys = BuildKeys.given(places.keys)
    built, folder, beside = Built.read(out), places.release(profile), work / "beside"
    for one in (folder, beside):
        shutil.rmtree(one, ignore_errors=True)
    beside.mkdir(parents=True)
    with step(say, "every file and whose it is"):
        found = inventory.take(places, tools, profile)
        files, packages = found.write(work)
    extra = _beside(places, keys, built, found, beside, tools)
    inputs = ReleaseInputs(
        folder=out,
        version=built.version,
        profile=profile,
        files=files,
        packages=packages,
        key=keys.private("release") if keys.signs_releases else None,
        built_unix_s=built.built_unix_s,
        root_hash=built.roothash,
        development=keys.development,
        extra=extra,
        threads=os.cpu_count() or 2,
    )
    with step(say, f"release files: compressed, mapped, described{', signed' if keys.signs_releases else ''}"):
        assemble(inputs, folder)
    if not keys.signs_releases:
        say(f"not signed: the release key is on another machine. {SUMS} has SHA-256 {_digest(folder / SUMS)}")
        say(f"next: 'bsfg image sign' there, then 'bsfg image attach {folder} {SIGNATURE} --key release.pub' here")
    for line in gates.check(gates.gates(profile, out, next(folder.glob("*.raw.zst")))):
        say(line)
    return folder


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _beside(
    places: Places, keys: BuildKeys, built: Built, found: inventory.Inventory, folder: Path, tools: ToolsTree
) -> tuple[Path, ...]:
    """What is published with the image: measurements, licences, the public release key."""
    measurements, licences, public = folder / MEASUREMENTS, folder / NOTICE, folder / "release.pub"
    measurements.write_bytes(
        published(places.out(built.profile) / "appliance.efi", built.version, keys.private("pcr-system"))
    )
    text = notice(found, tools.root / COMMON_LICENCES, places.checkout / "LICENSE", built.version, built.profile)
    licences.write_text(text, "utf-8")
    shutil.copyfile(keys.public("release"), public)
    return measurements, licences, public
