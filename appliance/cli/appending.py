# SPDX-License-Identifier: Apache-2.0
"""The work of ``bsfg fact append``: lines in, answers counted, bad lines reported."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import IO, Any, Final

import click

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.lines import Preparation, Prepared
from appliance.cli.output import Meter
from appliance.cli.publishing import WINDOW, Answer, Publisher, Verdict
from appliance.cli.session import Patience
from appliance.cli.sources import MAX_LINE, Line, read_lines
from appliance.factlog.natslogin import NatsOptions

MAX_LISTED: Final = 1000
"""Bad lines that stand in the report; all of them are printed."""
_TEND: Final = 0.5


@dataclass(slots=True)
class AppendReport:
    """What became of the input."""

    read: int = 0
    counts: Counter[Verdict] = field(default_factory=Counter)
    retried: int = 0
    seconds: float = 0.0
    bad_lines: list[Answer] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Lines that were not stored and never will be as they are."""
        return self.counts[Verdict.REJECTED] + self.counts[Verdict.CONFLICT]

    def as_document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "read": self.read,
            **{verdict.value: self.counts[verdict] for verdict in Verdict},
            "sent_again": self.retried,
            "seconds": round(self.seconds, 3),
            "bad_lines": [{"line": a.number, "reason": a.reason, "detail": a.detail} for a in self.bad_lines],
        }

    def as_row(self) -> list[str]:
        """For people."""
        counts = [str(self.counts[verdict]) for verdict in Verdict]
        return [str(self.read), *counts, str(self.retried), f"{self.seconds:.1f}"]


class _Append:
    """One run of the command."""

    def __init__(self, preparation: Preparation, *, strict: bool) -> None:
        self.report = AppendReport()
        self.meter = Meter()
        self._preparation = preparation
        self._strict = strict

    @property
    def stopped(self) -> bool:
        """Whether a bad line has ended it."""
        return self._strict and self.report.bad > 0

    def take(self, answer: Answer) -> None:
        """Count one final answer, and print it if the line was bad."""
        self.report.counts[answer.verdict] += 1
        if answer.verdict in (Verdict.REJECTED, Verdict.CONFLICT):
            if len(self.report.bad_lines) < MAX_LISTED:
                self.report.bad_lines.append(answer)
            self.meter.clear()
            known = CATALOGUE.get(Reason(answer.reason)) if answer.reason in list(Reason) else None
            meaning = f": {known.meaning}" if known else ""
            click.echo(f"line {answer.number}: {answer.reason}{meaning} ({answer.detail})", err=True)
        self.meter.show(self._progress)

    def prepare(self, lines: Sequence[Line]) -> list[Prepared]:
        """The lines that can be sent; those that cannot are answered here."""
        ready = []
        for line in lines:
            self.report.read += 1
            try:
                if line.text is None:
                    raise RefusedError(Reason.TOO_LARGE, f"more than {MAX_LINE} bytes")
                ready.append(self._preparation.prepare(line.number, line.text))
            except RefusedError as error:
                self.take(Answer(line.number, Verdict.REJECTED, reason=error.reason, detail=error.detail))
                if self.stopped:
                    break
        return ready

    async def run(self, lines: AsyncIterator[list[Line]], publisher: Publisher) -> None:
        """Everything, until the input ends or a bad line stops it."""
        coming: asyncio.Task[list[Line]] | None = None
        try:
            while not self.stopped:
                coming = coming or asyncio.ensure_future(_next(lines))
                if not (await asyncio.wait({coming}, timeout=_TEND))[0]:
                    await publisher.tend()
                    continue
                batch, coming = coming.result(), None
                if not batch:
                    break
                await self._send(batch, publisher)
            await publisher.drain()
        finally:
            if coming is not None:
                coming.cancel()

    async def _send(self, lines: Sequence[Line], publisher: Publisher) -> None:
        if not self._strict:
            await publisher.send(self.prepare(lines))
            return
        for line in lines:
            if self.stopped:
                return
            await publisher.send(self.prepare([line]))
            await publisher.drain()

    def _progress(self) -> str:
        done = sum(self.report.counts.values())
        rate = done / max(self.meter.elapsed, 1e-3)
        counts = ", ".join(f"{self.report.counts[verdict]} {verdict}" for verdict in Verdict)
        return f"{done} lines, {rate:.0f}/s: {counts}"


async def _next(lines: AsyncIterator[list[Line]]) -> list[Line]:
    return await anext(lines, [])


def append_lines(
    file: IO[bytes], preparation: Preparation, login: NatsOptions, *, strict: bool, timeout: float
) -> AppendReport:
    """Append all lines of a file; blocking.

    :raises UnavailableError: no progress for ``timeout`` seconds; what was counted so far is printed.
    :raises DeniedError: the broker refuses this user or this subject.
    """
    work = _Append(preparation, strict=strict)

    async def run() -> None:
        async with (
            aclosing(read_lines(file)) as lines,
            Publisher(login, work.take, Patience(timeout), window=1 if strict else WINDOW) as publisher,
        ):
            try:
                await work.run(lines, publisher)
            finally:
                work.report.retried = publisher.retried

    started = time.monotonic()
    try:
        asyncio.run(run())
    except BaseException:
        work.meter.clear()
        done = sum(work.report.counts.values())
        click.echo(f"stopped: {done} of {work.report.read} lines read were answered; append the same again", err=True)
        raise
    work.meter.clear()
    work.report.seconds = time.monotonic() - started
    return work.report
