# SPDX-License-Identifier: Apache-2.0
"""Agent and hub as objects, without running them: roles, crossings, modes by what the crossings report, status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from appliance.agent.agent import Agent
from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.modes import Mode
from appliance.boundary.reasons import Reason
from appliance.boundary.records import Incident
from appliance.dev.environment import Environment
from appliance.dev.layout import ENTERPRISE, PLANT, KeysChoice, Layout
from appliance.dev.provision import provision
from appliance.hub.hub import SILENT_AFTER_S, Hub
from appliance.node.config import NodeConfig
from appliance.node.status import StatusDocument
from appliance.node.zone import RECENT_INCIDENTS, ZoneRuntime
from appliance.peer.audit import OK, AuditRecord
from appliance.peer.client import PeerClient

PUSH, PULL = "push audit", "pull audit"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Two zones on disk; nothing runs."""
    made = Environment.generate(Layout.at(tmp_path_factory.mktemp("zones") / "dev"), KeysChoice.SOFTWARE)
    provision(made)
    return made


def config(environment: Environment, zone: str) -> NodeConfig:
    """The configuration of a zone's node."""
    return NodeConfig.load(environment.layout.zone(PLANT if zone == "plant" else ENTERPRISE).node_config)


@contextmanager
def zone_of(node: Agent | Hub) -> Iterator[ZoneRuntime]:
    """A node's runtime, closed afterwards."""
    zone = node._zone
    try:
        yield zone
    finally:
        zone.ledger.close()
        zone._island.close()


async def test_each_role_needs_its_section(environment: Environment) -> None:
    """An agent dials, a hub listens."""
    with pytest.raises(RefusedError, match="uplink"):
        Agent(config(environment, "hub"))
    with pytest.raises(RefusedError, match="listen"):
        Hub(config(environment, "plant"))


async def test_an_agent_has_a_crossing_for_each_category_and_direction(environment: Environment) -> None:
    """As the policy says what its hub may fetch and append."""
    agent = Agent(config(environment, "plant"))
    with zone_of(agent) as zone:
        made = agent._make_crossings(cast(PeerClient, object()))
        names = {(direction, crossing.status.name) for direction, crossing in made}
        expected = {(d, f"{d} {c}") for d in ("push", "pull") for c in ("audit", "operational", "telemetry")}
        assert names == expected
        agent._crossings = made
        reports, peers, problems = agent._describe()
        document = zone.status(reports, peers, problems)
        assert {report.name for report in document.crossings} == {name for _, name in names}
        assert all(report.peer == "enterprise" and not report.reachable for report in document.crossings)


async def test_modes_follow_what_the_crossings_report(environment: Environment) -> None:
    """Nothing is proven at first; a backlog after being away is reconciling, a backlog at other times is load."""
    agent = Agent(config(environment, "plant"))
    with zone_of(agent) as zone:
        modes = []

        def seen() -> Mode:
            modes.append(zone.modes.mode)
            return modes[-1]

        assert seen() is Mode.AUTONOMOUS
        agent._reached(PUSH, behind=True)
        assert seen() is Mode.RECONCILING
        agent._reached(PULL, behind=False)
        assert seen() is Mode.RECONCILING  # the other one still has to drain
        agent._reached(PUSH, behind=False)
        assert seen() is Mode.NORMAL
        agent._reached(PUSH, behind=True)
        assert seen() is Mode.NORMAL
        agent._reached(PUSH, behind=False)
        agent._unreachable(PULL)
        assert seen() is Mode.AUTONOMOUS
        agent._unreachable(PUSH)
        agent._reached(PUSH, behind=False)
        assert seen() is Mode.RECONCILING  # what waits in the other direction is not known yet
        agent._unreachable(PUSH)
        assert seen() is Mode.AUTONOMOUS
        agent._reached(PUSH, behind=False)
        agent._reached(PULL, behind=False)
        assert seen() is Mode.NORMAL
        assert zone.status().mode_changes == zone.modes.changes == 7
        assert zone.status().mode == "normal"


async def test_a_change_of_mode_is_told_at_once_and_ends_pauses(environment: Environment) -> None:
    """The status is written at the change, not at the next tick; the other crossings stop waiting."""
    agent = Agent(config(environment, "plant"))
    with zone_of(agent) as zone:
        changed, back = zone.changed.next(), agent._back.next()
        agent._reached(PUSH, behind=True)
        assert changed.is_set()
        assert back.is_set()
        changed, back = zone.changed.next(), agent._back.next()
        agent._reached(PUSH, behind=True)
        assert not changed.is_set()
        assert not back.is_set()
        agent._unreachable(PUSH)
        assert changed.is_set()
        changed = zone.changed.next()
        agent._unreachable(PUSH)
        assert not changed.is_set()


async def test_a_hub_knows_its_peers_by_their_calls(
    environment: Environment, autojump_clock: trio.testing.MockClock
) -> None:
    """It cannot dial: one that has been silent for long is out of reach."""
    hub = Hub(config(environment, "hub"))
    with zone_of(hub) as zone:
        assert not zone.status().ready
        for outcome in (OK, "denied", OK):
            hub._audit(AuditRecord(PLANT, "FetchFacts", outcome, 1, 0.1))
        hub._audit(AuditRecord("", "FetchFacts", "unknown_peer", 0, 0.1))
        _, (peer,), _ = hub._describe()
        assert (peer.zone, peer.calls, peer.refused) == ("plant-a", 3, 1)
        assert peer.last_call_unix_ms > 0
        modes = [zone.modes.mode]
        for seconds in (SILENT_AFTER_S - 2, 5):
            with trio.move_on_after(seconds):
                await hub._watch_peers()
            modes.append(zone.modes.mode)
        assert modes == [Mode.NORMAL, Mode.NORMAL, Mode.AUTONOMOUS]


async def test_problems_and_incidents_stand_in_the_status(environment: Environment) -> None:
    """With what to do about them; a broker that is away is the first of them."""
    agent = Agent(config(environment, "plant"))
    with zone_of(agent) as zone:
        for number in range(RECENT_INCIDENTS + 5):
            zone._note(Incident(Reason.LOG_LOST, f"facts {number}"))
        zone._problems["store audit"] = UnavailableError(Reason.BROKER_REFUSED, "no room")
        document = zone.status()
        assert {(p.reason, p.where) for p in document.problems} == {
            ("broker_unavailable", "broker"),
            ("broker_refused", "store audit"),
        }
        assert all(problem.hint for problem in document.problems)
        assert len(document.incidents) == RECENT_INCIDENTS
        assert document.incidents[-1].detail == f"facts {RECENT_INCIDENTS + 4}"
        assert {store.category for store in document.stores} == {"audit", "operational", "telemetry"}
        assert not document.ready
        assert document.keys == "software"


async def test_a_full_disk_stops_the_reports_and_not_the_work(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node must not end because nobody can read about it."""

    def full(self: StatusDocument, directory: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StatusDocument, "write", full)
    agent = Agent(config(environment, "plant"))
    with zone_of(agent) as zone:
        with trio.move_on_after(0.1):
            await zone._publish_status(agent._describe)
        assert "No space left" in caplog.text
