# SPDX-License-Identifier: Apache-2.0
"""Agent and hub as processes: how they start, what they say when they cannot, and how they end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import ExitCode
from appliance.dev.environment import INTAKE_PORT, Environment
from appliance.dev.layout import ENTERPRISE, HOST, NODE, PLANT
from appliance.node.status import StatusDocument
from tests.wires import until
from tests.zones import running_broker, two_zones

ROLE = {PLANT: "agent", ENTERPRISE: "hub"}


class Process:
    """A node's process with its output in a file."""

    def __init__(self, role: str, arguments: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"appliance.{role}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    @property
    def output(self) -> str:
        """What it has said up to now."""
        return self._log.read_text()

    async def ended(self, within_s: float = 20) -> int:
        """Wait for its end; its exit code."""
        await until(lambda: self.process.poll() is not None, within_s)
        return self.process.returncode


@asynccontextmanager
async def started(role: str, arguments: list[str], log: Path) -> AsyncIterator[Process]:
    """A node's process, killed in the end if it still runs."""
    process = Process(role, arguments, log)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait(20)


@asynccontextmanager
async def node(environment: Environment, zone: ZoneId = PLANT) -> AsyncIterator[Process]:
    """The node of a zone."""
    config = environment.layout.zone(zone).node_config
    async with started(ROLE[zone], ["--config", str(config)], environment.layout.log(NODE[zone])) as process:
        yield process


def status(environment: Environment, zone: ZoneId = PLANT) -> StatusDocument:
    """What a node says about itself."""
    return StatusDocument.read(environment.layout.zone(zone).status_document)


def is_ready(environment: Environment, zone: ZoneId = PLANT) -> bool:
    """Whether a node says that it is ready."""
    path = environment.layout.zone(zone).status_document
    return path.exists() and status(environment, zone).ready


@pytest.mark.parametrize(
    ("zone", "sign"), [(PLANT, signal.SIGTERM), (ENTERPRISE, signal.SIGTERM), (PLANT, signal.SIGINT)]
)
async def test_it_ends_in_good_order_when_told(tmp_path: Path, zone: ZoneId, sign: signal.Signals) -> None:
    """Exit code 0 and no traceback, in the middle of its work."""
    environment = two_zones(tmp_path)
    async with running_broker(environment, zone), node(environment, zone) as process:
        await until(lambda: is_ready(environment, zone), 30)
        assert status(environment, zone).pid == process.process.pid
        process.process.send_signal(sign)
        assert await process.ended(10) == ExitCode.OK
        assert "Traceback" not in process.output
        assert "is durable" in process.output


async def test_it_ends_in_good_order_while_it_waits_for_its_broker(tmp_path: Path) -> None:
    """Which may not come; that is said in the status and is no failure."""
    environment = two_zones(tmp_path)
    async with node(environment) as process:
        path = environment.layout.zone(PLANT).status_document
        await until(path.exists, 30)
        (problem,) = status(environment).problems
        assert problem.reason == "broker_unavailable"
        assert not status(environment).ready
        process.process.send_signal(signal.SIGTERM)
        assert await process.ended(10) == ExitCode.OK
        assert "Traceback" not in process.output


async def failed(environment: Environment, zone: ZoneId = PLANT) -> tuple[int, str]:
    """Exit code and output of a node that must not start."""
    async with node(environment, zone) as process:
        code = await process.ended(30)
        output = process.output
    assert "Traceback" not in output
    assert "error: " in output
    assert "hint: " in output
    return code, output


def break_config(environment: Environment) -> None:
    """A field nobody knows."""
    path = environment.layout.zone(PLANT).node_config
    path.write_text(path.read_text() + "colour = 1\n")


def remove_secrets(environment: Environment) -> None:
    """The credentials are gone."""
    environment.layout.zone(PLANT).user("agent").unlink()


def damage_ledger(environment: Environment) -> None:
    """Something else stands in the ledger's place."""
    (environment.layout.zone(PLANT).state / "ledger.db").write_bytes(b"not a ledger" * 1000)


def remove_key(environment: Environment) -> None:
    """The zone's key is gone."""
    (environment.layout.zone(PLANT).pki / "boundary.pem").unlink()


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (break_config, ExitCode.USAGE, "unknown field 'colour'"),
        (remove_secrets, ExitCode.USAGE, "agent.creds"),
        (damage_ledger, ExitCode.FAILURE, "ledger_damaged"),
        (remove_key, ExitCode.NOT_READY, "boundary.pem"),
    ],
)
async def test_what_keeps_it_from_starting_is_said(
    tmp_path: Path, spoil: Callable[[Environment], None], code: ExitCode, said: str
) -> None:
    """The reason, what to do, and the exit code of its kind; no traceback."""
    environment = two_zones(tmp_path)
    spoil(environment)
    assert (outcome := await failed(environment))[0] == code
    assert said in outcome[1]


async def test_a_broker_that_is_not_durable_ends_it(tmp_path: Path) -> None:
    """Nothing may be confirmed that a power cut would take; the status says so as well."""
    environment = two_zones(tmp_path)
    path = environment.layout.zone(PLANT).facts_config
    path.write_text(path.read_text().replace('"always"', '"2m"'))
    async with running_broker(environment):
        code, output = await failed(environment)
    assert code == ExitCode.NOT_READY
    assert "broker_not_durable" in output
    assert [problem.reason for problem in status(environment).problems if problem.where == "broker"] == [
        "broker_not_durable"
    ]


async def test_a_taken_port_ends_it(tmp_path: Path) -> None:
    """With the port's number; the supervisor starts it again."""
    environment = two_zones(tmp_path)
    port = environment.ports[INTAKE_PORT[PLANT]]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HOST, port))
        other.listen(1)
        async with running_broker(environment):
            code, output = await failed(environment)
    assert code in (ExitCode.USAGE, ExitCode.NOT_READY)
    assert f"cannot listen on {HOST}:{port}" in output
    assert str(port) in next(p for p in status(environment).problems if p.where == "start").detail


async def test_wrong_usage_and_a_wrong_file(tmp_path: Path) -> None:
    """As every command line tool says it; and the configuration of the other role was not meant."""
    environment = two_zones(tmp_path)
    agents_config = str(environment.layout.zone(PLANT).node_config)
    for role, arguments, said in (
        ("agent", [], "--config"),
        ("agent", ["--config", str(tmp_path / "none.toml")], "none.toml: No such file"),
        ("hub", ["--config", agents_config], "[listen]"),
    ):
        async with started(role, arguments, tmp_path / "log") as process:
            assert await process.ended(20) == ExitCode.USAGE
            assert said in process.output
            assert "Traceback" not in process.output
