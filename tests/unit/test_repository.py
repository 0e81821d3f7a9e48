# SPDX-License-Identifier: Apache-2.0
"""The house rules that no linter knows: layers, sizes, licence lines, locks, and nothing of one machine.

Each rule is a function from text to findings, and is shown a small offender before the repository.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

# Which rooms a room may import: those of lower rank, and itself. Rooms of one rank do not know each other.
LAYERS = (
    {"boundary"},
    {"factlog"},
    {"peer", "brokers", "keys"},
    {"node"},
    {"agent", "hub", "site", "watchdog"},
    {"box", "firmware", "flash"},
    {"console"},
    {"dev"},
    {"cli"},
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}

# What would let the pure rules of the boundary touch the world, or answer differently the second time.
IMPURE = re.compile(
    r"""(asyncio|click|h2|http|hypercorn|io|nats|os|pathlib|secrets|select|shutil|signal|socket|sqlite3|ssl|subprocess
    |tempfile|threading|time|random\.(?!Random$)\w+
    |trio\.(?:Path|lowlevel|open_file|open_tcp\w+|run_process|socket|to_thread))(?:\.|$)""",
    re.VERBOSE,
)

MODULE_LINES = 600
FUNCTION_LINES = 60

LICENCE = "SPDX-License-Identifier: Apache-2.0"
LICENSED = {".proto", ".py", ".pyi", ".sh", ".toml", ".txt", ".yaml", ".yml"}
LICENSED_NAMES = {"Makefile", "run", ".gitignore", ".gitattributes"}
# Texts that a box shows on its screen as they stand, so no line for machines can be in them; LICENSE is theirs too.
SHOWN_AS_THEY_STAND = {"image/mkosi.images/initrd/mkosi.extra/etc/bsfg-refused.txt"}

# Homes and work directories of one machine, and hosts of package registries: both belong to the machine.
OF_ONE_MACHINE = re.compile(
    r"(?<![\w.~:/-])/(?:work|farm|opt|home|root|Users|mnt|srv|tmp/lab)/[\w.]"
    r"|\b(?:pypi|pythonhosted|deb\.debian|registry\.npmjs)\.(?:org|net)\b"
)
SECRET = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{16}")
PIN = re.compile(r"^[a-z0-9-]+==\S+(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module that a module of ``package`` imports anywhere in it, by full name; names taken from it included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def upward_imports(source: str, module: str) -> list[str]:
    """What a module (``appliance.room.name``) imports from a room that is not below its own."""
    package, room = module.rpartition(".")[0], module.split(".")[1]
    names = [name for name in imported(ast.parse(source), package) if name.startswith("appliance.")]
    rooms = {name.split(".")[1] for name in names} - {room}
    return sorted(other for other in rooms if other in RANK and RANK[other] >= RANK[room])


def impure_uses(source: str) -> list[str]:
    """What a module of the boundary uses that its rules must not depend on."""
    tree = ast.parse(source)
    names = set(imported(tree, "appliance.boundary"))
    names |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return sorted({found[1] for name in names if (found := IMPURE.match(name))})


def long_parts(source: str) -> list[str]:
    """The module if it is over its limit, and the functions that are over theirs."""
    found = [f"module: {lines} lines"] if (lines := source.count("\n")) > MODULE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            lines = node.end_lineno - node.lineno + 1
            found += [f"{node.name}: {lines} lines"] if lines > FUNCTION_LINES else []
    return found


def unlicensed(text: str) -> bool:
    """Whether the licence is missing from the first three lines."""
    return not any(LICENCE in line for line in text.splitlines()[:3])


def lock_faults(text: str) -> list[str]:
    """Lines of a lock that are neither a comment nor a pin with its hashes; so no address can stand in one either."""
    return [line for line in PIN.sub("", text).splitlines() if line and not line.startswith("#")]


def modules(root: Path) -> list[tuple[str, str]]:
    """Name and source of every hand-written module of the package."""
    paths = [path for path in (root / "appliance").rglob("*.py") if not path.name.endswith("_pb2.py")]
    return [(".".join(path.relative_to(root).with_suffix("").parts), path.read_text("utf-8")) for path in sorted(paths)]


def texts(files: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """The files that are text."""
    for path in files:
        content = path.read_bytes()
        if b"\0" not in content:
            yield path, content.decode("utf-8")


@pytest.mark.parametrize(
    ("source", "module", "found"),
    [
        ("import appliance.agent.pull", "appliance.factlog.intake", ["agent"]),
        ("from appliance import cli", "appliance.boundary.names", ["cli"]),
        ("def late():\n    from appliance.hub.server import serve", "appliance.agent.main", ["hub"]),
        ("from ..hub import server", "appliance.agent.main", ["hub"]),
        ("from . import modes\nfrom appliance.boundary import names\nimport trio", "appliance.agent.main", []),
    ],
)
def test_upward_imports_are_found(source: str, module: str, found: list[str]) -> None:
    """Whole modules, names, late and relative imports."""
    assert upward_imports(source, module) == found


def test_imports_point_downwards(root: Path) -> None:
    """From the boundary, which knows nobody, up to the command line."""
    rooms = [(module, source) for module, source in modules(root) if module.count(".") > 1]
    assert {module.split(".")[1] for module, _ in rooms} <= set(RANK), "a new room needs its rank in LAYERS"
    assert {module: found for module, source in rooms if (found := upward_imports(source, module))} == {}


def test_the_boundary_is_pure(root: Path) -> None:
    """Its rules are tested without sockets, clocks or files, because it can reach none."""
    assert impure_uses("import os.path\nfrom time import monotonic\nimport json") == ["os", "time"]
    assert impure_uses("import random\na = random.Random(1)\nb = random.choice('ab')") == ["random.choice"]
    assert impure_uses("import trio\nlock = trio.Lock()\nwork = trio.to_thread.run_sync") == ["trio.to_thread"]
    boundary = [(module, source) for module, source in modules(root) if module.startswith("appliance.boundary.")]
    assert boundary
    assert {module: found for module, source in boundary if (found := impure_uses(source))} == {}


def test_parts_fit_their_limits(root: Path) -> None:
    """A function fits a screen, a module an hour."""
    assert long_parts("def f():\n" + "    x = 1\n" * FUNCTION_LINES) == [f"f: {FUNCTION_LINES + 1} lines"]
    assert long_parts("x = 1\n" * (MODULE_LINES + 1)) == [f"module: {MODULE_LINES + 1} lines"]
    assert {module: found for module, source in modules(root) if (found := long_parts(source))} == {}


def test_every_source_file_names_its_licence(root: Path, repository_files: list[Path]) -> None:
    """In its first lines, in the form that machines read."""
    assert unlicensed("#!/bin/sh\n# a script\n\n# " + LICENCE)
    ours = [path for path in repository_files if path.suffix in LICENSED or path.name in LICENSED_NAMES]
    assert ours
    without = {str(path.relative_to(root)) for path, text in texts(ours) if text and unlicensed(text)}
    assert without == SHOWN_AS_THEY_STAND


def test_nothing_of_one_machine_is_in_the_repository(repository_files: list[Path]) -> None:
    """No path of somebody's machine, no registry's host, no private key."""
    assert OF_ONE_MACHINE.search("cd /" + "home/me")
    assert OF_ONE_MACHINE.search("https://" + "pypi" + ".org/simple")
    assert not OF_ONE_MACHINE.search("D/root/x, a/opt/b and /var/lib/bsfg")
    assert SECRET.search("-----BEGIN EC PRIVATE KEY" + "-----\n" + "A" * 64)
    found = [(path, hit[0]) for path, text in texts(repository_files) for hit in OF_ONE_MACHINE.finditer(text)]
    found += [(path, hit[0]) for path, text in texts(repository_files) for hit in SECRET.finditer(text)]
    assert found == []


def test_every_pin_is_hashed(root: Path) -> None:
    """And nothing but pins stands in a lock: no address, no index, no option."""
    good = "click==8.5.1 \\\n    --hash=sha256:" + "0" * 64
    assert lock_faults(f"# comment\n{good}\n") == []
    assert lock_faults("click==8.5.1\n") == ["click==8.5.1"]
    assert lock_faults(f"--index-url https://example.org/\nx @ https://example.org/x.whl\n{good}\n") != []
    locks = sorted((root / "requirements").glob("*.txt"))
    assert [lock.stem for lock in locks] == ["build", "dev", "runtime", "station"]
    assert {lock.name: faults for lock in locks if (faults := lock_faults(lock.read_text("utf-8")))} == {}


def test_every_dependency_is_locked_once(root: Path) -> None:
    """What pyproject.toml asks for is in the locks, each package in one of them."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    asked = [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *project["project"]["optional-dependencies"]["station"],
        *project["build-system"]["requires"],
    ]
    text = "".join(lock.read_text("utf-8") for lock in (root / "requirements").glob("*.txt"))
    locked = re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)
    assert sorted(locked) == sorted(set(locked))
    assert {re.split(r"[^a-z0-9-]", name, maxsplit=1)[0] for name in asked} <= set(locked)


def test_the_product_brings_nothing_that_it_does_not_use(root: Path) -> None:
    """What it depends on goes into each image; what only tests import belongs to the group ``dev``."""
    modules_of = {"nats-py": "nats", "protobuf": "google.protobuf", "pyyaml": "yaml", "tpm2-pytss": "tpm2_pytss"}
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[^a-z0-9-]", each, maxsplit=1)[0] for each in project["dependencies"]]
    wanted = {modules_of.get(name, name.replace("-", "_")) for name in names}
    trees = [ast.parse(path.read_text("utf-8")) for path in (root / "appliance").rglob("*.py")]
    used = {name for tree in trees for name in imported(tree, "appliance")}
    assert [name for name in sorted(wanted) if not any(f"{each}.".startswith(f"{name}.") for each in used)] == []
    assert "connectrpc" not in {name.split(".")[0] for name in used}


def test_documented_make_targets_exist(root: Path) -> None:
    """Each ``make target`` that a page names can be typed."""
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    named = set(re.findall(r"(?:`|^ *|\$ )make ([a-z]+)", text, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets
