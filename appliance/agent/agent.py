# SPDX-License-Identifier: Apache-2.0
"""The agent: a zone's runtime plus one crossing per category and direction over the peer it dials.

It pulls what the hub has for its zone and pushes what its zone has for the hub, obeying the receiver's frontier and
credit. When the boundary cannot be reached, local work goes on (mode ``autonomous``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from appliance.boundary.claims import Signal
from appliance.boundary.crossing import Crossing, Observer
from appliance.boundary.errors import RefusedError
from appliance.boundary.modes import Mode
from appliance.boundary.reasons import Reason
from appliance.node.config import NodeConfig, Uplink
from appliance.node.status import CrossingReport, PeerStatus, Problem
from appliance.node.zone import ZoneRuntime, wall_clock_ms
from appliance.peer.client import ClientConfig, PeerClient, open_peer


class Agent:
    """The agent process of one zone."""

    def __init__(self, config: NodeConfig) -> None:
        if config.uplink is None:
            raise RefusedError(Reason.BAD_INPUT, "an agent needs [uplink]: the hub it dials")
        self._uplink: Uplink = config.uplink
        self._config = config
        self._zone = ZoneRuntime("agent", config)
        self._crossings: list[tuple[str, Crossing]] = []
        self._back = Signal()

    async def run(self) -> None:
        """Run until cancelled."""
        async with open_peer(self._client_config()) as peer, trio.open_nursery() as nursery:
            await nursery.start(partial(self._zone.run, self._describe))
            self._crossings = self._make_crossings(peer)
            for _, crossing in self._crossings:
                nursery.start_soon(crossing.run)

    def _client_config(self) -> ClientConfig:
        keys = self._zone.keys
        return ClientConfig(
            self._config.zone,
            self._uplink.zone,
            self._uplink.endpoint.host,
            self._uplink.endpoint.port,
            keys.client_context,
            self._zone.device_cas,
        )

    def _make_crossings(self, peer: PeerClient) -> list[tuple[str, Crossing]]:
        here, hub = self._config.zone, self._uplink.zone
        policy = self._config.policy.peers[hub]
        observer = Observer(self._reached, self._unreachable)
        pulls = [
            ("pull", Crossing(f"pull {c}", c, hub, here, peer, self._zone.sink, observer=observer, back=self._back))
            for c in sorted(policy.append)
        ]
        pushes = [
            ("push", Crossing(f"push {c}", c, here, hub, self._zone.source, peer, observer=observer, back=self._back))
            for c in sorted(policy.fetch)
        ]
        return pulls + pushes

    def _reached(self, name: str, behind: bool) -> None:
        modes = self._zone.modes
        was = modes.mode
        modes.reached(name, behind=behind, now=trio.current_time())
        if was is Mode.AUTONOMOUS:
            self._back.fire()
        if was is not modes.mode:
            self._zone.changed.fire()

    def _unreachable(self, name: str) -> None:
        was = self._zone.modes.mode
        if self._zone.modes.unreachable(name, trio.current_time()) is not was:
            self._zone.changed.fire()

    def _describe(self) -> tuple[Sequence[CrossingReport], Sequence[PeerStatus], Sequence[Problem]]:
        reports = [_report(direction, crossing, self._uplink.zone) for direction, crossing in self._crossings]
        problems = [
            Problem.of(crossing.status.problem, crossing.status.name)
            for _, crossing in self._crossings
            if crossing.status.problem is not None
        ]
        return reports, (), problems


def _report(direction: str, crossing: Crossing, peer: str) -> CrossingReport:
    status = crossing.status
    age_s = None if status.last_exchange is None else trio.current_time() - status.last_exchange
    return CrossingReport(
        name=status.name,
        direction=direction,
        category=crossing.category,
        peer=peer,
        step=status.step,
        epoch=status.epoch.hex(),
        offset=status.offset,
        lag=status.lag,
        confirmed=status.confirmed,
        facts=status.facts,
        pages=status.pages,
        gaps=status.gaps,
        reachable=status.reachable,
        last_exchange_unix_ms=0 if age_s is None else wall_clock_ms() - int(age_s * 1000),
    )
