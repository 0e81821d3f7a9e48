# SPDX-License-Identifier: Apache-2.0
"""Two zones of the product in a folder: real brokers, hub and agent, started and reset as the benchmarks need it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.intake import Intake, Outcome
from appliance.boundary.names import ZoneId
from appliance.boundary.policy import CategoryPolicy
from appliance.boundary.producing import AppendOutcome, ProducedFact
from appliance.brokers.binary import BrokerBinary
from appliance.brokers.config import Local
from appliance.brokers.process import BrokerProcess
from appliance.dev.environment import FACTS_PORT, Environment, PortName
from appliance.dev.layout import ENTERPRISE, HOST, NODE, PLANT, KeysChoice, Layout, ZoneLayout
from appliance.dev.provision import provision
from appliance.node.config import NodeConfig
from appliance.node.status import StatusDocument
from appliance.node.zone import ZoneRuntime
from tests.bench.children import Child, python_command
from tests.bench.facts import CATEGORY, Stock
from tests.bench.failure import BenchError

AGENT: Final = "appliance.agent"
HUB: Final = "appliance.hub"
SESSION_S: Final = 30
"""How long the sessions of a keeper are good for here: so short that some are renewed while a trial runs."""
_DIRECT: Final = {PortName.LINK_RPC: PortName.HUB_RPC, PortName.LINK_TRUST: PortName.HUB_TRUST}
_READY_S: Final = 20.0
_FILL_S: Final = 120.0
_UNIT: Final = 1000
"""Facts handed to the intake at once when a log is filled."""


class Zones:
    """Plant and enterprise. The agent dials the hub directly; there is no simulated link between them."""

    def __init__(self, root: Path, binary: BrokerBinary, keys: KeysChoice = KeysChoice.SOFTWARE) -> None:
        chosen = Environment.generate(Layout.at(root), keys, SESSION_S)
        direct = {link: chosen.ports[hub] for link, hub in _DIRECT.items()}
        self.environment: Environment = replace(
            chosen, ports={**chosen.ports, **direct}, categories={CATEGORY: CategoryPolicy()}
        )
        provision(self.environment)
        self._binary = binary
        self._brokers: dict[ZoneId, BrokerProcess] = {}
        self._nodes: dict[ZoneId, Child] = {}

    def files(self, zone: ZoneId) -> ZoneLayout:
        """The files of a zone."""
        return self.environment.layout.zone(zone)

    def port(self, zone: ZoneId) -> int:
        """The port of a zone's nats-facts."""
        return self.environment.ports[FACTS_PORT[zone]]

    def login(self, zone: ZoneId, user: str) -> dict[str, str]:
        """How a user comes into a zone's nats-facts."""
        return {"credentials": str(self.files(zone).user(user))}

    def pids(self, source: ZoneId) -> dict[str, int]:
        """What runs, named by the part it has when facts cross from ``source``."""
        named = {f"{'source' if zone == source else 'target'} nats": b.pid for zone, b in self._brokers.items()}
        pids: dict[str, int] = {name: pid for name, pid in named.items() if pid is not None}
        return pids | {str(NODE[zone]): node.pid for zone, node in self._nodes.items()}

    async def start_broker(self, zone: ZoneId) -> None:
        """Start a zone's nats-facts, and return when it serves."""
        listen = Local(HOST, self.port(zone))
        log = self.environment.layout.log(f"{zone}-nats")
        broker = BrokerProcess(self._binary, self.files(zone).facts_config, log, listen)
        await broker.start()
        self._brokers[zone] = broker

    async def start_node(self, zone: ZoneId, module: str, *, wait: bool = True) -> None:
        """Start a zone's agent or hub; ``wait`` until it is ready."""
        files = self.files(zone)
        files.status_document.unlink(missing_ok=True)
        log = self.environment.layout.log(str(NODE[zone]))
        node = await Child.start(python_command(module, "--config", files.node_config), log)
        self._nodes[zone] = node
        if wait:
            await node.wait_until(partial(_is_ready, files.status_document), module, _READY_S)

    async def stop(self) -> None:
        """End all, those who call before those who are called."""
        with trio.CancelScope(shield=True):
            for zone in (PLANT, ENTERPRISE):
                if node := self._nodes.pop(zone, None):
                    await node.stop()
            for broker in self._brokers.values():
                await broker.stop()
            self._brokers.clear()

    def empty(self, zone: ZoneId) -> None:
        """Forget all facts of a zone, which must not run."""
        for folder in self._data(zone):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)

    def put_aside(self, zone: ZoneId, folder: Path) -> None:
        """Move a zone's facts to a folder, so that trials can begin with a copy of them."""
        folder.mkdir(parents=True)
        for data in self._data(zone):
            data.rename(folder / data.name)
        self.empty(zone)

    def put_back(self, zone: ZoneId, folder: Path) -> None:
        """Begin with a copy of what was put aside, written to disk before anything is measured."""
        for data in self._data(zone):
            shutil.rmtree(data, ignore_errors=True)
            shutil.copytree(folder / data.name, data)
        os.sync()

    def _data(self, zone: ZoneId) -> Sequence[Path]:
        files = self.files(zone)
        return (files.facts_store, files.state)

    async def fill(self, zone: ZoneId, stock: Stock) -> None:
        """Store facts through the product's own intake; not measured. The zone's broker must run."""
        runtime = ZoneRuntime("filler", NodeConfig.load(self.files(zone).node_config))
        with trio.move_on_after(_FILL_S) as limit:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(runtime.run, lambda: ((), (), ())))
                await _hand_in(runtime.intakes[CATEGORY], stock)
                nursery.cancel_scope.cancel()
        if limit.cancelled_caught:
            raise BenchError(f"{zone} could not be filled within {_FILL_S:g} s")


async def _hand_in(intake: Intake, stock: Stock) -> None:
    outcomes: list[Outcome] = []
    for begin in range(0, len(stock), _UNIT):
        part = zip(stock.subjects[begin : begin + _UNIT], stock.payloads[begin : begin + _UNIT], strict=True)
        answered = trio.Event()

        def answer(outcome: Outcome, answered: trio.Event = answered) -> None:
            outcomes.append(outcome)
            answered.set()

        intake.submit([ProducedFact(subject, payload) for subject, payload in part], answer)
        await answered.wait()
    for outcome in outcomes:
        if isinstance(outcome, BsfgError):
            raise BenchError(f"the intake did not store: {outcome}")
        if any(result.outcome is not AppendOutcome.STORED for result in outcome):
            raise BenchError("the intake refused a fact")


def _is_ready(document: Path, pid: int) -> bool:
    with suppress(UnavailableError):
        status = StatusDocument.read(document)
        return status.ready and status.pid == pid
    return False
