# SPDX-License-Identifier: Apache-2.0
"""``bsfg audit verify``: what crossed, proven from logs, chain and receipts, without the other side."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from appliance.boundary.names import parse_zone
from appliance.boundary.reasons import ExitCode
from appliance.cli.output import dir_option, output_option, print_json, print_table

if TYPE_CHECKING:
    from appliance.factlog.audit import LogAudit

_HEADERS = (
    "zone",
    "origin",
    "category",
    "epoch",
    "facts",
    "diverted",
    "gaps",
    "expired",
    "confirmed",
    "receipts",
    "verdict",
)
_NUMBERS = frozenset(("facts", "diverted", "gaps", "expired", "confirmed", "receipts"))


@click.group()
def audit() -> None:
    """Prove what crossed."""


@audit.command()
@dir_option()
@click.option("--zone", help="One zone only; by default every zone of the environment.")
@output_option("table", "json")
@click.pass_context
def verify(ctx: click.Context, folder: Path, zone: str | None, output: str) -> None:
    """Check every fact against ledger, chain and signed receipts; needs no link.

    Each fact is hashed and compared with the ledger, each chain link is computed anew, each receipt's signatures are
    checked with the registered keys. Exit code 1 when anything does not fit.
    """
    from appliance.dev.audit import audit as audit_environment
    from appliance.dev.environment import Environment

    environment = Environment.load(folder)
    zones = [parse_zone(zone)] if zone else list(environment.zones)
    results = {name: trio.run(partial(audit_environment, environment, name)) for name in zones}
    if output == "json":
        print_json({name: [{**asdict(log), "intact": log.intact} for log in logs] for name, logs in results.items()})
    else:
        print_table(_HEADERS, [_row(name, log) for name, logs in results.items() for log in logs], right=_NUMBERS)
        for name, logs in results.items():
            for log in logs:
                for finding in log.findings:
                    click.echo(f"{name} {log.origin} {log.category}: {finding}", err=True)
    intact = all(log.intact for logs in results.values() for log in logs)
    ctx.exit(ExitCode.OK if intact else ExitCode.FAILURE)


def _row(zone: str, log: LogAudit) -> tuple[str, ...]:
    verdict = f"{len(log.findings)} findings" if log.findings else "retired" if log.retired else "intact"
    numbers = (log.facts, log.diverted, log.gaps, log.expired, log.confirmed)
    receipts = f"{log.receipts} ({log.countersigned} countersigned)"
    return (zone, log.origin, log.category, log.epoch[:8], *(str(number) for number in numbers), receipts, verdict)
