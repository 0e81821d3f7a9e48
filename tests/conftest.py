# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the files of the repository, how tools are found, and how thoroughly Hypothesis looks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.guard", "tests.side_by_side"]

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"

# A busy machine is no finding, so nothing is too slow; CI looks at the same examples each time.
settings.register_profile(
    "repository",
    deadline=None,
    derandomize=IN_CI,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repository")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything under tests/service, so that ``-m 'not service'`` leaves out what starts servers."""
    for item in items:
        if item.path.is_relative_to(ROOT / "tests/service"):
            item.add_marker(pytest.mark.service)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def repository_files() -> list[Path]:
    """Every file of the repository: committed, or new and not ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.fixture(scope="session")
def find_tool() -> Callable[[str], str]:
    """Find a command beside this Python or on the PATH; a missing one is a skip on a laptop, a failure in CI."""

    def find(name: str) -> str:
        found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        if found is None and IN_CI:
            pytest.fail(f"{name} is missing: 'make setup' should have installed it")
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find
