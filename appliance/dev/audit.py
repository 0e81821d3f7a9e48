# SPDX-License-Identifier: Apache-2.0
"""Audits one zone of an environment, offline.

It uses the zone's own broker (started for the purpose if it does not run), its ledger and its registered keys. Nothing
is asked of the other zone, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import trio

from appliance.boundary.errors import BsfgError, UnavailableError, first_error
from appliance.boundary.names import ZoneId
from appliance.boundary.ports import KeysPort
from appliance.boundary.reasons import Reason
from appliance.brokers.binary import find_broker
from appliance.brokers.config import Local
from appliance.brokers.process import BrokerProcess
from appliance.dev.environment import FACTS_PORT, Environment
from appliance.dev.layout import HOST
from appliance.factlog.audit import LogAudit, audit_zone
from appliance.factlog.island import NatsIsland
from appliance.factlog.jetstream import JetStreamLogs
from appliance.factlog.ledger import SqliteLedger
from appliance.factlog.natswire import NatsWire
from appliance.factlog.streams import StreamAdmin
from appliance.node.config import NodeConfig
from appliance.node.keys import open_keys
from appliance.node.secrets import load_credentials

CONNECT_TIMEOUT_S = 5.0


async def audit(environment: Environment, zone: ZoneId) -> list[LogAudit]:
    """The findings for every log of a zone.

    :raises UnavailableError: its broker neither runs nor can be started, or refuses us.
    :raises IntegrityError: ``ledger_damaged``.
    """
    try:
        return await _audit(environment, zone)
    except* BsfgError as errors:
        failed = first_error(errors)
    raise failed  # not in the clause above: what is raised there comes out as a group


async def _audit(environment: Environment, zone: ZoneId) -> list[LogAudit]:
    config = NodeConfig.load(environment.layout.zone(zone).node_config)
    ledger_file = config.state_dir / "ledger.db"
    if not ledger_file.exists():
        raise UnavailableError(Reason.NOT_READY, f"{ledger_file} is not there; the zone has never run")
    agent, _ = load_credentials(config.broker.credentials)
    endpoint = config.broker.endpoint
    async with _broker(environment, zone), trio.open_nursery() as nursery:
        wire = NatsWire(endpoint.host, endpoint.port, agent, name="bsfg-audit")
        nursery.start_soon(wire.run)
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            await wire.wait_connected()
        if not wire.connected:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"{endpoint.host}:{endpoint.port} lets nobody in")
        island = NatsIsland(endpoint.host, endpoint.port, agent, name="bsfg-audit-admin")
        with closing(island), closing(SqliteLedger.open(ledger_file)) as ledger:
            logs = JetStreamLogs(config.policy, wire, StreamAdmin(island))
            results = await audit_zone(config.policy, logs, ledger, _keys(config))
        nursery.cancel_scope.cancel()
    return results


def _keys(config: NodeConfig) -> KeysPort:
    """Whose signatures are good, as the zone's registry says; no TPM is asked.

    :raises BsfgError: ``bad_certificate``, ``bad_document``: the registry cannot be read.
    """
    keys = open_keys(config)
    keys.standing.registry.refresh()
    if keys.standing.registry.problem is not None:
        raise keys.standing.registry.problem
    return keys.port


@asynccontextmanager
async def _broker(environment: Environment, zone: ZoneId) -> AsyncIterator[None]:
    """The zone's broker: the one that runs, or one on the same store for as long as the audit takes."""
    port = environment.ports[FACTS_PORT[zone]]
    try:
        stream = await trio.open_tcp_stream(HOST, port)
    except OSError:
        files = environment.layout.zone(zone)
        log = environment.layout.log(f"{zone}-audit")
        process = BrokerProcess(find_broker(), files.facts_config, log, Local(HOST, port))
        await process.start()
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await process.stop()
    else:
        await stream.aclose()
        yield
