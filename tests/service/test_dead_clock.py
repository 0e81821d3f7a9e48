# SPDX-License-Identifier: Apache-2.0
"""A box whose clock battery is dead: two real zones on software TPMs, keeper and agent of the plant ten years off.

The wall clock of those two processes is faked by libfaketime, which leaves CLOCK_BOOTTIME and CLOCK_MONOTONIC alone, as
a dead battery does. Hub, brokers, TPMs and the people who enrol live in the true time. A reboot of the box is played by
ending its processes and removing the file that a tmpfs would not have kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.brokers.binary import find_broker
from appliance.dev.child import ChildSpec
from appliance.dev.control import CutRequest, HealRequest
from appliance.dev.environment import Environment, PortName
from appliance.dev.keeping import keeper_of
from appliance.dev.layout import CONTROL_BROKER, ENROL, ENTERPRISE, HOST, KEEPER, NODE, PLANT, KeysChoice, Layout
from appliance.dev.link import Cut, SimulatedLink, Tunnel
from appliance.dev.processes import child_specs
from appliance.dev.provision import open_environment, provision, write_document
from appliance.dev.supervisor import Progress, Step, Supervisor
from appliance.keys.keeper.clock import OFFSET_FILE
from appliance.keys.keeper.port import KeeperState
from appliance.node.status import StatusDocument
from tests.processes import run

FAKETIME = "/usr/$LIB/faketime/libfaketime.so.1"
"""Where Debian keeps it; the loader knows what ``$LIB`` is."""
TEN_YEARS_S = 10 * 365 * 86_400
WEEK_S = 7 * 86_400
WRONG_CLOCKS = {KEEPER[PLANT], NODE[PLANT]}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Two zones with software TPMs; nothing runs yet."""
    environment = open_environment(Layout.at(tmp_path_factory.mktemp("clock") / "d"), KeysChoice.SWTPM)
    provision(environment)
    write_document(environment)
    yield environment
    shutil.rmtree(environment.layout.root)


def with_clock(spec: ChildSpec, clock: str) -> ChildSpec:
    """The same process, started with another wall clock."""
    faked = {"LD_PRELOAD": FAKETIME, "FAKETIME": clock, "DONT_FAKE_MONOTONIC": "1"}
    return replace(spec, env={**(spec.env or {}), **faked})


@asynccontextmanager
async def running(environment: Environment, clock: str, *, enrol: bool) -> AsyncIterator[Supervisor]:
    """Both zones, the plant's keeper and agent with this clock, and the link cut from the beginning."""
    ports = environment.ports
    tunnels = (
        (PortName.LINK_RPC, PortName.HUB_RPC),
        (PortName.LINK_LEAF, PortName.HUB_LEAF),
        (PortName.LINK_TRUST, PortName.HUB_TRUST),
    )
    link = SimulatedLink([Tunnel(near, ports[near], ports[far]) for near, far in tunnels], HOST)
    left_out = {*CONTROL_BROKER.values(), *(() if enrol else ENROL.values())}
    specs = [spec for spec in child_specs(environment, find_broker()) if spec.name not in left_out]
    specs = [with_clock(spec, clock) if spec.name in WRONG_CLOCKS else spec for spec in specs]
    up = trio.Event()

    def report(progress: Progress) -> None:
        if progress.step is Step.ALL_READY:
            up.set()

    supervisor = Supervisor(specs, link, environment.layout.socket, lambda _: None, report=report)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        if not enrol:
            await _until(lambda: link.connections >= 0)
            await supervisor.handle(CutRequest(Cut.RESET))
        with trio.fail_after(60):
            await up.wait()
        yield supervisor
        supervisor.down()


async def _until(holds: Callable[[], object], within_s: float = 30) -> None:
    with trio.fail_after(within_s):
        while True:
            try:
                if holds():
                    return
            except Exception:  # noqa: BLE001, S110 - not yet
                pass
            await trio.sleep(0.1)


async def bsfg(*arguments: str | Path, text_in: str = "") -> str:
    """Run the command as a user would, in the true time."""
    command = [sys.executable, "-m", "appliance.cli", *map(str, arguments)]

    def call() -> subprocess.CompletedProcess[str]:
        return run(command, limit_s=30, text_in=text_in)

    outcome = await trio.to_thread.run_sync(call)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


async def append(environment: Environment, row: int) -> None:
    """One fact of the plant, for the enterprise."""
    line = f'{{"row": {row}}}\n'
    where = ("--dir", environment.layout.root, "--zone", PLANT, "--category", "operational")
    await bsfg("fact", "append", *where, "--subject", "item:{row}", "--predicate", "seen", text_in=line)


async def facts(environment: Environment, *where: str) -> list[str]:
    """What stands in a log."""
    read = ("fact", "read", "--dir", environment.layout.root, "--category", "operational")
    return (await bsfg(*read, *where)).split()


def agent_status(environment: Environment) -> StatusDocument:
    """What the agent says of itself."""
    return StatusDocument.read(environment.layout.zone(PLANT).status_document)


async def crossed(environment: Environment, rows: int) -> list[str]:
    """Wait until the enterprise has so many facts of the plant."""
    with trio.fail_after(60):
        while True:
            there = await facts(environment, "--zone", ENTERPRISE, "--origin", PLANT)
            if len(there) == rows:
                return there
            await trio.sleep(0.2)


async def test_a_box_with_a_dead_clock_works_and_connects_once_it_has_a_token(
    environment: Environment, find_tool: Callable[[str], str]
) -> None:
    """Ten years behind at its first start and enrolment, ten years ahead after a reboot."""
    find_tool("faketime")
    keeper = keeper_of(environment, PLANT)
    async with running(environment, "-10y", enrol=True):
        await append(environment, 1)
        await crossed(environment, 1)
        status = await keeper.status()
        assert status.state is KeeperState.READY
        assert agent_status(environment).updated_at_unix_ms / 1000 < time.time() - TEN_YEARS_S + WEEK_S
    files = environment.layout.zone(PLANT)
    (files.keeper_run / OFFSET_FILE).unlink()
    async with running(environment, "+10y", enrol=False) as supervisor:
        await _until(
            lambda: agent_status(environment).updated_at_unix_ms / 1000 > time.time() + TEN_YEARS_S - 7 * 86_400
        )
        assert (await keeper.status()).state is KeeperState.TIME_UNKNOWN
        await append(environment, 2)
        own = await facts(environment, "--zone", PLANT)
        assert len(own) == 2
        assert (await keeper.status()).state is KeeperState.TIME_UNKNOWN
        await supervisor.handle(HealRequest())
        assert await crossed(environment, 2) == own
        status = await keeper.status()
        assert status.state is KeeperState.READY
        assert status.boundary_offset_ns is not None
        now_ms = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) + status.boundary_offset_ns) // 1_000_000
        assert abs(now_ms - time.time_ns() // 1_000_000) < 5_000
        assert all(abs(session.ends_at - time.time()) < 3600 for session in status.sessions.values())
