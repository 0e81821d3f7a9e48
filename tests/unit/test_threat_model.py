# SPDX-License-Identifier: Apache-2.0
"""The page of threats is whole: every known attack has its row, and every test that a row names can be run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

IMAGE: Final = {
    "flipped byte": "B1",
    "modified uki": "B2",
    "unsigned uki": "B3",
    "older signed uki": "B4",
    "secure boot off": "B5",
    "command line by smbios": "B6",
    "esp add-ons": "B7",
    "credentials and extensions on the esp": "B7",
    "units by smbios credentials": "B8",
    "swapped `/var`: plain": "B10",
    "known passphrase": "B11",
    "sealed on the same tpm": "B12",
    "executables and libraries from writable places": "B14",
    "another tpm": "B16",
    "bad uki": "B17",
    "kill -9 under load": "B18",
    "hub absent": "B19",
    "wrong clock": "B20",
    "full `/var`": "B21",
    "512 mb": "B22",
}
"""What the image is attacked with, each by what its row must call it."""
CLASSES: Final = tuple(f"A{number}" for number in range(1, 17))
"""Known classes of attacks on boot and TPM."""
KEYS: Final = {
    "reset under a running system": "T1",
    "listening on the bus": "T2",
    "altering on the bus": "T3",
    "clearing the tpm": "T8",
    "another board": "T9",
    "blocked": "T10",
    "uses the boundary key": "K1",
    "copies session keys": "K2",
    "reads local root": "K3",
    "runs something else": "K4",
    "latches": "K5",
    "old release": "K6",
    "key file is deleted": "K7",
    "other operators": "K8",
    "one operator alone": "K9",
    "counter turned back": "K10",
    "policy session": "K11",
    "builder did not sign": "K12",
    "just before the latch": "K13",
    "stolen voucher": "K14",
    "comes back with a new key": "K15",
    "certifies software": "K16",
    "hub is taken over": "K17",
    "lies about the time": "K18",
    "tokens are held back": "K19",
    "operators are lost": "K20",
}
"""What the page of keys tells of."""
UNTESTED: Final = {"B25", "T9"}
"""Rows that say themselves that they are not tested."""
NOT_ATTACKS: Final = {"test_installer", "test_machinery", "test_second_boot"}
"""Of the virtual machines: the harness, the installer, and a box that nobody attacks."""
TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def rows(text: str) -> dict[str, list[str]]:
    """The attacks by their short names: attack, what the attacker has, what must happen, what is left, tests."""
    table = text.partition("## The attacks")[2].partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if line[:2] == "| "
    ]
    found = {first: rest for first, *rest in cells if re.fullmatch(r"[A-Z]\d+", first)}
    assert len(found) == sum(bool(re.fullmatch(r"[A-Z]\d+", first)) for first, *_ in cells), "a name twice"
    return found


def missing_tests(root: Path, text: str) -> set[str]:
    """Tests that a text names and nobody can run."""
    return {f"{file}::{name}" for file, name in TEST.findall(text) if name not in found_in(root / file)}


def found_in(file: Path) -> set[str]:
    """The tests of a file, those of a class with its name before them."""
    found: set[str] = set()
    if not file.is_file():
        return found
    for node in ast.parse(file.read_text("utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        defined = [each.name for each in inner if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
        found |= {f"{prefix}{name}" for name in defined if name.startswith("test_")}
    return found


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    """The page."""
    return (root / "docs/threat-model.md").read_text("utf-8")


def test_a_test_that_is_not_there_is_found(root: Path) -> None:
    """Of a file that is not there, of one that is, and of a class."""
    here = "tests/unit/test_threat_model.py"
    text = (
        f"`{here}::test_every_attack_has_its_row` `{here}::test_none` `tests/unit/none.py::test_x` `{here}::No::test_x`"
    )
    assert missing_tests(root, text) == {f"{here}::test_none", "tests/unit/none.py::test_x", f"{here}::No::test_x"}


def test_every_named_test_can_be_run(root: Path, page: str) -> None:
    """In the file that the page names."""
    assert len(TEST.findall(page)) > 100
    assert missing_tests(root, page) == set()


def test_every_attack_has_its_row(page: str) -> None:
    """Under its own words; each class is named by one row at least."""
    found = rows(page)
    for words, name in (IMAGE | KEYS).items():
        assert words in found[name][0].lower(), (name, words)
    named = {each for attack, *_ in found.values() for each in re.findall(r"\b(A\d+)\b", attack)}
    assert named == set(CLASSES)


def test_every_row_is_whole(page: str) -> None:
    """It says what must happen, and names a test or says that there is none."""
    for name, cells in rows(page).items():
        assert len(cells) == 5, name
        assert all(cells), name
        assert len(cells[2]) > 10, name
        assert bool(TEST.search(cells[4])) != (name in UNTESTED), name
        if name in UNTESTED:
            assert re.search(r"\bnot\b", cells[4]), name


def test_every_attack_on_the_image_is_told(root: Path, page: str) -> None:
    """Whatever is tried in a virtual machine stands in a row."""
    told = {Path(file).stem for file, _ in TEST.findall(page)}
    tried = {path.stem for path in (root / "tests/vm").glob("test_*.py")} - NOT_ATTACKS
    assert tried - told == set()


def test_the_agent_of_tests_is_in_one_profile(root: Path) -> None:
    """The package that gives the host root in a virtual machine is asked for nowhere else."""
    files = [path for path in (root / "image").rglob("*.conf") if path.is_file()]
    naming = {path for path in files if "qemu-guest-agent" in path.read_text("utf-8")}
    assert naming == {root / "image/mkosi.profiles/test/mkosi.conf"}
