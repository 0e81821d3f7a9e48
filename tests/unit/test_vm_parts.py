# SPDX-License-Identifier: Apache-2.0
"""Which tests of virtual machines a change runs."""

from __future__ import annotations

from pathlib import Path

from tests.vm.parts import BUDGET_S, HARNESS, METAL, ROTATING, SMOKE, Part, choose

COMMITS = [f"{commit:040x}" for commit in range(300)]


def test_every_test_file_belongs_to_one_part(root: Path) -> None:
    """None is forgotten, and none is named that is not there."""
    files = {path.stem.removeprefix("test_") for path in (root / "tests/vm").glob("test_*.py")}
    named = [*HARNESS, *SMOKE, *ROTATING, *METAL]
    assert sorted(named) == sorted(files)
    assert len(set(named)) == len(named)


def test_everything_comes_up_sooner_or_later() -> None:
    """Each is first in line as often as any other, however long it takes; and the same commit chooses the same."""
    assert choose(Part.ROTATING, "abc") == choose(Part.ROTATING, "abc")
    chosen = [name for commit in COMMITS for name in choose(Part.ROTATING, commit)]
    least = len(COMMITS) / len(ROTATING) / 2
    assert [name for name in ROTATING if chosen.count(name) < least] == []


def test_no_change_takes_longer_than_it_may() -> None:
    """And none leaves room for one more."""
    for commit in COMMITS:
        names = choose(Part.ROTATING, commit)
        left = BUDGET_S - sum(ROTATING[name] for name in names)
        others = [seconds for name, seconds in ROTATING.items() if name not in names]
        assert 0 <= left < min(others, default=BUDGET_S)


def test_parts_are_what_they_are_called() -> None:
    """All is all."""
    assert choose(Part.SMOKE, "") == [*HARNESS, *SMOKE]
    assert set(choose(Part.ALL, "")) == {*HARNESS, *SMOKE, *ROTATING}
