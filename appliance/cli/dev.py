# SPDX-License-Identifier: Apache-2.0
"""``bsfg dev``: a complete two-zone environment on this machine, for development, demonstrations and tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.output import age, dir_option, output_option, print_json, print_table

if TYPE_CHECKING:
    from appliance.dev.environment import Environment
    from appliance.dev.layout import Layout
    from appliance.dev.supervisor import Progress


@click.group()
def dev() -> None:
    """Run a two-zone environment on this machine."""


@dev.command()
@dir_option()
@click.option("--detach", is_flag=True, help="Return when everything is ready, and leave it running.")
def up(folder: Path, detach: bool) -> None:
    """Bring up zones plant-a and enterprise in a folder.

    The first time, ports, keys and passwords are made; after that the same ones are used, and the facts are still
    there. Without --detach it runs until Ctrl-C. Everything another program needs to join in stands in env.json.
    """
    from appliance.dev.layout import Layout

    layout = Layout.at(folder)
    try:
        if detach:
            from appliance.dev.lifecycle import start_detached

            _print_addresses(start_detached(layout, _show))
        else:
            _run_in_foreground(layout)
    except BsfgError as error:
        _print_log(error)
        raise


@dev.command()
@dir_option()
@click.option("--purge", is_flag=True, help="Also remove the folder, with keys and facts.")
def down(folder: Path, purge: bool) -> None:
    """End an environment; its facts stay, unless --purge."""
    from appliance.dev.layout import Layout
    from appliance.dev.lifecycle import bring_down

    ran = bring_down(Layout.at(folder), remove=purge)
    click.echo(("everything is ended" if ran else "nothing ran") + (f"; {folder} is removed" if purge else ""))


@dev.command()
@dir_option()
@output_option("table", "json")
def status(folder: Path, output: str) -> None:
    """Show the processes of an environment and the simulated link."""
    import time
    from dataclasses import asdict

    from appliance.dev.layout import Layout
    from appliance.dev.lifecycle import supervisor_status

    state = supervisor_status(Layout.at(folder))
    if output == "json":
        print_json(asdict(state))
    else:
        rows = [
            [p.name, p.state, str(p.pid or "-"), age(time.time() - p.since), str(p.restarts), p.last_end]
            for p in state.processes
        ]
        print_table(
            ["process", "state", "pid", "since", "restarts", "last end"], rows, right=frozenset(("pid", "restarts"))
        )
        cut = f"cut ({state.link.cut})" if state.link.cut else "carries"
        click.echo(f"\nsimulated link: {cut}, {state.link.connections} connections")
    if not state.ready:
        raise click.exceptions.Exit(ExitCode.NOT_READY)


@dev.command()
@dir_option()
@click.argument("action", type=click.Choice(("link-cut", "link-heal", "kill")))
@click.argument("process", required=False)
@click.option(
    "--how",
    type=click.Choice(("reset", "blackhole")),
    default="reset",
    show_default=True,
    help="How link-cut fails: connections reset and refused, or silent.",
)
def fault(folder: Path, action: str, process: str | None, how: str) -> None:
    """Cut or heal the simulated link, or kill a process (SIGKILL); the supervisor starts it again.

    PROCESS is agent, hub, plant-nats, enterprise-nats, plant-control or enterprise-control.
    """
    from appliance.dev.control import CutRequest, HealRequest, KillRequest
    from appliance.dev.layout import Layout, ProcessName
    from appliance.dev.lifecycle import query
    from appliance.dev.link import Cut

    layout = Layout.at(folder)
    if (process is not None) != (action == "kill"):
        raise click.UsageError("kill needs a PROCESS, and nothing else takes one")
    match action:
        case "link-cut":
            query(layout, CutRequest(Cut(how)))
            click.echo("the simulated link is cut")
        case "link-heal":
            query(layout, HealRequest())
            click.echo("the simulated link is healed")
        case _:
            if process not in list(ProcessName):
                raise RefusedError(Reason.BAD_INPUT, f"process {process!r}: {', '.join(ProcessName)}")
            click.echo(f"{process} (pid {query(layout, KillRequest(process))['pid']}) is killed")


def _show(progress: Progress) -> None:
    from appliance.dev.supervisor import Step

    match progress.step:
        case Step.READY:
            click.echo(f"{progress.process} is ready", err=True)
        case Step.ENDED:
            click.echo(f"{progress.process} {progress.text}; it is started again", err=True)
        case _:
            pass


def _run_in_foreground(layout: Layout) -> None:
    import logging

    import trio

    from appliance.dev.environment import Environment
    from appliance.dev.lock import holding_lock
    from appliance.dev.provision import open_environment
    from appliance.dev.running import run_environment
    from appliance.dev.supervisor import Step

    def show(progress: Progress) -> None:
        _show(progress)
        if progress.step is Step.ALL_READY:
            _print_addresses(Environment.load(layout.root))
            click.echo("Ctrl-C ends it.")

    open_environment(layout)  # refuses a folder that is something else before anything is put into it
    with holding_lock(layout):
        layout.logs.mkdir(mode=0o700, exist_ok=True)
        logging.basicConfig(
            filename=layout.supervisor_log,
            level=logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        trio.run(run_environment, layout, show)
    click.echo("everything is ended")


def _print_addresses(environment: Environment) -> None:
    from appliance.dev.environment import FACTS_PORT, INTAKE_PORT
    from appliance.dev.layout import HOST, ZONES

    rows = [
        [
            zone,
            f"nats://{HOST}:{environment.ports[FACTS_PORT[zone]]}",
            f"http://{HOST}:{environment.ports[INTAKE_PORT[zone]]}",
        ]
        for zone in ZONES
    ]
    print_table(["zone", "facts by NATS", "facts by HTTP"], rows)
    click.echo(f"users, passwords, tokens, keys, logs: {environment.layout.document}")


def _print_log(error: BsfgError) -> None:
    from appliance.dev.lifecycle import tail
    from appliance.dev.supervisor import ChildFailedError

    if isinstance(error, ChildFailedError):
        click.echo(f"--- the end of {error.log}\n{tail(error.log)}\n---", err=True)
