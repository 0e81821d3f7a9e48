# SPDX-License-Identifier: Apache-2.0
"""Confirmed is durable: the broker syncs before it acknowledges, and a broker that does not is refused."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import ExitCode, Reason
from appliance.brokers.binary import find_broker
from appliance.dev.environment import FACTS_PORT, Environment
from appliance.dev.layout import HOST, NODE, PLANT, ZONES, KeysChoice, Layout
from appliance.dev.processes import python_command, python_environment
from appliance.dev.provision import provision
from appliance.node.status import StatusDocument
from tests.judge import Recorder
from tests.service.world import traces
from tests.service.world.clients import close, open_client
from tests.service.world.producers import STORED, Producer
from tests.service.world.seeds import seed_of
from tests.service.world.zones import OPERATIONAL

FACTS: Final = 25
STREAM: Final = "FACTS_OPERATIONAL"
READY_S: Final = 60.0
"""Under strace everything takes its time."""
SYNC_ALWAYS: Final = "sync_interval"


@contextmanager
def running(command: Sequence[str | Path], log: Path, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, with what it starts, that is ended at the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=python_environment(),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # strace ends when what it watches has ended
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def environment_in(folder: Path) -> Environment:
    """Two zones with their files, of which nothing runs."""
    environment = Environment.generate(Layout.at(folder / "zones"), KeysChoice.SOFTWARE)
    provision(environment)
    return environment


def without_sync(config: Path) -> None:
    """Take out of a broker's configuration what makes it durable."""
    lines = config.read_text().splitlines(keepends=True)
    left = [line for line in lines if SYNC_ALWAYS not in line]
    assert len(left) == len(lines) - 1
    config.write_text("".join(left))


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something outside. :raises TimeoutError: it does not come."""
    deadline = time.monotonic() + READY_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


def serves(environment: Environment, zone: ZoneId) -> bool:
    """Whether a zone's broker listens."""

    async def look() -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, environment.ports[FACTS_PORT[zone]])
        except OSError:
            return False
        writer.close()
        return True

    return asyncio.run(look())


def status(environment: Environment, zone: ZoneId) -> StatusDocument | None:
    """What a zone's node says about itself."""
    try:
        return StatusDocument.read(environment.layout.zone(zone).status_document)
    except UnavailableError:
        return None


def node_command(environment: Environment, zone: ZoneId) -> list[str]:
    """How a zone's agent or hub is started."""
    return [*python_command(f"appliance.{NODE[zone]}"), "--config", str(environment.layout.zone(zone).node_config)]


def test_a_fact_is_on_disk_before_it_is_acknowledged(tmp_path: Path, find_tool: Callable[[str], str]) -> None:
    """Seen from outside, call by call: written, synced, and only then the answer leaves the broker."""
    find_tool("strace")
    environment = environment_in(tmp_path)
    files, trace = environment.layout.zone(PLANT), tmp_path / "trace"
    broker = [*traces.command(str(trace)), str(find_broker().path), "-c", str(files.facts_config)]
    with running(broker, tmp_path / "broker.log", files.root):
        wait_until(lambda: serves(environment, PLANT), "the broker does not listen")
        with running(node_command(environment, PLANT), tmp_path / "agent.log", files.root):
            wait_until(lambda: (s := status(environment, PLANT)) is not None and s.ready, "the agent is not ready")
            asyncio.run(_one_by_one(environment))
    acknowledged, early = traces.unsynced(trace.read_text(errors="replace").splitlines(), STREAM, f"/{STREAM}/")
    assert acknowledged == list(range(1, FACTS + 1))
    assert early == []


async def _one_by_one(environment: Environment) -> None:
    login = environment.facts_login(PLANT, "cli")
    producer = Producer(PLANT, "cli", login, Recorder(), random.Random(seed_of("durability")))
    producer.answer_s = 30.0
    for _ in range(FACTS):
        assert (await producer.send(producer.make(OPERATIONAL, PLANT))).word == STORED
    await producer.close()


def test_the_trace_shows_a_broker_that_acknowledges_too_early(tmp_path: Path, find_tool: Callable[[str], str]) -> None:
    """The same eyes on nats-server as it comes: every acknowledgement is early."""
    find_tool("strace")
    environment = environment_in(tmp_path)
    files, trace = environment.layout.zone(PLANT), tmp_path / "trace"
    without_sync(files.facts_config)
    broker = [*traces.command(str(trace)), str(find_broker().path), "-c", str(files.facts_config)]
    with running(broker, tmp_path / "broker.log", files.root):
        wait_until(lambda: serves(environment, PLANT), "the broker does not listen")
        asyncio.run(_publish_past_the_agent(environment))
    acknowledged, early = traces.unsynced(trace.read_text(errors="replace").splitlines(), "PLAIN", "/PLAIN/")
    assert acknowledged == early == list(range(1, FACTS + 1))


async def _publish_past_the_agent(environment: Environment) -> None:
    client = await open_client(environment.facts_login(PLANT, "agent"), inbox_prefix="_BSFG")
    js = client.jetstream()
    await js.add_stream(name="PLAIN", subjects=["plain"])
    for number in range(FACTS):
        await js.publish("plain", json.dumps({"n": number}).encode(), timeout=30)
    await close(client)


@pytest.mark.parametrize("zone", ZONES)
def test_a_broker_that_is_not_durable_is_refused(tmp_path: Path, zone: ZoneId) -> None:
    """The node ends with its reason, says so in its status, and takes no fact."""
    environment = environment_in(tmp_path)
    files = environment.layout.zone(zone)
    without_sync(files.facts_config)
    log = tmp_path / "node.log"
    with running([find_broker().path, "-c", files.facts_config], tmp_path / "broker.log", files.root):
        wait_until(lambda: serves(environment, zone), "the broker does not listen")
        with running(node_command(environment, zone), log, files.root) as node:
            assert node.wait(READY_S) == ExitCode.NOT_READY
    said = status(environment, zone)
    assert said is not None
    assert not said.ready
    assert Reason.BROKER_NOT_DURABLE in [problem.reason for problem in said.problems]
    text = log.read_text()
    assert Reason.BROKER_NOT_DURABLE in text
    assert "hint:" in text
