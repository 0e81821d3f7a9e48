# SPDX-License-Identifier: Apache-2.0
"""``bsfg fact``: append facts to a zone, and read the facts a zone has."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import EVERYONE, ProducerId, ZoneId, parse_category, parse_producer, parse_zone
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.output import dir_option, output_option, print_json, print_table

if TYPE_CHECKING:
    from appliance.cli.lines import Template
    from appliance.dev.environment import Environment


@click.group()
def fact() -> None:
    """Append facts to a zone, and read the facts a zone has."""


@fact.command()
@dir_option()
@click.option("--zone", required=True, help="The zone whose facts these are.")
@click.option("--category", required=True, help="Such as operational, audit or telemetry.")
@click.option("--to", help="A zone, or 'all' (the default for bare objects).")
@click.option("--producer", default="cli", show_default=True, help="In whose name.")
@click.option("--subject", help="What a bare object is about, such as 'flight:{row}'.")
@click.option("--predicate", help="What it says about it, such as 'landed'.")
@click.option("--produced-at", help="When, such as '{time}': Unix milliseconds, or RFC 3339 with its zone.")
@click.option("--strict", is_flag=True, help="Stop at the first bad line; one line at a time, so nothing passes it.")
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Seconds without any progress, such as while a broker restarts, after which it gives up.",
)
@output_option("table", "json")
@click.argument("file", default="-", type=click.Path(dir_okay=False, allow_dash=True))
def append(
    folder: Path,
    zone: str,
    category: str,
    to: str | None,
    producer: str,
    subject: str | None,
    predicate: str | None,
    produced_at: str | None,
    strict: bool,
    timeout: float,
    output: str,
    file: str,
) -> None:
    """Append facts from FILE (or standard input), one JSON object per line.

    A line is a whole message {"envelope": ..., "fact": ...}, or a bare object: that becomes the fact's object_json,
    with --subject and --predicate. In templates {name} is a field of the object; {row} is its field "row", or the
    number of its line.

    A bare object's id is made of what it says and where it goes, so appending it again stores nothing twice. If
    --produced-at does not say when it was produced, that is the time the environment was made: the same at each
    repetition.

    A bad line is reported with its number, and the rest goes on; the exit code is then 1.
    """
    from appliance.cli.appending import append_lines
    from appliance.cli.lines import Preparation
    from appliance.dev.environment import PRODUCERS

    environment, zone_id = _environment(folder, zone)
    category_id = parse_category(category)
    if category_id not in environment.categories:
        raise RefusedError(Reason.BAD_INPUT, f"category {category!r}: {', '.join(environment.categories)}")
    if to is not None and to != EVERYONE:
        _check_zone(to, "--to")
    preparation = Preparation(
        zone_id,
        category_id,
        _producer(PRODUCERS, producer),
        to,
        _template(subject),
        _template(predicate),
        _template(produced_at),
        environment.created_at_unix_ms,
    )
    login = environment.facts_login(zone_id, producer)
    with _opened(file) as lines:
        report = append_lines(lines, preparation, login, strict=strict, timeout=timeout)
    if output == "json":
        print_json(report.as_document())
    else:
        print_table(["read", "stored", "duplicate", "conflict", "rejected", "sent again", "seconds"], [report.as_row()])
    if report.bad:
        raise click.exceptions.Exit(ExitCode.FAILURE)


@fact.command()
@dir_option()
@click.option("--zone", required=True, help="The zone whose broker is read.")
@click.option("--origin", help="Whose facts: the zone's own (the default), or those received from another zone.")
@click.option("--category", help="One category; all, one after the other, if not given.")
@click.option("--follow", is_flag=True, help="Wait for more, until Ctrl-C.")
@click.option(
    "--timeout",
    default=15.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Seconds to wait for a broker that is away.",
)
@output_option("jsonl", "table")
def read(
    folder: Path, zone: str, origin: str | None, category: str | None, follow: bool, timeout: float, output: str
) -> None:
    """Print stored facts in order, one {"offset", "envelope", "fact"} a line.

    Offsets are those of the origin's log. A table is printed as text, with the object shortened.
    """
    from appliance.cli.printing import print_facts

    environment, zone_id = _environment(folder, zone)
    origin_id = zone_id if origin is None else _check_zone(origin, "--origin")
    categories = list(environment.categories)
    if category is not None:
        if category not in categories:
            raise RefusedError(Reason.BAD_INPUT, f"category {category!r}: {', '.join(categories)}")
        categories = [parse_category(category)]
    login = environment.facts_login(zone_id, "reader")
    print_facts(login, zone_id, origin_id, categories, follow=follow, timeout=timeout, table=output == "table")


def _environment(folder: Path, zone: str) -> tuple[Environment, ZoneId]:
    from appliance.dev.environment import Environment

    return Environment.load(folder), _check_zone(zone, "--zone")


def _check_zone(zone: str, option: str) -> ZoneId:
    from appliance.dev.layout import ZONES

    if zone not in ZONES:
        raise RefusedError(Reason.BAD_INPUT, f"{option} {zone!r}: {', '.join(ZONES)}")
    return parse_zone(zone)


def _producer(known: Iterable[str], name: str) -> ProducerId:
    if name not in known:
        raise RefusedError(Reason.BAD_INPUT, f"--producer {name!r}: {', '.join(known)}")
    return parse_producer(name)


def _template(text: str | None) -> Template | None:
    from appliance.cli.lines import Template

    return None if text is None else Template(text)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    """A file for reading, or standard input, which stays open."""
    if file == "-":
        yield sys.stdin.buffer
        return
    with contextlib.ExitStack() as stack:
        try:
            opened = stack.enter_context(Path(file).open("rb"))
        except OSError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{file}: {error.strerror}") from error
        yield opened
