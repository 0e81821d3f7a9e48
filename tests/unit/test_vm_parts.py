# SPDX-License-Identifier: Apache-2.0
"""Which tests of virtual machines a change runs."""

from __future__ import annotations

from pathlib import Path

from tests.vm.parts import HARNESS, PER_CHANGE, ROTATING, SMOKE, Part, choose


def test_every_test_file_belongs_to_one_part(root: Path) -> None:
    """None is forgotten, and none is named that is not there."""
    files = {path.stem.removeprefix("test_") for path in (root / "tests/vm").glob("test_*.py")}
    named = [*HARNESS, *SMOKE, *ROTATING]
    assert sorted(named) == sorted(files)
    assert len(set(named)) == len(named)


def test_everything_comes_up_sooner_or_later() -> None:
    """The choice is even, and the same for the same commit."""
    chosen = [name for commit in range(300) for name in choose(Part.ROTATING, f"{commit:040x}")]
    assert choose(Part.ROTATING, "abc") == choose(Part.ROTATING, "abc")
    assert set(chosen) == set(ROTATING)
    even = 300 * PER_CHANGE / len(ROTATING)
    assert all(even / 2 < chosen.count(name) < even * 2 for name in ROTATING)


def test_parts_are_what_they_are_called() -> None:
    """All is all."""
    assert choose(Part.SMOKE, "") == [*HARNESS, *SMOKE]
    assert set(choose(Part.ALL, "")) == {*HARNESS, *SMOKE, *ROTATING}
    assert len(choose(Part.ROTATING, "")) == PER_CHANGE
