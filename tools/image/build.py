# SPDX-License-Identifier: Apache-2.0
"""The whole build, in the order in which it happens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import appliance
from tools.image import esp, hardening, sandbox, uki
from tools.image.keys import BuildKeys
from tools.image.launcher import launcher_tree
from tools.image.mirror import Mirror
from tools.image.places import Places
from tools.image.progress import Say, step
from tools.image.pysite import site_tree
from tools.image.toolstree import ToolsTree

COMPONENTS: Final = {"cloud": "main", "test": "main", "metal": "main non-free-firmware"}
MKOSI_PROFILES: Final = {"cloud": ("cloud",), "test": ("cloud", "test"), "metal": ("metal",)}
OWN_TREES: Final = {"root": "mkosi.extra", "initrd": "mkosi.images/initrd/mkosi.extra"}
"""What of ``image/`` is laid over the root and the initrd."""
LAUNCHER: Final = "lists/launcher"
"""In a profile's work folder: our Python, which mkosi's last script puts where the packaged one was."""
TRIES: Final = 3
"""How often a new system is tried before the one before it is started again."""


def build(places: Places, profile: str, say: Say, *, incremental: bool = False) -> Path:
    """Build the image of a profile; the folder with what came out.

    :param incremental: keep the installed packages for the next build: quicker, and not for a release.
    :raises BuildError: a step failed.
    """
    mirror, epoch, version = Mirror.find(), source_epoch(places.checkout), appliance.__version__
    work, out = places.work(profile), places.out(profile)
    for folder in (work, places.cache):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with step(say, "tools: a Debian 13 root to build in"):
        tools = ToolsTree.ready(places, mirror)
    with step(say, "keys"):
        keys = BuildKeys.given(places.keys) if places.given_keys else BuildKeys.ready(places.keys)
    with step(say, "our Python packages"):
        python = site_tree(places, tools, epoch)
    with step(say, "generated files"):
        generated = _generate(places, tools, keys, profile, (version, epoch))
        launcher_tree(places, tools, work / LAUNCHER)
        seen = sandbox.sandbox_tree(work / "sandbox", mirror, COMPONENTS[profile])
    with step(say, "mkosi: packages, initrd, root, verity"):
        command = _mkosi(places, keys, profile, (version, epoch), [generated, python], seen)
        if incremental:
            command[-1:-1] = ["--incremental=yes", f"--cache-directory={places.layers(profile)}"]
            places.layers(profile).mkdir(parents=True, exist_ok=True)
        tools.run(command, cwd=places.checkout / "image", log=work / "mkosi.log")
    with step(say, "kernel image with the root hash's signature"):
        options = hardening.kernel_command_line(profile)
        made = uki.assemble(tools, keys, out, work, options, epoch)
        installer = uki.assemble_installer(tools, keys, out, work, made, options, epoch)
        entries = {f"appliance-{version}+{TRIES}.efi": made.path, "installer.efi": installer}
        esp.rewrite(tools, keys, out, work, entries, epoch)
    facts = {"version": version, "profile": profile, "built_unix_s": epoch, "roothash": made.roothash}
    (out / "image.json").write_text(json.dumps(facts, sort_keys=True, indent=1) + "\n", "utf-8")
    if keys.development:
        say("keys were made for development: whoever has build/image/keys can sign what these boxes start")
    return out


def source_epoch(checkout: Path) -> int:
    """The time that stands in everything built: that of the newest commit, or SOURCE_DATE_EPOCH."""
    import os
    import subprocess

    if text := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(text)
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _generate(places: Places, tools: ToolsTree, keys: BuildKeys, profile: str, stamp: tuple[str, int]) -> Path:
    """The tree over the root that follows from code and data, and what mkosi's scripts read."""
    work = places.work(profile)
    tree, lists = work / "root", work / "lists"
    for folder in (tree, lists):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for part in ("hardening", "tools/image/hardening", "appliance/boundary"):  # what mkosi's scripts run
        shutil.copytree(places.checkout / part, lists / "checkout" / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, part in OWN_TREES.items():  # as they are now, for the list of parts (SBOM)
        shutil.rmtree(work / "own" / name, ignore_errors=True)
        shutil.copytree(places.checkout / "image" / part, work / "own" / name, symlinks=True)
    hardening.render(tree, places.checkout / "hardening")
    sandbox.image_facts(tree, keys, stamp[0], profile, stamp[1])
    shutil.copytree(places.checkout / "firmware-config/profiles", tree / "usr/lib/bsfg/firmware/profiles")
    sandbox.ipe_policy(tree, tools, keys, work)
    return tree


def _mkosi(
    places: Places, keys: BuildKeys, profile: str, stamp: tuple[str, int], trees: list[Path], seen: Path
) -> list[str | Path]:
    version, epoch = stamp
    return [
        *("mkosi", "--force"),
        *(part for name in MKOSI_PROFILES[profile] for part in ("--profile", name)),
        f"--image-version={version}",
        f"--source-date-epoch={epoch}",
        f"--output-directory={places.out(profile)}",
        f"--workspace-directory={places.work(profile)}",
        f"--package-cache-dir={places.cache}",
        f"--sandbox-tree={seen}",
        *(f"--extra-tree={tree}" for tree in trees),
        f"--build-sources={places.work(profile) / 'lists'}:lists",
        f"--environment=BSFG_PROFILE={profile}",
        f"--secure-boot-key={keys.secure_boot.db_key}",
        f"--secure-boot-certificate={keys.secure_boot.db_certificate}",
        f"--verity-key={keys.secure_boot.db_key}",
        f"--verity-certificate={keys.secure_boot.db_certificate}",
        "build",
    ]
