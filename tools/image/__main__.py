# SPDX-License-Identifier: Apache-2.0
"""``python -m tools.image build --profile cloud``: see ``make image``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tools.image.errors import BuildError
from tools.image.places import PROFILES, Places


def main() -> int:
    """Run one command; an error is said with its hint."""
    parser = argparse.ArgumentParser(prog="python -m tools.image", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the image of a profile")
    build.add_argument("--profile", choices=PROFILES, default="cloud")
    build.add_argument("--incremental", action="store_true", help="keep the installed packages for the next build")
    arguments = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    from tools.image.build import build as run

    try:
        places = Places.of(Path(__file__).resolve().parents[2])
        say(f"done: {run(places, arguments.profile, say, incremental=arguments.incremental)}")
    except BuildError as error:
        print(f"error: {error}\nhint: {error.hint or 'see the log beside it'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
