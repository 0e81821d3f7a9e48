# SPDX-License-Identifier: Apache-2.0
"""A zone's runtime: broker connection, logs, ledger, store buffers, intake, source and sink, put together.

What agent and hub have in common. Local work needs nothing but the local broker: intake starts as soon as the broker
has been proven durable, whatever the boundary is like.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio
from cryptography import x509

import appliance
from appliance.boundary.claims import IdClaims, Signal
from appliance.boundary.confirmed import ConfirmedCheck
from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError, first_error
from appliance.boundary.intake import Intake, ProducerDesk
from appliance.boundary.modes import ModeMachine
from appliance.boundary.names import Category
from appliance.boundary.producing import AppendOutcome
from appliance.boundary.reasons import Reason
from appliance.boundary.records import Incident
from appliance.boundary.retention import Trimmer
from appliance.boundary.sink import Sink
from appliance.boundary.source import Source
from appliance.boundary.store import StoreBuffer
from appliance.boundary.suspending import NobodySuspended, SuspensionsPort
from appliance.brokers.desk import ReaderDesk
from appliance.brokers.durability import REQUEST as DURABILITY_REQUEST
from appliance.brokers.durability import BrokerReport, parse_jsz, require_durable
from appliance.factlog.island import NatsIsland
from appliance.factlog.jetstream import JetStreamLogs
from appliance.factlog.ledger import SqliteLedger
from appliance.factlog.nats_intake import NatsIntake
from appliance.factlog.natslogin import client_tls
from appliance.factlog.natswire import NatsWire
from appliance.factlog.notify import ServiceManager
from appliance.factlog.streams import StreamAdmin
from appliance.node import certificates
from appliance.node.config import Conflicts, Endpoint, NodeConfig, PlantConfig
from appliance.node.keys import open_keys
from appliance.node.secrets import LiveTokens, load_credentials
from appliance.node.status import (
    BrokerStatus,
    CertificateStatus,
    CrossingReport,
    PeerStatus,
    Problem,
    StatusDocument,
    StoreStatus,
    hint_of,
)
from appliance.node.suspensions import FileSuspensions
from appliance.peer.plant import PlantTls, serve_plant
from appliance.peer.server import ProducerServerConfig, serve_producers

_log = logging.getLogger(__name__)

STATUS_EVERY_S: Final = 1.0
SETTLE_AGAIN_S: Final = 0.5
PLANT_AGAIN_S: Final = 2.0
RECENT_INCIDENTS: Final = 20


class ZoneRuntime:
    """Everything of one zone but the boundary itself. Create, then :meth:`run`."""

    def __init__(self, name: str, config: NodeConfig) -> None:
        self.name, self.config = name, config
        self.keys = open_keys(config)
        self.standing = self.keys.standing
        self.modes = ModeMachine(trio.current_time())
        self.incidents: deque[Problem] = deque(maxlen=RECENT_INCIDENTS)
        self.ready_parts: dict[str, bool] = {"broker": False, "stores": False}
        endpoint = config.broker.endpoint
        agent, system = load_credentials(config.broker.credentials)
        tls = None if config.broker.authority is None else client_tls(config.broker.authority)
        self.wire = NatsWire(endpoint.host, endpoint.port, agent, name=f"bsfg-{name}", tls=tls)
        self._system = NatsWire(endpoint.host, endpoint.port, system, name=f"bsfg-{name}-proof", tls=tls)
        self._island = NatsIsland(endpoint.host, endpoint.port, agent, name=f"bsfg-{name}-admin", tls=tls)
        self.ledger = SqliteLedger.open(config.state_dir / "ledger.db")
        logs = JetStreamLogs(config.policy, self.wire, StreamAdmin(self._island))
        claims = IdClaims()
        self.stores = {
            category: StoreBuffer(config.zone, category, logs, self.ledger, claims, note=self._note)
            for category in config.policy.categories
        }
        self.source = Source(config.policy, self.stores, self.ledger, self.keys.port, note=self._note)
        self.sink = Sink(
            config.policy, logs, self.ledger, self.keys.port, claims, wall_clock_ms=wall_clock_ms, note=self._note
        )
        self._file_suspensions = (
            FileSuspensions(config.state_dir, status=config.status_dir)
            if config.intake.conflicts is Conflicts.SUSPEND
            else None
        )
        self._suspensions: SuspensionsPort = self._file_suspensions or NobodySuspended()
        self.intakes = {category: Intake(store, self._suspensions) for category, store in self.stores.items()}
        self.confirmed = ConfirmedCheck(self.source, config.policy)
        self.desk = ProducerDesk(config.zone, self.intakes)
        self.report: BrokerReport | None = None
        self._problems: dict[str, BsfgError] = {}
        self._settled: set[Category] = set()
        self.changed = Signal()
        self._readers = ReaderDesk(self.wire)
        self._manager = ServiceManager()
        for category, intake in self.intakes.items():
            NatsIntake(config.zone, category, self.wire, intake)

    async def run(
        self,
        describe: Callable[[], tuple[Sequence[CrossingReport], Sequence[PeerStatus], Sequence[Problem]]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until cancelled; started once local work is possible. ``describe`` adds the boundary to the status."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publish_status, describe)
                nursery.start_soon(self.standing.run)
                nursery.start_soon(self.wire.run)
                nursery.start_soon(self._readers.run)
                nursery.start_soon(self._system.run)
                await self._prove_broker()
                nursery.start_soon(self._prove_again)
                nursery.start_soon(Trimmer(self.config.policy, self.stores, self.ledger).run)
                nursery.start_soon(self.sink.run)
                nursery.start_soon(self.confirmed.run)
                if self._file_suspensions is not None:
                    nursery.start_soon(self._file_suspensions.run)
                for store in self.stores.values():
                    nursery.start_soon(self._settle, store)
                for intake in self.intakes.values():
                    nursery.start_soon(intake.run)
                tokens = LiveTokens(self.config.intake.tokens)
                await nursery.start(
                    serve_producers, self.desk, self._producer_config(self.config.intake.endpoint, tokens)
                )
                if self.config.plant is not None:
                    nursery.start_soon(self._open_to_plant, nursery, self.config.plant, tokens)
                task_status.started()
        except* BsfgError as errors:  # the last word of the status document says why
            failed = first_error(errors)
            if failed not in self._problems.values():
                self._problems["start"] = failed
            self._write_status(self.status())
            raise
        finally:
            self._manager.stopping()
            self.ledger.close()
            self._island.close()

    def status(
        self,
        crossings: Sequence[CrossingReport] = (),
        peers: Sequence[PeerStatus] = (),
        problems: Sequence[Problem] = (),
    ) -> StatusDocument:
        """The status document of this moment."""
        now = wall_clock_ms()
        mode_age_ms = int((trio.current_time() - self.modes.since) * 1000)
        own = [Problem.of(error, where) for where, error in self._problems.items()]
        own += [Problem.of(i.problem, f"intake {c}") for c, i in self.intakes.items() if i.problem is not None]
        own += [
            Problem(
                Reason.PRODUCER_SUSPENDED, each.detail, hint_of(Reason.PRODUCER_SUSPENDED), f"producer {each.producer}"
            )
            for each in self._suspensions.all()
        ]
        own += [Problem.of(error, where) for where, error in self.confirmed.contradictions.items()]
        if self.sink.receipt_problem is not None:
            own.append(Problem.of(self.sink.receipt_problem, "receipts"))
        if not self.wire.connected:
            reason = Reason.BROKER_UNAVAILABLE
            own.append(Problem(reason, f"port {self.config.broker.endpoint.port}", hint_of(reason), "broker"))
        found = [*self.standing.certificates(), *self._plant_certificates()]
        own += [*self._boundary_problems(), *certificates.problems(found)]
        return StatusDocument(
            name=self.name,
            zone=self.config.zone,
            version=appliance.__version__,
            pid=os.getpid(),
            ready=all(self.ready_parts.values()),
            mode=self.modes.mode,
            mode_since_unix_ms=now - mode_age_ms,
            mode_changes=self.modes.changes,
            updated_at_unix_ms=now,
            keys=self.standing.kind,
            boundary=self.standing.status(),
            certificates=tuple(found),
            broker=self._broker_status(),
            stores=tuple(self._store_status(category) for category in self.stores),
            crossings=tuple(crossings),
            peers=tuple(peers),
            problems=(*own, *problems),
            incidents=tuple(self.incidents),
        )

    def _boundary_problems(self) -> list[Problem]:
        """What keeps this node from proving itself, or from knowing others."""
        standing = self.standing
        found = {"boundary": standing.problem, "registry": standing.registry.problem}
        if standing.problem is None:  # the session is good for a while; nobody renews it
            found["keeper"] = standing.keeper_problem
        return [Problem.of(error, where) for where, error in found.items() if error is not None]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _note(self, incident: Incident) -> None:
        self.incidents.append(Problem(incident.reason, incident.detail, hint_of(incident.reason), "log"))

    async def _prove_broker(self) -> None:
        """The broker must say itself that it fsyncs before it acknowledges; one that does not is not used."""
        while True:
            await self.wire.wait_connected()
            await self._system.wait_connected()
            try:
                answer = await self._system.request(DURABILITY_REQUEST)
                report = parse_jsz(answer.payload)
                require_durable(report)
            except UnavailableError as error:
                self._problems["broker"] = error
                if error.reason is not Reason.BROKER_UNAVAILABLE:
                    raise
                await trio.sleep(SETTLE_AGAIN_S)
                continue
            self.report = report
            self._problems.pop("broker", None)
            self.ready_parts["broker"] = True
            _log.info("nats-server %s is durable: sync_interval is always", report.version)
            return

    async def _prove_again(self) -> None:
        """A broker that comes back may have another configuration."""
        while True:
            connects = self._system.connects
            while self._system.connects == connects:
                await self._system.changed.next().wait()
            await self._prove_broker()

    async def _settle(self, store: StoreBuffer) -> None:
        """Open a category's log once at start; later it settles itself whenever it is used."""
        where = f"store {store.category}"
        while True:
            try:
                await store.settled()
            except UnavailableError as error:
                self._problems[where] = error
                await trio.sleep(SETTLE_AGAIN_S)
                continue
            except BsfgError as error:  # this category stays closed; the others work
                _log.error("%s: %s", where, error)
                self._problems[where] = error
            else:
                self._problems.pop(where, None)
            break
        self._settled.add(store.category)
        self.ready_parts["stores"] = len(self._settled) == len(self.stores)
        self.changed.fire()

    async def _open_to_plant(self, nursery: trio.Nursery, plant: PlantConfig, tokens: LiveTokens) -> None:
        """Listen on the plant interface, as soon as it has its address; the work on loopback does not wait for it."""
        where = "plant interface"
        config = self._producer_config(plant.endpoint, tokens)
        while True:
            try:
                await nursery.start(serve_plant, self.desk, config, PlantTls(plant.certificate))
            except RefusedError as error:
                self._problems[where] = error
                await trio.sleep(PLANT_AGAIN_S)
                continue
            self._problems.pop(where, None)
            return

    def _plant_certificates(self) -> list[CertificateStatus]:
        """That of the plant-side listeners, by the wall clock; boundary time is not theirs to wait for."""
        if self.config.plant is None:
            return []
        try:
            found = x509.load_pem_x509_certificate(self.config.plant.certificate.read_bytes())
        except (OSError, ValueError):
            return []  # the listener's own problem says so
        return [certificates.describe("plant side", certificates.CertificateKind.LOCAL, found, time.time())]

    def _producer_config(self, endpoint: Endpoint, tokens: LiveTokens) -> ProducerServerConfig:
        return ProducerServerConfig(endpoint.host, endpoint.port, self.config.zone, tokens)

    def _broker_status(self) -> BrokerStatus:
        report = self.report
        return BrokerStatus(
            connected=self.wire.connected,
            version=report.version if report else "",
            durable=report is not None and report.sync_always,
            connects=self.wire.connects,
        )

    def _store_status(self, category: Category) -> StoreStatus:
        counts, end = self.intakes[category].counts, self.stores[category].end
        return StoreStatus(
            category,
            end.offset,
            counts[AppendOutcome.STORED],
            counts[AppendOutcome.DUPLICATE],
            counts[AppendOutcome.CONFLICT],
            counts[AppendOutcome.INVALID],
            end.head.hex(),
        )

    def _write_status(self, document: StatusDocument) -> None:
        """A full disk stops the reports, not the work."""
        try:
            document.write(self.config.status_dir)
        except OSError as error:
            _log.warning("status document: %s", error)

    async def _publish_status(
        self, describe: Callable[[], tuple[Sequence[CrossingReport], Sequence[PeerStatus], Sequence[Problem]]]
    ) -> None:
        while True:
            document = self.status(*describe())
            await trio.to_thread.run_sync(self._write_status, document)
            self._manager.alive(ready=document.ready, text=f"{document.mode}, {len(document.problems)} problems")
            with trio.move_on_after(STATUS_EVERY_S):
                await self.changed.next().wait()


def wall_clock_ms() -> int:
    """Milliseconds since 1970 by the wall clock; for people, never for order."""
    return int(time.time() * 1000)
