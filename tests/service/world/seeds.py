# SPDX-License-Identifier: Apache-2.0
"""Where the dice of a test come from: another seed with each commit, and the same again on demand.

``BSFG_SEED=<number>`` replays a run; ``BSFG_FAULTS=long`` asks for the long runs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Final

LONG: Final = os.environ.get("BSFG_FAULTS") == "long"
"""Whether there is time for long runs."""


def seed_of(name: str) -> int:
    """The seed of a test: from ``BSFG_SEED``, else from its name and the commit under test."""
    given = os.environ.get("BSFG_SEED")
    if given is not None:
        return int(given)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return int.from_bytes(hashlib.sha256(f"{commit} {name}".encode()).digest()[:4])
