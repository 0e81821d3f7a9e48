# SPDX-License-Identifier: Apache-2.0
"""A latched box, one day long: producers of the plant work on through TLS, and three restarts of all that is local.

What is real: two zones on software TPMs, enrolled; the latch; nats-facts and the HTTPS intake behind TLS on the plant
interface (a loopback address plays it); the hub, which is up and within reach all day long; the restarts, each of
which kills TPM, keeper, nats-facts and agent at one moment. A stock NATS client keeps its connection, and makes it
again after each restart; ``curl`` makes a new one for every fact.

What is simulated: the day. A file, which the test changes, puts the wall clock of keeper, agent and ``curl`` forward
by 24 hours within seconds (libfaketime); a restart does not set it back. Timers do not run faster, for CLOCK_MONOTONIC
and CLOCK_BOOTTIME stay true; so does boundary time, which is counted from the latter. nats-facts lives in the true
time, as libfaketime does not reach Go, and so do the stock NATS client, the software TPM and the hub. So what agent and
intake judge by the wall clock is judged all day long, and the server certificate is, by ``curl``; what the broker
judges by date is not: that its credentials have no end, ``test_plant_listeners`` reads off them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import nats
import nats.errors
import pytest
import trio
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.brokers.binary import find_broker
from appliance.brokers.config import MIB, Limits, Plant, write_config
from appliance.dev.child import ChildSpec, ChildState
from appliance.dev.control import CutRequest, HealRequest, PowerCutRequest
from appliance.dev.environment import FACTS_PORT, Environment, PortName
from appliance.dev.keeping import KeeperDocument, keeper_of
from appliance.dev.latching import latch
from appliance.dev.layout import (
    CONTROL_BROKER,
    ENTERPRISE,
    FACTS_BROKER,
    HOST,
    KEEPER,
    NODE,
    PLANT,
    TPM,
    KeysChoice,
    Layout,
)
from appliance.dev.link import Cut, SimulatedLink, Tunnel
from appliance.dev.processes import child_specs
from appliance.dev.provision import open_environment, provision, write_document
from appliance.dev.restarts import RestartPolicy
from appliance.dev.supervisor import Progress, Step, Supervisor
from appliance.factlog.natslogin import client_tls
from appliance.keys.keeper.port import KeeperPort, KeeperState
from appliance.keys.local.store import LocalKeys
from appliance.node.local import facts_broker
from appliance.node.status import StatusDocument
from tests.brokers import as_client, free_port
from tests.processes import run
from tests.produced import payload
from tests.service.test_plant_listeners import ADDRESS, APPEND, PlantSide, fact

FAKETIME: Final = "/usr/$LIB/faketime/libfaketime.so.1"
DAY_S: Final = 86_400
DAY_TAKES_S: Final = 14
RESTARTS: Final = 3
LOCAL: Final = (TPM[PLANT], KEEPER[PLANT], FACTS_BROKER[PLANT], NODE[PLANT])
"""What a restart ends: all of the plant's processes but nats-control, which does nothing local."""
FAKED: Final = {KEEPER[PLANT], NODE[PLANT]}
UP_WITHIN_S: Final = 150
WITHIN_S: Final = 60
LONGEST_S: Final = 180
"""How long producers may be at it in all."""
AT_LEAST: Final = 5
"""Facts that each producer must get through between two restarts."""


@dataclass
class Clock:
    """The wall clock of some processes: the true one and what a file says, which is nothing until it is let run.

    The file is one that libfaketime reads at each call. (That of Debian 13 never starts a program whose clock follows
    the time of a file.)
    """

    file: Path
    ahead_s: int = 0

    def __post_init__(self) -> None:
        self._set(0)

    def _set(self, ahead_s: int) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"+{ahead_s}\n")
        new.replace(self.file)
        self.ahead_s = ahead_s

    @property
    def now(self) -> float:
        """What it shows: Unix seconds."""
        return time.time() + self.ahead_s

    def reached(self, part: float) -> bool:
        """Whether so much of the day is over."""
        return self.ahead_s >= part * DAY_S

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that lives by it. Files keep their true times, and so do timers."""
        follow = {"FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1"}
        alone = {"DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
        return {"LD_PRELOAD": FAKETIME, **follow, **alone}

    async def run(self) -> None:
        """A day, some minutes at a time."""
        began = trio.current_time()
        while self.ahead_s < DAY_S:
            self._set(min(DAY_S, int((trio.current_time() - began) / DAY_TAKES_S * DAY_S)))
            await trio.sleep(0.02)


@dataclass
class Producers:
    """Two producers of the plant, one per listener, and what was acknowledged to them: message id and offset."""

    side: PlantSide
    clock: Clock
    over_nats: dict[str, int] = field(default_factory=dict)
    over_https: dict[str, int] = field(default_factory=dict)
    enough: threading.Event = field(default_factory=threading.Event)
    """Set when no further fact is wanted; the one that is under way is brought to its end."""

    @property
    def acknowledged(self) -> dict[str, int]:
        """All that was."""
        return {**self.over_nats, **self.over_https}

    async def run(self) -> None:
        """Fact after fact, each sent until it is acknowledged: same id, same bytes. Until it is enough."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(as_client, self._nats, LONGEST_S)
            try:
                with trio.fail_after(LONGEST_S):
                    await self._https()
            finally:
                self.enough.set()

    async def _https(self) -> None:
        for number in itertools.count():
            if self.enough.is_set():
                break
            while not await self.over_https_once(f"https-{number}"):  # noqa: ASYNC110 - each asks anew
                await trio.sleep(0.1)

    async def _nats(self) -> None:
        context = client_tls(self.side.ca)
        url, user = f"tls://{HOST}:{self.side.port}", str(self.side.user("sensors").path)
        again = {"reconnect_time_wait": 0.1, "max_reconnect_attempts": -1}

        async def nothing(_: Exception) -> None:
            """The broker goes away and comes back: publishing tells that."""

        client = await nats.connect(url, user_credentials=user, tls=context, error_cb=nothing, **again)
        try:
            stream = client.jetstream()
            for number in itertools.count():
                if self.enough.is_set():
                    break
                message_id = f"nats-{number}"
                while message_id not in self.over_nats:
                    try:
                        sent = stream.publish("facts.audit.plant-a.all.sensors", payload(message_id), timeout=1)
                        self.over_nats[message_id] = (await sent).seq
                    except APIError as refused:
                        if refused.code != 503:
                            raise
                    except nats.errors.Error:
                        pass  # unknown: once more
                    await asyncio.sleep(0.05)
        finally:
            await client.close()

    async def over_https_once(self, message_id: str) -> bool:
        """Send a fact with curl, whose clock is the box's; whether it was acknowledged."""
        token = self.side.environment.token(PLANT, "orders")
        command = [
            "curl", "--silent", "--max-time", "3", "--cacert", str(self.side.ca), "--tlsv1.3",
            "--header", "Content-Type: application/json", "--header", f"Authorization: Bearer {token}",
            "--data", json.dumps(fact(message_id)), f"https://{HOST}:{self.side.https}/{APPEND}",
        ]  # fmt: skip
        environment = {**os.environ, **self.clock.environment}
        outcome = await trio.run_process(command, capture_stdout=True, check=False, env=environment)
        assert outcome.returncode != 60, "the server certificate is refused"
        if outcome.returncode != 0:
            return False  # nobody there, or ended in the middle: once more
        answer = json.loads(outcome.stdout)
        if "results" not in answer:
            assert answer["code"] == "unavailable", answer
            return False
        (result,) = answer["results"]
        assert result["outcome"] in ("APPEND_OUTCOME_STORED", "APPEND_OUTCOME_DUPLICATE"), answer
        self.over_https[message_id] = int(result["offset"])
        return True

    async def work(self, facts: int = AT_LEAST) -> None:
        """Wait until each got so many more through."""
        wanted = [(told, len(told) + facts) for told in (self.over_nats, self.over_https)]
        await until(lambda: all(len(told) >= count for told, count in wanted))


@dataclass
class Watch:
    """What is seen of a latched box all along."""

    keeper: KeeperPort
    sessions: Path
    counter: int
    states: set[KeeperState] = field(default_factory=set)

    async def run(self) -> None:
        """Look again and again; a keeper that is just being started again does not answer."""
        while True:
            assert list(self.sessions.iterdir()) == []
            with suppress(UnavailableError):
                status = await self.keeper.status()
                self.states.add(status.state)
                assert status.counter in (None, self.counter)
                assert dict(status.sessions) == {}
            await trio.sleep(0.1)


async def until(holds: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait until something is so. :raises trio.TooSlowError: it does not become so."""
    with trio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110 - nothing announces it
            await trio.sleep(0.05)


def status_of(environment: Environment, zone: ZoneId) -> StatusDocument:
    """What agent or hub says of itself."""
    return StatusDocument.read(environment.layout.zone(zone).status_document)


@pytest.fixture
def side(tmp_path: Path) -> Iterator[PlantSide]:
    """Two zones with software TPMs, the plant's listeners on the plant interface; nothing runs yet."""
    environment = open_environment(Layout.at(tmp_path / "d"), KeysChoice.SWTPM)
    provision(environment)
    write_document(environment)
    files = environment.layout.zone(PLANT)
    keys = LocalKeys.open(files.local, PLANT)
    side = PlantSide(environment, keys, keys.authority(), free_port())
    side.authority.ensure_server([ADDRESS], datetime.now(UTC))
    text = files.node_config.read_text()
    wanted = text.replace('credentials = "local"\n', 'credentials = "local"\nauthority = "local/ca.pem"\n')
    assert wanted != text
    plant = f'[plant]\nhost = "{HOST}"\nport = {side.https}\ncertificate = "local/server.pem"\n'
    files.node_config.write_text(f"{wanted}{plant}")
    listen = Plant(HOST, environment.ports[FACTS_PORT[PLANT]], side.authority.server_file)
    write_config(files.facts_config, facts_broker(keys, listen, files.facts_store, Limits(64 * 1024 * MIB)).render())
    yield side
    shutil.rmtree(environment.layout.root)


def with_clock(spec: ChildSpec, clock: Clock) -> ChildSpec:
    """The same process, by that clock if it is one of those."""
    if spec.name not in FAKED:
        return spec
    return replace(spec, env={**(spec.env or {}), **clock.environment})


@asynccontextmanager
async def running(environment: Environment, clock: Clock) -> AsyncIterator[Supervisor]:
    """Both zones, enrolled and linked, without nats-control; ended whatever happens."""
    ports = environment.ports
    tunnels = ((PortName.LINK_RPC, PortName.HUB_RPC), (PortName.LINK_TRUST, PortName.HUB_TRUST))
    link = SimulatedLink([Tunnel(near, ports[near], ports[far]) for near, far in tunnels], HOST)
    specs = child_specs(environment, find_broker())
    specs = [with_clock(spec, clock) for spec in specs if spec.name not in CONTROL_BROKER.values()]
    up = trio.Event()

    def report(progress: Progress) -> None:
        if progress.step is Step.ALL_READY:
            up.set()

    policy = RestartPolicy(first=0.2, longest=0.2)
    supervisor = Supervisor(specs, link, environment.layout.socket, lambda _: None, policy, report=report)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        with trio.fail_after(UP_WITHIN_S):
            await up.wait()
        try:
            yield supervisor
        finally:
            supervisor.down()


async def restart(supervisor: Supervisor) -> None:
    """All that is local, killed at one moment; until all of it is there again."""
    pids = await supervisor.handle(PowerCutRequest(LOCAL))
    assert set(pids["pids"]) == set(LOCAL)

    def back() -> bool:
        now = [process for process in supervisor.status().processes if process.name in LOCAL]
        return all(p.state is ChildState.READY and p.pid not in (None, pids["pids"][p.name]) for p in now)

    await until(back)


async def in_log(side: PlantSide) -> list[tuple[int, str]]:
    """Offset and message id of all that stands in the plant's log, as a reader of the plant sees it through TLS."""

    async def read() -> list[tuple[int, str]]:
        url, user = f"tls://{HOST}:{side.port}", str(side.user("reader").path)
        client = await nats.connect(url, user_credentials=user, tls=client_tls(side.ca), allow_reconnect=False)
        try:
            config = ConsumerConfig(ack_policy=AckPolicy.NONE)
            facts = await client.jetstream().pull_subscribe("facts.audit.>", stream="FACTS_AUDIT", config=config)
            found = await facts.fetch(100_000, timeout=2)
        finally:
            await client.close()
        return [(m.metadata.sequence.stream, json.loads(m.data)["envelope"]["message_id"]) for m in found]

    return await as_client(read, WITHIN_S)


async def crossed(environment: Environment) -> int:
    """How many facts of the plant the enterprise has."""
    where = ("--zone", ENTERPRISE, "--origin", PLANT, "--category", "audit")
    command = [sys.executable, "-m", "appliance.cli", "fact", "read", "--dir", str(environment.layout.root), *where]
    outcome = await trio.to_thread.run_sync(lambda: run(command, limit_s=WITHIN_S))
    assert outcome.returncode == 0, outcome.stderr
    return len(outcome.stdout.splitlines())


async def latched_while_cut(environment: Environment, supervisor: Supervisor) -> Watch:
    """Close the latch, and give the plant a way to the hub again that it can no longer use.

    A connection that stood would be good for some minutes more; so none does.
    """
    await supervisor.handle(CutRequest(Cut.RESET))
    cut_at = time.time()
    counter = await latch(environment, PLANT)
    await until(lambda: status_of(environment, PLANT).boundary.state == KeeperState.LATCHED)
    await until(lambda: status_of(environment, ENTERPRISE).updated_at_unix_ms > cut_at * 1000)  # it has counted all
    await supervisor.handle(HealRequest())
    return Watch(keeper_of(environment, PLANT), environment.layout.zone(PLANT).sessions, counter)


async def through_the_day(side: PlantSide, clock: Clock, supervisor: Supervisor, producers: Producers) -> None:
    """Let the clock run and the producers work; restart everything each quarter of the day."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(producers.run)
        try:
            await producers.work()
            nursery.start_soon(clock.run)
            for number in range(1, RESTARTS + 1):
                await until(partial(clock.reached, number / (RESTARTS + 1)))
                await restart(supervisor)
                await until(lambda: status_of(side.environment, PLANT).boundary.state == KeeperState.LATCHED)
                await producers.work()
            await until(partial(clock.reached, 1))
            await until(lambda: status_of(side.environment, PLANT).updated_at_unix_ms >= int(clock.now) * 1000)
            await producers.work()
        finally:
            producers.enough.set()


@pytest.mark.time_limit(480)
async def test_local_tls_producers_work_on_through_a_latched_day(
    side: PlantSide, tmp_path: Path, find_tool: Callable[[str], str]
) -> None:
    """Whatever was acknowledged stands in the log once; all along no session, no handshake, no crossing."""
    find_tool("faketime")
    find_tool("curl")
    environment, clock = side.environment, Clock(tmp_path / "clock")
    producers, keeper = Producers(side, clock), keeper_of(side.environment, PLANT)
    async with running(environment, clock) as supervisor, trio.open_nursery() as nursery:
        with trio.fail_after(WITHIN_S):
            while not await producers.over_https_once("before"):  # noqa: ASYNC110 - each asks anew
                await trio.sleep(0.1)
            while await crossed(environment) != 1:  # noqa: ASYNC110 - each asks anew
                await trio.sleep(0.2)
        watch = await latched_while_cut(environment, supervisor)
        accepted = status_of(environment, ENTERPRISE).boundary.handshakes_accepted
        assert accepted >= 1
        nursery.start_soon(watch.run)
        await through_the_day(side, clock, supervisor, producers)

        log = await in_log(side)
        assert Counter(message_id for _, message_id in log) == Counter(producers.acknowledged.keys())
        assert {message_id: offset for offset, message_id in log} == producers.acknowledged
        with pytest.raises(DeniedError) as refused:
            await keeper.session("agent")
        assert refused.value.reason is Reason.KEY_LATCHED
        assert (await keeper.status()).state is KeeperState.LATCHED
        assert watch.states - {KeeperState.TPM_ABSENT} == {KeeperState.LATCHED}  # absent: not asked yet
        document = environment.layout.zone(PLANT).keeper_document
        await until(lambda: KeeperDocument.read(document).updated_at_unix_ms >= int(clock.now) * 1000)
        restarts = {process.name: process.restarts for process in supervisor.status().processes}
        assert {restarts[name] for name in LOCAL} == {RESTARTS}
        await until(lambda: status_of(environment, PLANT).mode == "autonomous")
        assert status_of(environment, PLANT).ready
        assert status_of(environment, ENTERPRISE).boundary.handshakes_accepted == accepted
        assert await crossed(environment) == 1
        nursery.cancel_scope.cancel()
