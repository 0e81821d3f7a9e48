# SPDX-License-Identifier: Apache-2.0
"""An environment's files: made once, found again, private, and enough for every process to start from."""

from __future__ import annotations

import json
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.boundary.errors import UnavailableError
from appliance.boundary.policy import WhenFull
from appliance.boundary.reasons import Reason
from appliance.dev.environment import CATEGORIES, PRODUCERS, Environment, PortName, choose_ports
from appliance.dev.layout import ENTERPRISE, HOST, PLANT, ZONE_OF, ZONES, Layout, ProcessName
from appliance.dev.lifecycle import bring_down
from appliance.dev.lock import holding_lock, is_running
from appliance.dev.provision import node_config, open_environment, provision, taken_ports
from appliance.dev.running import make_ready, purge
from appliance.node.config import NodeConfig
from appliance.node.secrets import load_credentials, load_producers


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A folder that has been provisioned."""
    layout = Layout.at(tmp_path / "d")
    provision(open_environment(layout))
    return layout


def edit(layout: Layout, change: dict[str, Any]) -> None:
    """Change top-level fields of env.json."""
    document = json.loads(layout.document.read_text())
    layout.document.write_text(json.dumps(document | change))


def test_doing_it_again_keeps_everything(layout: Layout) -> None:
    """Ports, passwords, keys and epoch of the environment survive; nothing is made twice."""
    before = {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()}
    environment = open_environment(layout)
    provision(environment)
    assert {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()} == before
    assert environment == Environment.load(layout.root)


def test_a_folder_that_moved_is_still_good(layout: Layout, tmp_path: Path) -> None:
    """Choices are kept, paths follow the folder."""
    before = Environment.load(layout.root)
    moved = Layout.at(layout.root.rename(tmp_path / "elsewhere"))
    environment = open_environment(moved)
    provision(environment)
    assert environment == replace(before, layout=moved)
    assert str(layout.root) not in moved.document.read_text()


def test_nodes_understand_their_files(layout: Layout) -> None:
    """Configuration, passwords and tokens are what agent and hub read."""
    environment = Environment.load(layout.root)
    for zone in ZONES:
        config = NodeConfig.load(layout.zone(zone).node_config)
        assert config.zone == zone
        assert dict(config.policy.categories) == CATEGORIES
        assert config.policy.categories[next(iter(CATEGORIES))].when_full is WhenFull.REJECT
        agent, system = load_credentials(config.broker.secrets)
        assert agent.password == environment.credentials[zone].facts_users["agent"]
        assert system.user == "sys"
        producers = {producer.id for producer in load_producers(config.intake.tokens).values()}
        assert producers == set(PRODUCERS)
        assert (config.uplink is None) == (zone == ENTERPRISE)
    plant = NodeConfig.load(layout.zone(PLANT).node_config)
    assert plant.uplink is not None
    assert plant.uplink.endpoint.port == environment.ports[PortName.LINK_RPC]  # through the simulated link


def test_secrets_are_private(layout: Layout) -> None:
    """No file of the environment can be read by anybody else, and its folder is closed."""
    assert stat.S_IMODE(layout.root.stat().st_mode) == 0o700
    environment = Environment.load(layout.root)
    secrets = {s for c in environment.credentials.values() for s in (*c.facts_users.values(), *c.tokens.values())}
    assert len(secrets) == 2 * (7 + 4)
    for path in layout.root.rglob("*"):
        if path.is_file() and any(secret in path.read_text("utf-8", "replace") for secret in secrets):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not any(secret in repr(environment) for secret in secrets)


def test_the_document_tells_everything(layout: Layout) -> None:
    """What another program needs to join in."""
    document = Environment.load(layout.root).to_document({ProcessName.AGENT: 7})
    assert document["kind"] == "bsfg-dev-environment"
    assert set(document["processes"]) == set(ProcessName) == set(ZONE_OF)
    assert document["processes"]["agent"]["pid"] == 7
    assert document["processes"]["hub"]["pid"] is None
    assert document["link"]["simulated"] is True
    for zone in ZONES:
        entry = document["zones"][zone]
        assert Path(entry["node_config"]).is_file()
        assert Path(entry["pki"]["ca"]).is_file()
        assert Path(entry["pki"]["certificate"]).is_file()
        assert entry["facts_broker"]["users"]["app"]
        assert entry["http_intake"]["tokens"]["cli"]
    assert json.loads(layout.document.read_text())["zones"] == document["zones"]


def test_categories_may_be_edited(layout: Layout) -> None:
    """The document says so; the nodes hear of it at the next start."""
    edit(layout, {"categories": {"operational": {"when_full": "drop-oldest", "max_bytes": 5_000_000, "max_age_s": 60}}})
    text = node_config(Environment.load(layout.root), PLANT)
    assert "[categories.operational]" in text
    assert "max_bytes = 5000000" in text
    assert "telemetry" not in text


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "something"},
        {"version": 2},
        {"zones": {}},
        {"categories": {"operational": {}}},
        {"created_at_unix_ms": "now"},
        {"link": {"rpc": {"port": 70000}, "leaf": {"port": 1}}},
    ],
)
def test_what_is_no_environment_is_refused(layout: Layout, change: dict[str, Any]) -> None:
    """With the file's name, and nothing is touched: not even by purge."""
    edit(layout, change)
    for attempt in (
        lambda: Environment.load(layout.root),
        lambda: purge(layout),
        lambda: bring_down(layout, remove=True),
    ):
        with pytest.raises(UnavailableError, match=r"env\.json") as caught:
            attempt()
        assert caught.value.reason is Reason.BAD_ENVIRONMENT
    assert layout.zone(PLANT).node_config.exists()


def test_a_strangers_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder that holds other things is neither filled nor removed."""
    (tmp_path / "thesis.txt").write_text("years of work")
    layout = Layout.at(tmp_path)
    for attempt in (lambda: open_environment(layout), lambda: bring_down(layout, remove=True)):
        with pytest.raises(UnavailableError) as caught:
            attempt()
        assert caught.value.reason is Reason.BAD_ENVIRONMENT
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_purge_removes_it_all(layout: Layout) -> None:
    """The folder is gone; that nothing ran is said."""
    assert bring_down(layout) is False
    assert layout.document.exists()
    assert bring_down(layout, remove=True) is False
    assert not layout.root.exists()


def test_only_one_supervisor(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is the kernel's: it ends with its holder."""
    monkeypatch.setattr("appliance.dev.lock._LOCK_WAIT", 0.1)
    assert not is_running(layout)
    with holding_lock(layout):
        assert is_running(layout)
        with pytest.raises(UnavailableError) as caught, holding_lock(layout):
            pass
        assert caught.value.reason is Reason.ALREADY_RUNNING
    assert not is_running(layout)


def test_a_taken_port_is_named(layout: Layout) -> None:
    """Who holds it is unknown; which it is and what it is for is said."""
    environment = Environment.load(layout.root)
    assert taken_ports(environment) == {}
    port = environment.ports[PortName.HUB_RPC]
    with socket.create_server((HOST, port)):
        assert taken_ports(environment) == {PortName.HUB_RPC: port}
        with pytest.raises(UnavailableError, match=rf"{port} \(hub RPC\)") as caught:
            make_ready(layout)
    assert caught.value.reason is Reason.PORT_TAKEN


def test_ports_stay_out_of_the_kernels_way() -> None:
    """Outside the range of outgoing connections, all different, and free."""
    floor = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = choose_ports()
    assert len(set(ports.values())) == len(PortName)
    assert floor <= 16_000 or all(port < floor for port in ports.values())
