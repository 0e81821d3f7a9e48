# SPDX-License-Identifier: Apache-2.0
"""What the fault tests share: a voice, so that numbers and seeds are seen when all is well too."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Say one line to whoever runs the tests."""

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n  {line}\n")

    return say
