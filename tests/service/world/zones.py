# SPDX-License-Identifier: Apache-2.0
"""A world of two zones: its processes, what is done to them, who produces and reads there, and the judge's record."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import nats.errors
import nats.js.errors

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import EVERYONE, Category, ZoneId
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.brokers.binary import find_broker
from appliance.dev.environment import PRODUCERS, Environment
from appliance.dev.layout import ENTERPRISE, PLANT, ZONE_OF, ZONES, KeysChoice, Layout, ProcessName
from appliance.dev.link import Cut
from appliance.dev.pids import ProcessIdentity
from appliance.dev.provision import write_document
from appliance.node.status import CrossingReport, StatusDocument
from tests.judge import Confirm, Disaster, DisasterKind, Fault, Heal, Link, Recorder, Retention, Topology
from tests.service.world import ledgers
from tests.service.world.processes import Processes
from tests.service.world.producers import Producer
from tests.service.world.readers import ZoneReader

OPERATIONAL: Final = "operational"
AUDIT: Final = "audit"
TELEMETRY: Final = "telemetry"

RECEIPTS_EVERY_S: Final = 0.5
BROKER_AWAY: Final = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)
"""What nats-py raises when a broker is away."""


def peer_of(zone: ZoneId) -> ZoneId:
    """The other zone."""
    return ENTERPRISE if zone == PLANT else PLANT


SESSION_S = 30
"""Seconds that a session certificate of a keeper is good for: short, so that many are renewed in a test."""


class World:
    """Make it with :func:`running_world`."""

    def __init__(
        self, folder: Path, seed: int, categories: Mapping[Category, CategoryPolicy] | None, keys: KeysChoice
    ) -> None:
        self.seed, self.dice = seed, random.Random(seed)
        self.recorder = Recorder(folder / "history.jsonl")
        environment = Environment.generate(Layout.at(folder / "zones"), keys, SESSION_S)
        self.environment = environment if categories is None else replace(environment, categories=categories)
        environment.layout.root.mkdir()
        write_document(self.environment)
        login = self.environment.facts_login
        self.readers = {zone: ZoneReader(zone, login(zone, "reader"), login(zone, "agent")) for zone in ZONES}
        self.producers = {
            (zone, name): Producer(zone, name, login(zone, name), self.recorder, random.Random(f"{seed} {zone} {name}"))
            for zone in ZONES
            for name in PRODUCERS
        }
        self.kills: dict[str, int] = {}
        self.cuts = self.freezes = 0
        self._broker = find_broker()
        self._processes = Processes(self.environment, self._broker)
        self._receipts: set[tuple[ZoneId, ledgers.SeenReceipt]] = set()
        self._names: dict[str, str] = {}
        self._struck: set[ZoneId] = set()
        self._forgotten: dict[tuple[ZoneId, str], int] = {}
        self.recorder.record(Topology(links=tuple(Link(zone, peer_of(zone)) for zone in ZONES)))
        for category in sorted(self.expiring):
            for zone in ZONES:
                self.recorder.record(Retention(zone=zone, category=category, drop_unconfirmed=True))

    @property
    def expiring(self) -> frozenset[str]:
        """Categories of which the site lets facts expire so soon that a test sees it."""
        return frozenset(
            name
            for name, policy in self.environment.categories.items()
            if policy.when_full is WhenFull.DROP_OLDEST and policy.max_age_s
        )

    def producer(self, zone: ZoneId, name: str) -> Producer:
        """A producer by zone and user."""
        return self.producers[zone, name]

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything (again) and return when it is ready."""
        self._processes = Processes(self.environment, self._broker)
        await asyncio.to_thread(self._processes.start)

    async def stop(self) -> None:
        """End all processes in good order; what receipts said by then is on record."""
        await asyncio.to_thread(self._processes.stop)
        self.note_receipts()

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Stop the world for the block: to damage, copy and replace files."""
        await self.stop()
        yield
        await self.start()

    async def close(self) -> None:
        """End everything, whatever state it is in."""
        for producer in self.producers.values():
            await producer.close()
        await asyncio.to_thread(self._processes.stop)
        self.recorder.close()

    # -- faults ------------------------------------------------------------------------------------------------------

    async def kill(self, process: ProcessName) -> bool:
        """SIGKILL; the supervisor starts it again. ``False`` when it does not run right now."""
        killed = await asyncio.to_thread(self._processes.kill, process)
        if killed:
            self.kills[process] = self.kills.get(process, 0) + 1
            self.recorder.record(Fault(name=f"kill {process}", zone=ZONE_OF[process]))
        return killed

    async def kill_surely(self, *processes: ProcessName) -> None:
        """Kill each, waiting for it to run if need be."""
        for process in processes:
            async with asyncio.timeout(30):
                while not await self.kill(process):  # noqa: ASYNC110 - nothing announces it
                    await asyncio.sleep(0.01)

    async def freeze(self, process: ProcessName, seconds: float) -> None:
        """Stop a process in the middle of whatever it does, and let it go on later, if it is not killed meanwhile."""
        pid = await asyncio.to_thread(self._processes.pid, process)
        identity = ProcessIdentity.of(pid) if pid is not None else None
        if identity is not None and identity.signal(signal.SIGSTOP):
            self.freezes += 1
            self.recorder.record(Fault(name=f"freeze {process}", zone=ZONE_OF[process]))
            try:
                await asyncio.sleep(seconds)
            finally:
                identity.signal(signal.SIGCONT)
            self.recorder.record(Heal(name=f"freeze {process}", zone=ZONE_OF[process]))

    async def cut(self, how: Cut = Cut.RESET) -> None:
        """Cut the simulated link."""
        self.cuts += 1
        self.recorder.record(Fault(name=f"link {how}"))
        await asyncio.to_thread(self._processes.cut, how)

    async def heal(self) -> None:
        """Heal the simulated link."""
        await asyncio.to_thread(self._processes.heal)
        self.recorder.record(Heal(name="link"))

    # -- edits of a stopped world ------------------------------------------------------------------------------------

    def ledger(self, zone: ZoneId) -> Path:
        """The ledger of a zone."""
        return self.environment.layout.zone(zone).state / "ledger.db"

    def delete_ledger(self, zone: ZoneId) -> None:
        """The ledger is gone; the logs are all there, so nothing may be lost."""
        found = list(self.ledger(zone).parent.glob("ledger.db*"))
        assert found, "there is no ledger to delete"
        for path in found:
            path.unlink()
        self.recorder.record(Fault(name="ledger deleted", zone=zone))

    def wipe_logs(self, zone: ZoneId) -> None:
        """All logs a zone keeps are gone."""
        shutil.rmtree(self.environment.layout.zone(zone).facts_store)
        self.struck(zone, DisasterKind.LOG_WIPED)

    def copy_zone(self, zone: ZoneId, to: Path) -> None:
        """Copy logs and ledger of a zone."""
        files = self.environment.layout.zone(zone)
        shutil.copytree(files.facts_store, to / "facts")
        shutil.copytree(files.state, to / "state")

    def restore_zone(self, zone: ZoneId, copy: Path) -> None:
        """Put an older copy of logs and ledger in place."""
        _replace(self.environment.layout.zone(zone).state, copy / "state")
        self.restore_logs(zone, copy)

    def restore_logs(self, zone: ZoneId, copy: Path) -> None:
        """Put an older copy of the logs in place; the ledger knows better."""
        _replace(self.environment.layout.zone(zone).facts_store, copy / "facts")
        self.struck(zone, DisasterKind.LOG_RESTORED)

    def struck(self, zone: ZoneId, kind: DisasterKind) -> None:
        """Declare a disaster: what producers were told of this zone's logs so far holds no more."""
        self.recorder.record(Disaster(zone=zone, kind=kind))
        self._struck.add(zone)
        for (where, name), producer in self.producers.items():
            if where == zone:
                self._forgotten[zone, name] = len(producer.acknowledged)

    # -- looking -----------------------------------------------------------------------------------------------------

    async def read(self, zone: ZoneId) -> int:
        """Read a zone into the history; how many facts it holds. Raises what nats-py raises."""
        await self.learn_names()
        endings = await asyncio.to_thread(ledgers.ended, self.ledger(zone), zone)
        return await self.readers[zone].read(self.recorder, self._names, self.expiring, endings)

    async def try_read(self, zone: ZoneId) -> bool:
        """Read a zone while things break; a reading that is interrupted does not count."""
        try:
            await self.read(zone)
        except BROKER_AWAY:
            return False
        return True

    async def learn_names(self) -> None:
        """A reader's own epoch of a log that was never damaged is another name for the same log."""
        for zone, reader in self.readers.items():
            if zone not in self._struck:
                for stream in await reader.streams():
                    if stream.origin == zone:
                        self._names |= stream.aliases

    def note_receipts(self) -> None:
        """Put on record what receipts both ledgers show that they did not show before. Blocking."""
        for observer in ZONES:
            for receipt in ledgers.receipts(self.ledger(observer)):
                if (observer, receipt) not in self._receipts:
                    self._receipts.add((observer, receipt))
                    self.recorder.record(
                        Confirm(
                            observer=observer,
                            receiver=receipt.receiver,
                            origin=receipt.origin,
                            category=receipt.category,
                            epoch=self._names.get(receipt.epoch, receipt.epoch),
                            offset=receipt.offset,
                        )
                    )

    async def watch_receipts(self) -> None:
        """Look for receipts until cancelled."""
        while True:
            await asyncio.to_thread(self.note_receipts)
            await asyncio.sleep(RECEIPTS_EVERY_S)

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def arrived(self, timeout_s: float = 60.0) -> None:
        """Wait until each zone's logs say that they received all that the other's producers were told is stored.

        :raises TimeoutError: with where it stands.
        """
        deadline = time.monotonic() + timeout_s
        while missing := await self.missing():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout_s:g} s still wanted: {missing}\n{self._stand()}")
            await asyncio.sleep(0.1)

    async def confirmed(self, timeout_s: float = 60.0) -> None:
        """Wait until the agent says that all is confirmed by receipts, at both ends."""
        began_ms = int(time.time() * 1000)
        await self.until(
            lambda c: c.lag == 0 and c.confirmed == c.offset and c.last_exchange_unix_ms > began_ms, timeout_s
        )

    async def until(self, holds: Callable[[CrossingReport], bool], timeout_s: float = 60.0) -> None:
        """Wait until something holds of every crossing. :raises TimeoutError: with where it stands."""
        deadline = time.monotonic() + timeout_s
        while not self._all_crossings(holds):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s:g} s\n{self._stand()}")
            await asyncio.sleep(0.1)

    def status(self, zone: ZoneId) -> StatusDocument | None:
        """What the zone's node says about itself, if it says something."""
        try:
            return StatusDocument.read(self.environment.layout.zone(zone).status_document)
        except UnavailableError:
            return None

    # -- inside ------------------------------------------------------------------------------------------------------

    def _all_crossings(self, holds: Callable[[CrossingReport], bool]) -> bool:
        status = self.status(PLANT)
        return status is not None and bool(status.crossings) and all(map(holds, status.crossings))

    async def missing(self) -> dict[tuple[ZoneId, str], int]:
        """What is not received yet: the last offset acknowledged for the other zone, by origin and category."""
        wanted: dict[tuple[ZoneId, str], int] = {}
        for (zone, name), producer in self.producers.items():
            for fact, offset in producer.acknowledged[self._forgotten.get((zone, name), 0) :]:
                if fact.to in (EVERYONE, peer_of(zone)):
                    wanted[zone, fact.category] = max(offset, wanted.get((zone, fact.category), 0))
        with suppress(*BROKER_AWAY):
            for zone, reader in self.readers.items():
                received = await self.readers[peer_of(zone)].positions()
                for stream in await reader.streams():
                    if stream.origin == zone:
                        epochs = stream.aliases or (stream.epoch,)
                        at = max(received.get((zone, stream.category, epoch), 0) for epoch in epochs)
                        if at >= wanted.get((zone, stream.category), 0):
                            wanted.pop((zone, stream.category), None)
        return wanted

    def _stand(self) -> str:
        lines = []
        for zone in ZONES:
            if (status := self.status(zone)) is None:
                lines.append(f"{zone}: no status")
                continue
            lines += [f"{zone}: {problem.where}: {problem.reason}: {problem.detail}" for problem in status.problems]
            lines += [str(crossing) for crossing in status.crossings]
        return "\n".join(lines)


def _replace(folder: Path, copy: Path) -> None:
    """Put a copy in the place of a folder."""
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)


@asynccontextmanager
async def running_world(
    folder: Path,
    seed: int,
    categories: Mapping[Category, CategoryPolicy] | None = None,
    keys: KeysChoice = KeysChoice.SOFTWARE,
) -> AsyncIterator[World]:
    """A world that runs, whose receipts are watched, and that is ended whatever happens.

    :param keys: software TPMs where keys matter; files where only facts do, because they are quicker.
    """
    world = World(folder, seed, categories, keys)
    await world.start()
    try:
        async with in_background(world.watch_receipts()):
            yield world
    finally:
        await world.close()


@asynccontextmanager
async def in_background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run beside the block: a failure ends the block, the end of the block ends the work."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        yield
        for task in tasks:
            task.cancel()
