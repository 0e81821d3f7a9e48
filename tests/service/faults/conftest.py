# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: a voice, so that numbers and seeds are seen when all is well too."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.world.seeds import LONG

FAULTS_LIMIT_S = 7200 if LONG else 420
"""A world of two zones takes its time to go through what is done to it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder more time than others."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.time_limit(FAULTS_LIMIT_S))


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Say one line to whoever runs the tests."""

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stderr.write(f"\n  {line}\n")  # a worker beside others has no standard output

    return say
