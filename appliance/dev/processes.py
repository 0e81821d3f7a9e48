# SPDX-License-Identifier: Apache-2.0
"""The six processes of an environment: what each runs, what it waits for, and how one sees that it is ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

import appliance
from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.brokers.binary import BrokerBinary
from appliance.brokers.config import Local
from appliance.brokers.process import read_greeting
from appliance.dev.child import ChildSpec
from appliance.dev.environment import CONTROL_PORT, FACTS_PORT, Environment
from appliance.dev.layout import CONTROL_BROKER, FACTS_BROKER, HOST, NODE, ZONES
from appliance.node.status import StatusDocument

_GREETING_TIMEOUT: Final = 2.0


def child_specs(environment: Environment, broker: BrokerBinary) -> list[ChildSpec]:
    """What to run, brokers first."""
    brokers = [_broker(environment, broker, zone, facts=facts) for facts in (True, False) for zone in ZONES]
    return [*brokers, *(_node(environment, zone) for zone in ZONES)]


def python_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables with which another Python finds this very package, installed or not."""
    package = str(Path(appliance.__file__).resolve().parent.parent)
    paths = [package, *(path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != package)]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def python_command(module: str) -> list[str]:
    """How to run a module of ours; what lies in the current folder cannot come in its place (``-P``)."""
    return [sys.executable, "-P", "-m", module]


def _broker(environment: Environment, broker: BrokerBinary, zone: ZoneId, *, facts: bool) -> ChildSpec:
    files = environment.layout.zone(zone)
    name = (FACTS_BROKER if facts else CONTROL_BROKER)[zone]
    port = environment.ports[(FACTS_PORT if facts else CONTROL_PORT)[zone]]
    return ChildSpec(
        name,
        [str(broker.path), "-c", str(files.facts_config if facts else files.control_config)],
        environment.layout.log(name),
        partial(_greets, Local(HOST, port), f"{zone}-{'facts' if facts else 'control'}"),
        cwd=files.root,
    )


def _node(environment: Environment, zone: ZoneId) -> ChildSpec:
    files, name = environment.layout.zone(zone), NODE[zone]
    return ChildSpec(
        name,
        [*python_command(f"appliance.{name}"), "--config", str(files.node_config)],
        environment.layout.log(name),
        _says_ready(files.status_document),
        env=python_environment(),
        cwd=files.root,
        after=(FACTS_BROKER[zone],),
        volatile=(files.status_document,),
    )


async def _greets(listen: Local, server_name: str, _pid: int) -> bool:
    """Whether our broker answers there, and not just any broker."""
    try:
        with trio.fail_after(_GREETING_TIMEOUT):
            return (await read_greeting(listen)).server_name == server_name
    except (OSError, UnavailableError, trio.BrokenResourceError, trio.TooSlowError):
        return False


def _says_ready(document: Path) -> Callable[[int], Awaitable[bool]]:
    """Whether a node's status document says so, and was written by the process that runs now."""

    async def says_ready(pid: int) -> bool:
        try:
            status = await trio.to_thread.run_sync(StatusDocument.read, document)
        except UnavailableError:
            return False
        return status.ready and status.pid == pid

    return says_ready
