# SPDX-License-Identifier: Apache-2.0
"""The hub: a zone's runtime plus the boundary contract served to peers over mutual TLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.boundary.service import Boundary
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
        self._peers = {zone: PeerStatus(zone) for zone in config.policy.peers}
        self._called: dict[ZoneId, float] = {}

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(self._zone.run, self._describe))
            keys = self._zone.keys
            config = ServerConfig(
                self._listen.host, self._listen.port, keys.server_context, self._zone.device_cas, audit=self._audit
            )
            await nursery.start(partial(serve, Boundary(self._zone.source, self._zone.sink), config))
            self._zone.ready_parts["listening"] = True
            self._zone.changed.fire()
            nursery.start_soon(self._watch_peers)

    async def _watch_peers(self) -> None:
        """A hub cannot dial: a peer that has not called for a while cannot be reached."""
        while True:
            await trio.sleep(1)
            for zone, called in self._called.items():
                if trio.current_time() - called > SILENT_AFTER_S:
                    self._zone.modes.unreachable(zone, trio.current_time())

    def _audit(self, record: AuditRecord) -> None:
        log_audit(record)
        for zone, status in self._peers.items():
            if record.caller == zone:
                self._called[zone] = trio.current_time()
                self._zone.modes.reached(zone, behind=False, now=trio.current_time())
                refused = status.refused + (record.outcome not in (OK, CANCELLED))
                self._peers[zone] = replace(
                    status, last_call_unix_ms=wall_clock_ms(), calls=status.calls + 1, refused=refused
                )

    def _describe(self) -> tuple[Sequence[CrossingReport], Sequence[PeerStatus], Sequence[Problem]]:
        return (), tuple(self._peers.values()), ()
