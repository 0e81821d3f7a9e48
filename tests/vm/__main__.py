# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.vm --part smoke|rotating|metal|all --seed COMMIT``: run tests of the image in virtual machines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from tests.vm.parts import HARNESS, METAL, ROTATING, SMOKE, Part, choose

_HERE = Path(__file__).parent


def main() -> int:
    """Run what was asked for; pytest's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm", description="Run the image's tests in virtual machines."
    )
    parser.add_argument("--part", type=Part, choices=list(Part), default=Part.ALL, help="what to run (default: all)")
    parser.add_argument("--seed", default="", help="what 'rotating' chooses by: the hash of the commit")
    names = [*HARNESS, *SMOKE, *ROTATING, *METAL]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--failed", action="store_true", help="of those, only what failed last time")
    arguments = parser.parse_args()
    chosen = arguments.only or choose(arguments.part, arguments.seed)
    seconds = sum(ROTATING.get(name, 0) for name in chosen)
    about = f" (about {seconds} s of rotating tests on an idle machine)" if seconds else ""
    sys.stdout.write(f"virtual machines: {', '.join(chosen)}{about}\n")
    sys.stdout.flush()
    files = [str(_HERE / f"test_{name}.py") for name in chosen]
    again = ["--last-failed", "--last-failed-no-failures=none"] if arguments.failed else []
    # A test of several boots may take longer than any other; tests/guard.py limits each.
    return int(pytest.main(["-v", "-o", "faulthandler_timeout=7200", *again, *files]))


if __name__ == "__main__":
    sys.exit(main())
