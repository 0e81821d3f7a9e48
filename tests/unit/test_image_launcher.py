# SPDX-License-Identifier: Apache-2.0
"""The Python of a box runs modules of the product from the system's device, and nothing else, however it is called.

Simulated: the system is a folder with a copy of the standard library, not erofs behind verity; a folder of another
device stands for a writable place. ``tests/vm/test_writable_places.py`` does the same in the real image.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import interpreter_attacks
from tools.image import launcher
from tools.image.contents import Node
from tools.image.errors import BuildError

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
SIMULATED = "-DBSFG_SIMULATED_ROOT"
LEFT_OUT = (
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "config-*",
    "idlelib",
    "lib2to3",
    "ensurepip",
)
CLI = "import sys\nprint('version', sys.argv, sys.flags.isolated, sys.prefix, __file__)\n"


def compiled(root: Path, program: Path, system: Path, *options: str) -> None:
    """The launcher for this machine's Python, hardened as in the image."""
    settings = sysconfig.get_config_vars()
    where = settings["LIBDIR"]
    own = [f'-DBSFG_PYTHON="{system}/venv/bin/python"', f"-I{sysconfig.get_path('include')}", root / launcher.SOURCE]
    library = [f"-L{where}", f"-Wl,-rpath,{where}", f"-lpython{settings['VERSION']}"]
    command = ["gcc", "-Wall", "-Wextra", "-Werror", *launcher.HARDENED, *options, *own, *library, "-o", program]
    subprocess.run(list(map(str, command)), check=True)


@pytest.fixture(scope="module")
def system(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands for the signed system: launcher, standard library, and a stand-in of the product."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not os.environ.get("CI") and (shutil.which("gcc") is None or not header.is_file()):
        pytest.skip("needs gcc and python3-dev; make setup installs them")
    folder = tmp_path_factory.mktemp("system")
    ignored = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(sysconfig.get_path("stdlib"), folder / "lib" / VERSION, ignore=ignored)
    program = folder / "bin" / VERSION
    program.parent.mkdir()
    compiled(root, program, folder, SIMULATED)
    package = folder / "venv/lib" / VERSION / "site-packages/appliance"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(CLI)
    (folder / "venv/pyvenv.cfg").write_text(f"home = {folder}/bin\ninclude-system-site-packages = false\n")
    (folder / "venv/bin").mkdir()
    (folder / "venv/bin/python").symlink_to(program)
    (folder / "venv/bin/stock-python").symlink_to(Path(sys.executable).resolve())
    (folder / "bin/bsfg").symlink_to(VERSION)
    return folder


@pytest.fixture(scope="module")
def place(system: Path) -> Iterator[Path]:
    """A place of another device."""
    others = [Path(name) for name in ("/dev/shm", "/run", "/tmp") if os.access(name, os.W_OK)]  # noqa: S108 - as it is
    parent = next(other for other in others if other.stat().st_dev != system.stat().st_dev)
    with tempfile.TemporaryDirectory(dir=parent, prefix="bsfg-attack-") as folder:
        yield Path(folder) / "place"


@pytest.fixture(scope="module")
def found(system: Path, place: Path) -> dict[str, Any]:
    """What came of each attack."""
    given = {
        "python": f"{system}/venv/bin/python",
        "stock": f"{system}/venv/bin/stock-python",
        "place": str(place),
        "only": [],
        "limit_s": 60,
        "package": f"{system}/venv/lib/{VERSION}/site-packages/appliance",
        "library": f"{system}/lib/{VERSION}",
    }
    command = [sys.executable, "-I", interpreter_attacks.__file__, json.dumps(given)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command, with what it said."""
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)


def test_no_attack_runs(found: dict[str, Any]) -> None:
    """Each of them runs in the common interpreter and none in ours."""
    assert len(found) >= 38
    assert [name for name, (control, *_) in found.items() if not control] == []
    assert [name for name, (_, ran, *_) in found.items() if ran] == []


def test_what_is_refused_is_said(found: dict[str, Any], place: Path) -> None:
    """In one line, with the file's name, and the exit code for what may not be executed."""
    _, _, code, said = found["script -I"]
    assert (code, said) == (
        126,
        f"python: refused: {place}/x.py: only modules of the product run here (-m appliance...)",
    )
    _, _, code, said = found["package mounted over"]
    assert code != 0
    assert "refused, not a file of the signed system" in said


@pytest.mark.parametrize(
    "words",
    [("bin/bsfg",), ("venv/bin/python", "-m", "appliance.cli"), ("bin/" + VERSION, "-IB", "-m", "appliance.cli")],
)
def test_the_product_runs(words: tuple[str, ...], system: Path) -> None:
    """Isolated and in its environment, by whatever name; its words arrive."""
    done = run(system / words[0], *words[1:], "a", "-c", "b")
    file = f"{system}/venv/lib/{VERSION}/site-packages/appliance/cli.py"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"version {[file, 'a', '-c', 'b']} 1 {system}/venv {file}\n"


def test_the_kernel_is_asked_for_each_file(system: Path) -> None:
    """On the right device, and the kernel runs no program from there: here by a mount, on a box also by its policy."""
    script = 'mount --bind "$1/lib" "$1/lib" && mount -o remount,bind,noexec "$1/lib" && exec "$1/bin/bsfg"'
    done = run("unshare", "--mount", "sh", "-c", script, "sh", system)
    assert (done.returncode, done.stdout) == (1, "")
    assert "refused, not a file of the signed system" in done.stderr


def test_nothing_runs_from_a_system_that_is_not_erofs(system: Path, root: Path, tmp_path: Path) -> None:
    """As the image's own is compiled: this machine's files are on the right device, and on no erofs."""
    program = system / "bin/real"
    compiled(root, program, system)
    done = run(program, "-m", "appliance.cli")
    assert (done.returncode, done.stdout) == (1, "")
    assert "refused, not a file of the signed system" in done.stderr


def node(path: str, data: bytes) -> Node:
    """A program."""
    return Node.of_bytes(path, 0o100755, data)


def test_an_image_has_no_other_interpreter(tmp_path: Path) -> None:
    """Neither the packaged one, wherever it lies, nor a program with the library of Python; but for the tests' own."""
    ours = tmp_path / "python"
    ours.write_bytes(b"launcher")
    program, stock = node(f"/{launcher.PROGRAM}", b"launcher"), node(f"/{launcher.STOCK}", b"stock")
    packaged = stock.md5
    linking = Node("/usr/lib/other", 0o100755, needs=("libc.so.6", "libpython3.13.so.1.0"))
    launcher.check_interpreters("cloud", [program], ours, packaged)
    launcher.check_interpreters("test", [program, stock], ours, packaged)
    for profile, nodes in (
        ("cloud", [program, stock]),
        ("metal", [program, node("/usr/lib/hidden", b"stock")]),
        ("cloud", [program, linking]),
        ("test", [program]),
        ("test", [program, stock, linking]),
        ("cloud", [node(f"/{launcher.PROGRAM}", b"stock")]),
        ("cloud", []),
    ):
        with pytest.raises(BuildError):
            launcher.check_interpreters(profile, nodes, ours, packaged)
