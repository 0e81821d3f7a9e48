# SPDX-License-Identifier: Apache-2.0
"""The agent: a zone's runtime plus one crossing per category and direction over the peer it dials.

It pulls what the hub has for its zone and pushes what its zone has for the hub, obeying the receiver's frontier and
credit. When the boundary cannot be reached, local work goes on (mode ``autonomous``).

It dials with the session that the keeper writes. Until there is one, the crossings wait, and the status says for what.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from appliance.agent.trust import TrustLoop
from appliance.boundary.claims import Signal
from appliance.boundary.crossing import Crossing, Observer
from appliance.boundary.errors import RefusedError
from appliance.boundary.modes import Mode
from appliance.boundary.reasons import Reason
from appliance.node.config import Endpoint, NodeConfig, Uplink
from appliance.node.status import CrossingReport, PeerStatus, Problem
from appliance.node.zone import ZoneRuntime, wall_clock_ms
from appliance.peer.client import ClientConfig, PeerClient, open_peer
from appliance.peer.dial import HttpProxy
from appliance.peer.trust_client import TrustClient, trust_client_context


class Agent:
    """The agent process of one zone."""

    def __init__(self, config: NodeConfig) -> None:
        if config.uplink is None:
            raise RefusedError(Reason.BAD_INPUT, "an agent needs [uplink]: the hub it dials")
        self._uplink: Uplink = config.uplink
        self._config = config
        self._zone = ZoneRuntime("agent", config)
        self._trust = self._make_trust()
        self._crossings: list[tuple[str, Crossing]] = []
        self._back = Signal()

    async def run(self) -> None:
        """Run until cancelled."""
        endpoint = self._uplink.endpoint
        if endpoint is None:
            await self._zone.run(self._describe)
            return
        async with open_peer(self._client_config(endpoint)) as peer, trio.open_nursery() as nursery:
            if self._trust is not None:
                nursery.start_soon(self._trust.run)
            await nursery.start(partial(self._zone.run, self._describe))
            self._crossings = self._make_crossings(peer)
            nursery.start_soon(self._follow_standing)
            for _, crossing in self._crossings:
                nursery.start_soon(self._cross, crossing)

    async def _cross(self, crossing: Crossing) -> None:
        await self._zone.standing.ready()
        await crossing.run()

    async def _follow_standing(self) -> None:
        """A session that came back ends the crossings' pauses."""
        standing = self._zone.standing
        while True:
            changed = standing.changed.next()
            self._zone.changed.fire()
            if standing.proves:
                self._back.fire()
            await changed.wait()

    def _make_trust(self) -> TrustLoop | None:
        """Time and attestation, where there is a keeper to carry them for."""
        keeper, endpoint, hub_ca = (
            self._zone.keys.keeper,
            self._config.trust,
            self._zone.standing.registry.folder.hub_ca,
        )
        if keeper is None or endpoint is None:
            return None
        tls = partial(trust_client_context, hub_ca)
        hub = TrustClient(self._uplink.zone, endpoint.host, endpoint.port, tls, proxy=self._proxy)
        return TrustLoop(self._config.zone, keeper, hub, changed=self._zone.changed.fire)

    def _client_config(self, endpoint: Endpoint) -> ClientConfig:
        standing = self._zone.standing
        return ClientConfig(
            self._config.zone,
            self._uplink.zone,
            endpoint.host,
            endpoint.port,
            standing.credential,
            standing.registry,
            now=standing.now,
            handshakes=standing.handshakes,
            longest_session_s=standing.longest_session_s,
            proxy=self._proxy,
        )

    @property
    def _proxy(self) -> HttpProxy | None:
        at = self._config.proxy
        return None if at is None else HttpProxy(at.host, at.port)

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
        found = [pair for _, crossing in self._crossings for pair in crossing.status.problems()]
        own = self._zone.standing.problem
        problems = [Problem.of(error, where) for error, where in found if own is None or error.reason is not own.reason]
        if self._trust is not None:
            for error, _ in found:
                self._trust.heard(error)
            problems += [Problem.of(error, duty) for duty, error in self._trust.problems()]
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
