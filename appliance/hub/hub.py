# SPDX-License-Identifier: Apache-2.0
"""The hub: a zone's runtime plus the boundary contract served to peers over mutual TLS.

Beside it the trust service (time, enrolment, attestation) and the guard of the leaf connections. None of them is needed
for local work; each starts by itself when what it needs is there, and the status says what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.boundary.service import Boundary
from appliance.hub.enrolment.folder import EnrolmentFolder
from appliance.hub.fleet import FleetMemory
from appliance.hub.leaf_guard import LeafGuard
from appliance.hub.trust_desk import TrustDesk
from appliance.node.config import NodeConfig
from appliance.node.status import CrossingReport, PeerStatus, Problem
from appliance.node.zone import ZoneRuntime, wall_clock_ms
from appliance.peer.audit import CANCELLED, OK, AuditRecord, log_audit
from appliance.peer.server import ServerConfig, serve

SILENT_AFTER_S: Final = 20.0
"""A peer long-polls every 5 s; after a few missed polls it counts as unreachable."""


class Hub:
    """The hub process of one zone."""

    def __init__(self, config: NodeConfig) -> None:
        if config.listen is None:
            raise RefusedError(Reason.BAD_INPUT, "a hub needs [listen]: where its peers dial in")
        self._listen = config.listen
        self._zone = ZoneRuntime("hub", config)
        self._zone.ready_parts["listening"] = False
        standing = self._zone.standing
        self._trust: TrustDesk | None = None
        self._leaves: LeafGuard | None = None
        if config.trust is not None and config.office is not None:
            self._trust = TrustDesk(config.zone, config.trust, config.office, config.keys.session, self._zone.keys)
        if config.control is not None:
            self._leaves = LeafGuard(config.control, standing.registry, self._refusal)
        office = config.office.folder if config.trust is not None and config.office is not None else None
        self._fleet = FleetMemory(None if office is None else EnrolmentFolder(office).fleet, self._attestation)
        if self._trust is not None:
            self._trust.heard = self._fleet.heard
        self._peers = {zone: PeerStatus(zone) for zone in config.policy.peers}
        self._called: dict[ZoneId, float] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(self._zone.run, self._describe))
            nursery.start_soon(self._serve_peers)
            if self._trust is not None:
                nursery.start_soon(self._trust.run)
            if self._leaves is not None:
                nursery.start_soon(self._leaves.run)
            nursery.start_soon(self._watch_peers)
            nursery.start_soon(self._fleet.run)

    async def _serve_peers(self) -> None:
        """Listen as soon as there is something to prove ourselves with; local work does not wait for it."""
        standing = self._zone.standing
        await standing.ready()
        config = ServerConfig(
            self._listen.host,
            self._listen.port,
            standing.credential,
            standing.registry,
            audit=self._audit,
            now=standing.now,
            handshakes=standing.handshakes,
            longest_session_s=standing.longest_session_s,
            admits=self._refusal,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, Boundary(self._zone.source, self._zone.sink), config))
            self._zone.ready_parts["listening"] = True
            self._zone.changed.fire()

    def _refusal(self, zone: ZoneId) -> BsfgError | None:
        """Why a proven zone may not come in now."""
        return self._trust.refusal(zone) if self._trust is not None else None

    async def _watch_peers(self) -> None:
        """A hub cannot dial: a peer that has not called for a while cannot be reached."""
        while True:
            await trio.sleep(1)
            for zone, called in self._called.items():
                if trio.current_time() - called > SILENT_AFTER_S:
                    self._zone.modes.unreachable(zone, trio.current_time())

    def _attestation(self, zone: ZoneId) -> str:
        return self._trust.state(zone) if self._trust is not None else ""

    def _audit(self, record: AuditRecord) -> None:
        log_audit(record)
        for zone, status in self._peers.items():
            if record.caller == zone:
                self._called[zone] = trio.current_time()
                self._fleet.heard(zone)
                self._zone.modes.reached(zone, behind=False, now=trio.current_time())
                refused = status.refused + (record.outcome not in (OK, CANCELLED))
                self._peers[zone] = replace(
                    status, last_call_unix_ms=wall_clock_ms(), calls=status.calls + 1, refused=refused
                )

    def _describe(self) -> tuple[Sequence[CrossingReport], Sequence[PeerStatus], Sequence[Problem]]:
        peers, problems = list(self._peers.values()), []
        if self._leaves is not None:
            peers = [replace(peer, leaf_age_s=self._leaves.age_of(ZoneId(peer.zone))) for peer in peers]
            problems += [Problem.of(self._leaves.problem, "leaf guard")] if self._leaves.problem is not None else []
        if self._trust is not None:
            peers = [self._trust.describe(peer) for peer in peers]
            problems += [Problem.of(error, where) for where, error in self._trust.problems()]
        silent = [(peer, self._fleet.silent_since(ZoneId(peer.zone))) for peer in peers]
        return (), [replace(peer, silent_since_unix_ms=since) for peer, since in silent], problems
