# SPDX-License-Identifier: Apache-2.0
"""Our Python packages as they lie on the box: one tree of locked packages and the product itself, compiled.

Every package is checked against its hash in ``requirements/``, built in the tools tree, and installed without the
index. The result is a function of the lists and of the product's own source, and is kept until either changes.
"""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
from pathlib import Path
from typing import Final

from tools.image.places import Places
from tools.image.toolstree import ToolsTree

VENV: Final = Path("usr/lib/bsfg/venv")
"""Where it lies on the box."""
PYTHON: Final = "python3.13"
_STRIPPED: Final = ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "tests", "test", "__pycache__")
"""Nothing runs these."""
COMMAND: Final = Path("usr/bin/bsfg")
"""Runs no script: Python knows what it is by this name, see ``image/launcher``."""
_OF_INSTALLATION: Final = ("direct_url.json", "REQUESTED", "INSTALLER")
_ALSO_RUN: Final = ("cffi",)
"""Packages of the build's list that what is built needs at run time, too."""
_BUILT_WITHOUT: Final = ("tss2-fapi.pc", "tss2-policy.pc")
"""TPM libraries that the product does not use, and that would bring curl and more into the image."""


def site_tree(places: Places, tools: ToolsTree, epoch: int) -> Path:
    """A tree to be copied over the root, with ``/usr/lib/bsfg/venv`` in it."""
    stage = places.build / "work/python"
    locked = _locked_packages(places, tools, stage)
    tree, product = stage / "tree", stage / "product"
    for folder in (tree, product):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(locked, tree, symlinks=True)
    packages = tree / VENV / "lib" / PYTHON / "site-packages"
    _copy_source(places.checkout, product)
    tools.run(
        _pip(
            stage, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", product / "dist", product
        ),
        cwd=stage,
    )
    wheel = next((product / "dist").glob("*.whl"))
    tools.run(_pip(stage, "install", "--no-deps", "--no-index", "--no-compile", "--target", packages, wheel), cwd=stage)
    _finish(tools, tree, packages, epoch)
    return tree


def _locked_packages(places: Places, tools: ToolsTree, stage: Path) -> Path:
    """The tree with the locked packages alone."""
    lists = [places.checkout / "requirements" / name for name in ("build.txt", "runtime.txt")]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in lists) + Path(__file__).read_bytes()).hexdigest()
    locked, mark = stage / "locked", stage / "locked.key"
    if mark.is_file() and mark.read_text("utf-8") == key and locked.is_dir():
        return locked
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    wheels, packages = stage / "wheels", locked / VENV / "lib" / PYTHON / "site-packages"
    hide = [f"{tools.root}/usr/lib/x86_64-linux-gnu/pkgconfig/{name}" for name in _BUILT_WITHOUT]
    for name in hide:
        Path(name).unlink(missing_ok=True)
    tools.run(["python3", "-m", "venv", stage / "builder"], cwd=stage)
    options = ("--require-hashes", "--no-deps", "--no-build-isolation")
    tools.run(_pip(stage, "install", *options, "--requirement", lists[0]), cwd=stage)
    also = stage / "also.txt"
    also.write_text(_pins(lists[0].read_text("utf-8"), _ALSO_RUN), "utf-8")
    for wanted in (lists[1], also):
        wheel = _pip(stage, "wheel", *options, "--wheel-dir", wheels, "--requirement", wanted)
        tools.run(wheel, cwd=stage, env={"CFLAGS": "-g0"})  # debug information would name the folder of this one build
    found = sorted(wheels.glob("*.whl"))
    tools.run(
        _pip(stage, "install", "--no-deps", "--no-index", "--no-compile", "--target", packages, *found), cwd=stage
    )
    mark.write_text(key, "utf-8")
    return locked


def _pins(text: str, names: tuple[str, ...]) -> str:
    """Some pins of a locked list, with their hashes."""
    entries = re.split(r"\n(?=\S)", text)
    return "\n".join(entry for entry in entries if entry.partition("==")[0] in names) + "\n"


def _pip(stage: Path, *arguments: str | Path) -> list[str | Path]:
    quiet = ("--disable-pip-version-check", "--no-input", "--quiet", "--no-cache-dir")
    return [stage / "builder/bin/python", "-m", "pip", *quiet, *arguments]


def _copy_source(checkout: Path, product: Path) -> None:
    """What the wheel is built from, and nothing else of the checkout."""
    product.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(checkout / name, product / name)
    shutil.copytree(checkout / "appliance", product / "appliance", ignore=shutil.ignore_patterns("__pycache__"))


def _finish(tools: ToolsTree, tree: Path, packages: Path, epoch: int) -> None:
    """Take away what nothing runs; compile the rest, so that starting is quick on a root that cannot be written."""
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for pattern in _STRIPPED:
        for path in sorted(packages.rglob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
    for metadata in sorted(packages.glob("*.dist-info")):
        _tidy(metadata)
    venv = tree / VENV
    (venv / "bin").mkdir(parents=True, exist_ok=True)
    python = venv / "bin/python"
    python.unlink(missing_ok=True)
    python.symlink_to(f"/usr/bin/{PYTHON}")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.13\n", "utf-8")
    command = tree / COMMAND
    command.parent.mkdir(parents=True, exist_ok=True)
    command.symlink_to(PYTHON)
    inside = "/" / VENV / "lib" / PYTHON / "site-packages"
    options = ("-q", "--invalidation-mode", "unchecked-hash", "-s", packages, "-p", inside)
    tools.run(
        [PYTHON, "-m", "compileall", *options, packages],
        cwd=tree,
        env={"SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"},
    )


def _tidy(metadata: Path) -> None:
    """Take out what pip says of this one installation; the record names exactly what is there."""
    for name in _OF_INSTALLATION:
        (metadata / name).unlink(missing_ok=True)
    record = metadata / "RECORD"
    rows = [row for row in csv.reader(record.read_text("utf-8").splitlines()) if (metadata.parent / row[0]).is_file()]
    with record.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(sorted(rows))
