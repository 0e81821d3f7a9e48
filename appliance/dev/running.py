# SPDX-License-Identifier: Apache-2.0
"""Run an environment in this process: lock, leftovers, files, ports, then the supervisor until it is told to end."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, UnavailableError, first_error
from appliance.boundary.reasons import Reason
from appliance.brokers.binary import find_broker
from appliance.dev.child import STOP_GRACE
from appliance.dev.environment import Environment, PortName
from appliance.dev.layout import HOST, Layout
from appliance.dev.link import SimulatedLink, Tunnel
from appliance.dev.pids import ProcessIdentity
from appliance.dev.processes import child_specs
from appliance.dev.provision import open_environment, provision, taken_ports, write_document
from appliance.dev.supervisor import Identities, Progress, Supervisor
from appliance.keys.files import PRIVATE, write_atomically

_log = logging.getLogger(__name__)

SUPERVISOR: Final = "supervisor"


def remembered(layout: Layout) -> dict[str, ProcessIdentity]:
    """The processes the last supervisor wrote down; they may be gone."""
    try:
        entries = json.loads(layout.pids.read_text(encoding="utf-8"))
        return {name: ProcessIdentity(**entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def end_leftovers(layout: Layout) -> list[str]:
    """End what a supervisor that was killed left behind, and remove what it can no longer remove; blocking.

    Only for whoever knows that no supervisor runs. Returns the names of what still ran.
    """
    ended = [name for name, identity in remembered(layout).items() if name != SUPERVISOR and identity.end(STOP_GRACE)]
    for path in (layout.pids, layout.socket):
        path.unlink(missing_ok=True)
    return ended


def make_ready(layout: Layout) -> Environment:
    """Load or make the environment and all its files, and see that its ports are free; blocking.

    :raises UnavailableError: ``bad_environment``, ``port_taken``.
    """
    environment = open_environment(layout)
    try:
        provision(environment)
    except OSError as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{error.filename}: {error.strerror}") from error
    if taken := taken_ports(environment):
        names = ", ".join(f"{port} ({name})" for name, port in taken.items())
        raise UnavailableError(Reason.PORT_TAKEN, f"{HOST}: {names}; ports stand in {layout.document}")
    return environment


def link_of(environment: Environment) -> SimulatedLink:
    """The simulated link: all that the plant dials."""
    ends = (
        (PortName.LINK_RPC, PortName.HUB_RPC),
        (PortName.LINK_LEAF, PortName.HUB_LEAF),
        (PortName.LINK_TRUST, PortName.HUB_TRUST),
    )
    ports = environment.ports
    return SimulatedLink([Tunnel(name, ports[name], ports[target]) for name, target in ends], HOST)


async def run_environment(layout: Layout, report: Callable[[Progress], None]) -> None:
    """Bring an environment up and keep it up until SIGTERM, SIGINT or ``bsfg dev down``; needs the lock.

    :raises UnavailableError: it does not come up.
    """
    if ended := await trio.to_thread.run_sync(end_leftovers, layout):
        _log.warning("ended what an earlier supervisor left behind: %s", ", ".join(ended))
    broker = await trio.to_thread.run_sync(find_broker)
    environment = await trio.to_thread.run_sync(make_ready, layout)

    def remember(running: Identities) -> None:
        _write_down(environment, running)

    supervisor = Supervisor(
        child_specs(environment, broker), link_of(environment), layout.socket, remember, report=report
    )
    failed: BsfgError | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, supervisor)
            await supervisor.run()
            nursery.cancel_scope.cancel()
    except* BsfgError as errors:
        failed = first_error(errors)
    finally:
        layout.pids.unlink(missing_ok=True)
        write_document(environment)
    if failed is not None:  # not in the clause above: before Python 3.11.4 it would come out as a group
        raise failed


def _write_down(environment: Environment, running: Identities) -> None:
    """For the next supervisor, should this one be killed; and the pids for everybody in ``env.json``."""
    me = ProcessIdentity.of(os.getpid())
    everything = {**running, **({SUPERVISOR: me} if me else {})}
    text = json.dumps({name: asdict(identity) for name, identity in everything.items()}, indent=1)
    write_atomically(environment.layout.pids, text.encode(), PRIVATE)
    write_document(environment, {name: identity.pid for name, identity in running.items()})


async def _end_on_signal(supervisor: Supervisor) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            _log.info("%s: everything is ended", signal.Signals(number).name)
            supervisor.down()


def purge(layout: Layout) -> None:
    """Remove the whole folder. :raises UnavailableError: ``bad_environment``: it does not carry our mark."""
    Environment.load(layout.root)
    shutil.rmtree(layout.root)
