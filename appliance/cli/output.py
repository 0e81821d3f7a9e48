# SPDX-License-Identifier: Apache-2.0
"""How commands print: tables for people, JSON for programs, errors with reason and hint, progress on long work."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from appliance.boundary.errors import BsfgError
from appliance.cli.files import FOLDER

F = TypeVar("F", bound=Callable[..., Any])

OUTPUT_KEY: Final = "appliance.cli.output"
"""Where a command's chosen form of output stands in click's context, for the printing of errors."""


def output_option(*forms: str) -> Callable[[F], F]:
    """The option ``--output``; the first form is the default."""

    def remember(ctx: click.Context, _: click.Parameter, value: str) -> str:
        ctx.meta[OUTPUT_KEY] = value
        return value

    return click.option(
        "--output",
        type=click.Choice(forms),
        default=forms[0],
        show_default=True,
        callback=remember,
        is_eager=True,
        help="How results are printed.",
    )


def dir_option(*, required: bool = True) -> Callable[[F], F]:
    """The option ``--dir``: the folder of a development environment."""
    return click.option(
        "--dir",
        "folder",
        required=required,
        envvar="BSFG_DIR",
        type=FOLDER,
        help="Folder of the development environment (or the variable BSFG_DIR).",
    )


def print_error(error: BsfgError, *, as_json: bool = False) -> None:
    """One error on standard error: reason, meaning, particulars, and what to do."""
    if as_json:
        document = {
            "reason": error.reason,
            "meaning": error.text.meaning,
            "detail": error.detail,
            "hint": error.hint,
            "exit_code": int(error.text.exit),
        }
        click.echo(json.dumps({"error": document}), err=True)
        return
    click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
    click.echo(f"hint: {error.hint}", err=True)


def print_json(document: object) -> None:
    """A result for programs."""
    click.echo(json.dumps(document, indent=2))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[str] = frozenset()) -> None:
    """A result for people; the columns named in ``right`` hold numbers."""
    plain = [[click.unstyle(cell) for cell in row] for row in rows]
    widths = [max([len(head), *(len(row[i]) for row in plain)]) for i, head in enumerate(headers)]
    click.echo(_line(headers, headers, headers, widths, right))
    for cells, texts in zip(rows, plain, strict=True):
        click.echo(_line(headers, cells, texts, widths, right))


def _line(
    headers: Sequence[str], cells: Sequence[str], texts: Sequence[str], widths: Sequence[int], right: frozenset[str]
) -> str:
    parts = []
    for head, cell, text, width in zip(headers, cells, texts, widths, strict=True):
        space = " " * (width - len(text))
        parts.append(space + cell if head in right else cell + space)
    return "   ".join(parts).rstrip()


def age(seconds: float) -> str:
    """A span of time for people."""
    whole = int(max(0.0, seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h"
    return f"{whole // 86_400} d"


class Meter:
    """Progress of long work on standard error: a line that rewrites itself on a terminal, else one now and then."""

    def __init__(self, every_s: float | None = None) -> None:
        self._terminal = sys.stderr.isatty()
        self._every = every_s if every_s is not None else (0.25 if self._terminal else 10.0)
        self.started = time.monotonic()
        self._shown = self.started
        self._width = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def show(self, describe: Callable[[], str]) -> None:
        """Print ``describe()``, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._shown < self._every:
            return
        self._shown = now
        text = describe()
        if self._terminal:
            click.echo("\r" + text.ljust(self._width), err=True, nl=False)
            self._width = len(text)
        else:
            click.echo(text, err=True)

    def clear(self) -> None:
        """Take the rewriting line away, before something else is printed and at the end."""
        if self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)
            self._width = 0
