# SPDX-License-Identifier: Apache-2.0
"""What keys in a TPM cost the transfer: catching up in pages, with software keys and with a keeper, side by side.

The keeper's zones are enrolled as in the field. Their sessions are so short that some are renewed while a trial runs,
and receipts are signed in the TPM all the time. In the third way every TPM command waits longer, **simulated** by a
relay between keeper and TPM.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.brokers.binary import BrokerBinary
from appliance.dev.enrol import ensure_enrolled
from appliance.dev.environment import TPM_PORT, choose_ports
from appliance.dev.keeping import keeper_of
from appliance.dev.layout import ENTERPRISE, HOST, PLANT, ZONES, KeysChoice
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.keeper.port import KeeperState
from tests.bench.boxes import start_relay, start_tpm
from tests.bench.catchup import PULL, PUSH, CatchUp, Crossed, Size
from tests.bench.children import Child, python_command
from tests.bench.facts import FactFactory
from tests.bench.failure import BenchError
from tests.bench.sessions import FAST, SLOW, SLOW_S, SOFTWARE
from tests.bench.usage import cpu_s
from tests.bench.zones import AGENT, HUB, Zones

DIRECTIONS: Final = (PUSH, PULL)
_KEEPER: Final = "appliance.keys.keeper"
_READY_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class KeyedCrossing:
    """One trial, with what both keepers did meanwhile.

    :param commands, renewals: TPM commands and sessions. :param keys_cpu_s: CPU of keepers, TPMs and relays.
    """

    way: str
    crossed: Crossed
    commands: int
    renewals: int
    keys_cpu_s: float

    @property
    def rate(self) -> float:
        """Facts per second."""
        return self.crossed.rate


class KeyedZones(Zones):
    """Two zones whose keys are in software TPMs, directly or behind a slow bus."""

    def __init__(self, root: Path, binary: BrokerBinary) -> None:
        super().__init__(root, binary, KeysChoice.SWTPM)
        self._tpms: list[Child] = []
        self._keepers: list[Child] = []
        self._slow_ports: dict[ZoneId, int] = {}
        self._slow: bool | None = None

    async def start_tpms(self) -> None:
        """Start TPMs and relays, and enrol both boxes."""
        for zone in ZONES:
            self._tpms.append(await start_tpm(self.files(zone), self.environment.ports[TPM_PORT[zone]]))
        found = choose_ports(TPM_PORT.values())  # free now, so none of the TPMs'
        self._slow_ports = {zone: found[TPM_PORT[zone]] for zone in ZONES}
        for zone in ZONES:
            port = self.environment.ports[TPM_PORT[zone]]
            self._tpms.append(await start_relay(self.files(zone), self._slow_ports[zone], port, SLOW_S))
        await self._start_keepers(slow=False)
        await ensure_enrolled(self.environment, ENTERPRISE)
        await self.start_broker(ENTERPRISE)
        await self.start_node(ENTERPRISE, HUB)
        await ensure_enrolled(self.environment, PLANT)
        await self.start_broker(PLANT)
        await self.start_node(PLANT, AGENT)
        await self.use(slow=False)  # the agent has fetched the time, which is good until the machine starts again
        await self.stop()
        for zone in ZONES:
            self.empty(zone)

    async def use(self, *, slow: bool) -> None:
        """Let the keepers reach their TPMs directly, or through the relays; they are ready then."""
        if slow != self._slow:
            await self._start_keepers(slow=slow)
        for zone in ZONES:
            with trio.fail_after(_READY_S):
                while (await keeper_of(self.environment, zone).status()).state is not KeeperState.READY:  # noqa: ASYNC110
                    await trio.sleep(_LOOK_EVERY_S)

    async def work(self) -> tuple[int, int, float]:
        """TPM commands, sessions and CPU seconds of both keepers so far."""
        found = [await keeper_of(self.environment, zone).status() for zone in ZONES]
        used = sum(cpu_s(child.pid) for child in (*self._keepers, *self._tpms))
        return sum(status.commands for status in found), sum(status.renewals for status in found), used

    async def stop_tpms(self) -> None:
        """End keepers, relays and TPMs."""
        for child in (*self._keepers, *reversed(self._tpms)):
            await child.stop()
        self._keepers, self._tpms = [], []

    async def _start_keepers(self, *, slow: bool) -> None:
        for keeper in self._keepers:
            await keeper.stop()
        self._keepers = []
        for zone in ZONES:
            files, port = self.files(zone), self.environment.ports[TPM_PORT[zone]]
            direct, relayed = (f"swtpm:host={HOST},port={number}" for number in (port, self._slow_ports[zone]))
            text = files.keeper_config.read_text("utf-8").replace(*((direct, relayed) if slow else (relayed, direct)))
            write_atomically(files.keeper_config, text.encode(), PRIVATE)
            command = python_command(_KEEPER, "--config", files.keeper_config)
            keeper = await Child.start(command, files.root / "keeper.log", cwd=files.root)
            self._keepers.append(keeper)
            await self._serves(zone, keeper)
        self._slow = slow

    async def _serves(self, zone: ZoneId, keeper: Child) -> None:
        with trio.move_on_after(_READY_S):
            while True:
                try:
                    await keeper_of(self.environment, zone).status()
                except UnavailableError:
                    await trio.sleep(_LOOK_EVERY_S)
                    continue
                return
        raise BenchError(f"the keeper of {zone} does not answer: {keeper.tail()}")


class _PagesAlone(CatchUp):
    """Catching up in pages, and nothing else."""

    async def prepare(self) -> None:
        for zone in (PLANT, ENTERPRISE):
            async with self._running():
                await self._zones.start_broker(zone)
                await self._zones.fill(zone, self._stocks[zone].first(self._size.facts))
            self._zones.put_aside(zone, self._filled(zone, self._size.facts))


class KeysEffect:
    """The trials, in a folder. :meth:`prepare` first, :meth:`stop` in any case."""

    def __init__(
        self, root: Path, binary: BrokerBinary, facts: int, factory: Callable[[ZoneId, ZoneId], FactFactory]
    ) -> None:
        size = Size(facts, singles=1, native=1)
        self._zones = KeyedZones(root / "keyed" / "zones", binary)
        self._keyed = _PagesAlone(root / "keyed", binary, size, factory, self._zones)
        self._software = _PagesAlone(root / "software", binary, size, factory)
        self.ways: dict[tuple[str, str], Callable[[], Awaitable[KeyedCrossing]]] = {}
        for direction in DIRECTIONS:
            self.ways[direction, SOFTWARE] = partial(self._run_software, direction)
            for way, slow in ((FAST, False), (SLOW, True)):
                self.ways[direction, way] = partial(self._run_keyed, direction, way, slow=slow)

    async def prepare(self) -> None:
        """Start TPMs, enrol, fill all logs."""
        await self._zones.start_tpms()
        for bench in (self._software, self._keyed):
            await bench.prepare()

    async def stop(self) -> None:
        """End what runs on."""
        with trio.CancelScope(shield=True):
            await self._zones.stop()
            await self._zones.stop_tpms()

    async def _run_software(self, direction: str) -> KeyedCrossing:
        return KeyedCrossing(SOFTWARE, await self._software.run(direction), 0, 0, 0.0)

    async def _run_keyed(self, direction: str, way: str, *, slow: bool) -> KeyedCrossing:
        await self._zones.use(slow=slow)
        before = await self._zones.work()
        crossed = await self._keyed.run(direction)
        after = await self._zones.work()
        return KeyedCrossing(way, crossed, after[0] - before[0], after[1] - before[1], after[2] - before[2])
