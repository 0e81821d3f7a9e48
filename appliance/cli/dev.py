# SPDX-License-Identifier: Apache-2.0
"""``bsfg dev``: a complete two-zone environment on this machine, for development, demonstrations and tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli.dev_hub import hub
from appliance.cli.output import age, dir_option, output_option, print_json, print_table

if TYPE_CHECKING:
    from appliance.dev.environment import Environment
    from appliance.dev.layout import KeysChoice, Layout
    from appliance.dev.supervisor import Progress


@click.group()
def dev() -> None:
    """Run a two-zone environment on this machine."""


dev.add_command(hub)


@dev.command()
@dir_option()
@click.option("--detach", is_flag=True, help="Return when everything is ready, and leave it running.")
@click.option(
    "--keys",
    type=click.Choice(("swtpm", "software")),
    help="What holds the boundary keys of a new environment: a software TPM for each zone (default), or files.",
)
def up(folder: Path, detach: bool, keys: str | None) -> None:
    """Bring up zones plant-a and enterprise in a folder.

    The first time, ports, keys and passwords are made, and the zones are enrolled; after that the same ones are used,
    and the facts are still there. Without --detach it runs until Ctrl-C. Everything another program needs to join in
    stands in env.json. The keys are in software TPMs, or in files with --keys software: neither protects them.
    """
    from appliance.dev.layout import KeysChoice, Layout

    layout, choice = Layout.at(folder), KeysChoice(keys) if keys else None
    try:
        if detach:
            from appliance.dev.lifecycle import start_detached

            _print_addresses(start_detached(layout, _show, choice))
        else:
            _run_in_foreground(layout, choice)
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

    from appliance.dev.environment import Environment
    from appliance.dev.layout import Layout
    from appliance.dev.lifecycle import supervisor_status

    state = supervisor_status(Layout.at(folder))
    keys = Environment.load(folder).keys
    if output == "json":
        print_json({**asdict(state), "keys": keys})
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
        click.echo(f"keys: {keys.about}")
    if not state.ready:
        raise click.exceptions.Exit(ExitCode.NOT_READY)


@dev.command()
@dir_option()
@click.argument("action", type=click.Choice(("link-cut", "link-heal", "kill", "latch")))
@click.argument("target", required=False)
@click.option(
    "--how",
    type=click.Choice(("reset", "blackhole")),
    default="reset",
    show_default=True,
    help="How link-cut fails: connections reset and refused, or silent.",
)
def fault(folder: Path, action: str, target: str | None, how: str) -> None:
    """Cut or heal the simulated link, kill a process (SIGKILL), or lock a zone's boundary key.

    kill takes a process: agent, hub, plant-nats, enterprise-nats, plant-control, enterprise-control and, with software
    TPMs, plant-keeper, enterprise-keeper, plant-tpm or enterprise-tpm; the supervisor starts it again. latch takes a
    zone: its TPM refuses the boundary key until 'bsfg dev release'.
    """
    from appliance.dev.control import CutRequest, HealRequest, KillRequest
    from appliance.dev.layout import Layout
    from appliance.dev.lifecycle import query
    from appliance.dev.link import Cut

    layout = Layout.at(folder)
    if (target is not None) != (action in ("kill", "latch")):
        raise click.UsageError("kill needs a process and latch a zone, and nothing else takes one")
    match action:
        case "link-cut":
            query(layout, CutRequest(Cut(how)))
            click.echo("the simulated link is cut")
        case "link-heal":
            query(layout, HealRequest())
            click.echo("the simulated link is healed")
        case "latch":
            _latch(folder, str(target))
        case _:
            pid = query(layout, KillRequest(_process(folder, str(target))))["pid"]
            click.echo(f"{target} (pid {pid}) is killed")


@dev.command()
@dir_option()
@click.argument("zone")
def release(folder: Path, zone: str) -> None:
    """Release ZONE after 'bsfg dev fault latch': both operators of the environment sign, and its TPM checks that.

    Then all processes of the zone are ended at once and started again, its TPM too, as if the box were booted anew. On
    a box, two people do this with 'bsfg release', each on a machine of their own.
    """
    import trio

    from appliance.dev.environment import Environment
    from appliance.dev.latching import reboot
    from appliance.dev.latching import release as release_zone

    environment = Environment.load(folder)
    status = trio.run(release_zone, environment, _zone(zone))
    click.echo(f"{zone} is released: {status.state}, counter {status.counter}")
    reboot(environment, ZoneId(zone))
    click.echo(f"all processes of {zone} are killed, as in a power cut: the hub wants to see a boot after the latch")


def _latch(folder: Path, zone: str) -> None:
    import trio

    from appliance.dev.environment import Environment
    from appliance.dev.latching import latch

    counter = trio.run(latch, Environment.load(folder), _zone(zone))
    click.echo(f"the boundary key of {zone} is locked (counter {counter}); 'bsfg dev release {zone}' unlocks it")


def _process(folder: Path, name: str) -> str:
    from appliance.dev.environment import Environment

    known = Environment.load(folder).processes
    if name not in known:
        raise RefusedError(Reason.BAD_INPUT, f"process {name!r}: {', '.join(known)}")
    return name


def _zone(name: str) -> ZoneId:
    from appliance.dev.layout import ZONES

    if name not in ZONES:
        raise RefusedError(Reason.BAD_INPUT, f"zone {name!r}: {', '.join(ZONES)}")
    return ZoneId(name)


def _show(progress: Progress) -> None:
    from appliance.dev.supervisor import Step

    match progress.step:
        case Step.READY:
            click.echo(f"{progress.process} is ready", err=True)
        case Step.DONE:
            click.echo(f"{progress.process} is done", err=True)
        case Step.ENDED:
            click.echo(f"{progress.process} {progress.text}; it is started again", err=True)
        case Step.LATER:
            click.echo(f"{progress.process} {progress.text}: see bsfg status", err=True)
        case _:
            pass


def _run_in_foreground(layout: Layout, choice: KeysChoice | None) -> None:
    import logging

    import trio

    from appliance.dev.environment import Environment
    from appliance.dev.lifecycle import settle
    from appliance.dev.lock import holding_lock
    from appliance.dev.running import run_environment
    from appliance.dev.supervisor import Step

    def show(progress: Progress) -> None:
        _show(progress)
        if progress.step is Step.ALL_READY:
            _print_addresses(Environment.load(layout.root))
            click.echo("Ctrl-C ends it.")

    settle(layout, choice)
    with holding_lock(layout):
        logging.basicConfig(
            filename=layout.supervisor_log,
            level=logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        trio.run(run_environment, layout, show)
    click.echo("everything is ended")


def _print_addresses(environment: Environment) -> None:
    from appliance.dev.environment import FACTS_PORT, INTAKE_PORT
    from appliance.dev.folders import in_memory
    from appliance.dev.layout import HOST

    rows = [
        [
            zone,
            f"nats://{HOST}:{environment.ports[FACTS_PORT[zone]]}",
            f"http://{HOST}:{environment.ports[INTAKE_PORT[zone]]}",
        ]
        for zone in environment.zones
    ]
    print_table(["zone", "facts by NATS", "facts by HTTP"], rows)
    click.echo(f"keys: {environment.keys.about}")
    if not in_memory(environment.layout.root):
        click.echo(f"session keys lie on a disk, below {environment.layout.run}; on a box they are in memory", err=True)
    click.echo(f"users, passwords, tokens, keys, logs: {environment.layout.document}")


def _print_log(error: BsfgError) -> None:
    from appliance.dev.lifecycle import tail
    from appliance.dev.supervisor import ChildFailedError

    if isinstance(error, ChildFailedError):
        click.echo(f"--- the end of {error.log}\n{tail(error.log)}\n---", err=True)
