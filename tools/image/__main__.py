# SPDX-License-Identifier: Apache-2.0
"""Builds the image of the appliance: see docs/image.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from tools.image.errors import BuildError
from tools.image.places import PROFILES, Places
from tools.image.progress import Progress

CHECKOUT: Final = Path(__file__).resolve().parents[2]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tools.image", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the image of a profile")
    build.add_argument("--profile", choices=PROFILES, default="cloud")
    build.add_argument("--incremental", action="store_true", help="keep the installed packages for the next build")
    release = commands.add_parser("release", help="build the image of a profile and make the files of a release")
    release.add_argument("--profile", choices=[name for name in PROFILES if name != "test"], default="cloud")
    release.add_argument("--built", action="store_true", help="take the image that was built last")
    report = commands.add_parser("report", help="measure the images that were built, and write docs/reference/image.md")
    report.add_argument("--no-machine", action="store_true", help="without what needs a virtual machine")
    reproduce = commands.add_parser("reproduce", help="build twice from scratch and compare")
    reproduce.add_argument("--profile", choices=PROFILES, default="cloud")
    for one in (build, release, reproduce):
        one.add_argument("--keys", type=Path, help="a folder with keys that were made offline")
    keys = commands.add_parser("keys", help="make a set of signing keys for releases")
    keys.add_argument("folder", type=Path)
    keys.add_argument("--release-pub", type=Path, help="public half of a release key that stays on another machine")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run one command; an error is said with its hint."""
    arguments = parser().parse_args(argv)
    say = Progress(lambda line: print(line, flush=True))
    try:
        return _run(arguments, say)
    except BuildError as error:
        print(f"error: {error}\nhint: {error.hint or 'see the log beside it'}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace, say: Progress) -> int:
    places = Places.of(CHECKOUT, getattr(arguments, "keys", None))
    if arguments.command == "keys":
        from tools.image.keys import BuildKeys

        BuildKeys.create(arguments.folder, arguments.release_pub)
        say(f"keys are in {arguments.folder}; whoever has them can sign what boxes start")
        return 0
    if arguments.command == "report":
        from tools.image.report import report

        say(f"done: {report(places, say, machine=not arguments.no_machine)}")
        return 0
    if arguments.command == "reproduce":
        from tools.image.reproduce import reproduce

        return reproduce(places, arguments.profile, say)
    from tools.image.build import build
    from tools.image.publish import publish

    folder = places.out(arguments.profile)
    if arguments.command == "build" or not arguments.built:
        folder = build(places, arguments.profile, say, incremental=getattr(arguments, "incremental", False))
    if arguments.command == "release":
        folder = publish(places, arguments.profile, say)
    for line in say.table():
        print(line)
    print(f"done: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
