# SPDX-License-Identifier: Apache-2.0
"""The processes of an environment: what each runs, what it waits for, and how one sees that it is ready."""

from __future__ import annotations

import json
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
from appliance.dev.environment import CONTROL_PORT, FACTS_PORT, TPM_PORT, Environment
from appliance.dev.layout import (
    CONTROL_BROKER,
    ENROL,
    ENTERPRISE,
    FACTS_BROKER,
    HOST,
    KEEPER,
    NODE,
    PLANT,
    TPM,
    KeysChoice,
)
from appliance.keys.keeper.port import KeeperState
from appliance.node.status import StatusDocument

_GREETING_TIMEOUT: Final = 2.0


def child_specs(environment: Environment, broker: BrokerBinary) -> list[ChildSpec]:
    """What to run, in about the order in which it starts."""
    zones = environment.zones
    brokers = [_broker(environment, broker, zone, facts=facts) for facts in (True, False) for zone in zones]
    nodes = [_node(environment, zone) for zone in zones]
    if environment.keys is not KeysChoice.SWTPM:
        return [*brokers, *nodes]
    return [
        *(_tpm(environment, zone) for zone in zones),
        *(_keeper(environment, zone) for zone in zones),
        *(_enrolment(environment, zone) for zone in (ENTERPRISE, PLANT) if zone in zones),
        *brokers,
        *nodes,
    ]


def python_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables with which another Python finds this very package, installed or not."""
    package = str(Path(appliance.__file__).resolve().parent.parent)
    paths = [package, *(path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != package)]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def python_command(module: str) -> list[str]:
    """How to run a module of ours; what lies in the current folder cannot come in its place (``-P``)."""
    return [sys.executable, "-P", "-m", module]


def _tpm(environment: Environment, zone: ZoneId) -> ChildSpec:
    """A software TPM. It takes one client at a time, and that is the keeper; ended and started again, it was reset."""
    files, port, name = environment.layout.zone(zone), environment.ports[TPM_PORT[zone]], TPM[zone]
    state = files.tpm_state.relative_to(files.root)  # a comma in a longer path would be taken for the next option
    return ChildSpec(
        name,
        [
            *(
                "swtpm",
                "socket",
                "--tpm2",
                "--tpmstate",
                f"dir={state}",
                "--flags",
                "not-need-init",
            ),
            *("--server", f"type=tcp,port={port},bindaddr={HOST}"),
            *("--ctrl", f"type=tcp,port={port + 1},bindaddr={HOST}"),
        ],
        environment.layout.log(name),
        partial(_listens, port + 1),
        cwd=files.root,
    )


def _keeper(environment: Environment, zone: ZoneId) -> ChildSpec:
    files, name = environment.layout.zone(zone), KEEPER[zone]
    return ChildSpec(
        name,
        [*python_command("appliance.keys.keeper"), "--config", str(files.keeper_config)],
        environment.layout.log(name),
        _says_its_pid(files.keeper_document),
        env=python_environment(),
        cwd=files.root,
        after=(TPM[zone],),
        volatile=(files.keeper_document,),
    )


def _enrolment(environment: Environment, zone: ZoneId) -> ChildSpec:
    """The hub's box first, at the hub's own office; then the plant's, which dials the hub."""
    name = ENROL[zone]
    return ChildSpec(
        name,
        [*python_command("appliance.dev.enrol"), "--dir", str(environment.layout.root), "--zone", zone],
        environment.layout.log(name),
        _never,
        env=python_environment(),
        after=(KEEPER[zone],) if zone == ENTERPRISE else (KEEPER[zone], NODE[ENTERPRISE]),
        once=True,
    )


async def _never(_pid: int) -> bool:
    """What is done once is ready when it has ended."""
    return False


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
        needs=() if facts or zone == PLANT else (files.control_authorities,),
        follows=(files.facts_config,) if facts else (environment.session(zone, "control"),),
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


async def _listens(port: int, _pid: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        with trio.fail_after(_GREETING_TIMEOUT):
            await (await trio.open_tcp_stream(HOST, port)).aclose()
    except (OSError, trio.TooSlowError):
        return False
    return True


async def _greets(listen: Local, server_name: str, _pid: int) -> bool:
    """Whether our broker answers there, and not just any broker."""
    try:
        with trio.fail_after(_GREETING_TIMEOUT):
            return (await read_greeting(listen)).server_name == server_name
    except (OSError, UnavailableError, trio.BrokenResourceError, trio.TooSlowError):
        return False


def _says_its_pid(document: Path) -> Callable[[int], Awaitable[bool]]:
    """Whether a keeper's status document was written by the process that runs now, whatever it says."""

    async def says_its_pid(pid: int) -> bool:
        try:
            text = await trio.to_thread.run_sync(document.read_bytes)
            return bool(json.loads(text)["pid"] == pid)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    return says_its_pid


def _says_ready(document: Path) -> Callable[[int], Awaitable[bool]]:
    """Whether a node's status document says so, and was written by the process that runs now.

    A hub whose boundary key is locked cannot serve peers, and does what it can when local work is possible.
    """

    async def says_ready(pid: int) -> bool:
        try:
            status = await trio.to_thread.run_sync(StatusDocument.read, document)
        except UnavailableError:
            return False
        locked = status.boundary.state == KeeperState.LATCHED and status.broker.durable
        return (status.ready or locked) and status.pid == pid

    return says_ready
