# SPDX-License-Identifier: Apache-2.0
"""An environment's files: made once, found again, private, and enough for every process to start from."""

from __future__ import annotations

import json
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.policy import WhenFull
from appliance.boundary.reasons import Reason
from appliance.dev.configs import node_config
from appliance.dev.document import environment_document
from appliance.dev.environment import CATEGORIES, LOCAL_USERS, PRODUCERS, Environment, PortName, choose_ports
from appliance.dev.folders import in_memory
from appliance.dev.layout import (
    CONTROL_BROKER,
    ENTERPRISE,
    FACTS_BROKER,
    HOST,
    NODE,
    PLANT,
    ZONE_OF,
    ZONES,
    KeysChoice,
    Layout,
    ProcessName,
)
from appliance.dev.lifecycle import bring_down
from appliance.dev.lock import holding_lock, is_running
from appliance.dev.offline import OPERATORS, Offline
from appliance.dev.provision import open_environment, provision, taken_ports, write_document
from appliance.dev.running import make_ready, purge
from appliance.factlog.natskeys import UserCredentials
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.roles import Role
from appliance.node.config import NodeConfig
from appliance.node.secrets import load_credentials, load_producers


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A folder that has been provisioned, with keys in files: quickest, where keys do not matter."""
    return provisioned(tmp_path / "d", KeysChoice.SOFTWARE)


@pytest.fixture(scope="module")
def tpm_layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A folder that has been provisioned, with software TPMs; tests only read it."""
    return provisioned(tmp_path_factory.mktemp("tpm") / "d", KeysChoice.SWTPM)


def provisioned(folder: Path, keys: KeysChoice) -> Layout:
    """A new environment's files."""
    layout = Layout.at(folder)
    provision(open_environment(layout, keys))
    return layout


def contents(layout: Layout) -> dict[Path, bytes]:
    """Every file, with its bytes."""
    return {path: path.read_bytes() for path in layout.root.rglob("*") if path.is_file()}


def edit(layout: Layout, change: dict[str, Any]) -> None:
    """Change top-level fields of env.json."""
    document = json.loads(layout.document.read_text())
    layout.document.write_text(json.dumps(document | change))


@pytest.mark.parametrize("keys", KeysChoice)
def test_doing_it_again_keeps_everything(tmp_path: Path, keys: KeysChoice) -> None:
    """Ports, passwords, keys, TPMs and epoch of the environment survive; nothing is made twice."""
    layout = provisioned(tmp_path / "d", keys)
    before = contents(layout)
    environment = open_environment(layout)
    provision(environment)
    assert contents(layout) == before
    assert environment == Environment.load(layout.root)
    assert environment.keys is keys


def test_software_tpms_are_the_default(tmp_path: Path) -> None:
    """And that is on record; an environment keeps its keys, whatever is asked for later."""
    layout = Layout.at(tmp_path / "d")
    environment = open_environment(layout)
    assert environment.keys is KeysChoice.SWTPM
    write_document(environment)
    assert open_environment(layout, KeysChoice.SWTPM) == environment
    with pytest.raises(RefusedError, match="made with swtpm keys and keeps them") as caught:
        open_environment(layout, KeysChoice.SOFTWARE)
    assert caught.value.reason is Reason.BAD_INPUT


def test_what_is_simulated_is_said(tpm_layout: Layout) -> None:
    """Where the TPMs are, that they are simulated, and whether session keys stay in memory."""
    document = environment_document(Environment.load(tpm_layout.root))
    assert document["keys"] == "swtpm"
    assert set(document["processes"]) == set(ProcessName) == set(ZONE_OF)
    for zone in ZONES:
        keys = document["zones"][zone]["keys"]
        assert keys["about"] == "swtpm (software TPM: development only)"
        assert keys["tpm"]["simulated"] is True
        assert Path(keys["tpm"]["state_dir"]).is_dir()
        assert keys["tpm"]["control_port"] == keys["tpm"]["port"] + 1
        assert keys["keeper"]["session_dir_in_memory"] is in_memory(tpm_layout.root)
        assert stat.S_IMODE(Path(keys["keeper"]["session_dir"]).stat().st_mode) == 0o700
        assert Path(document["zones"][zone]["pki"]["ca"]).is_file()  # given to each box before it speaks to anybody


def test_keepers_understand_their_files(tpm_layout: Layout) -> None:
    """Configuration, operators, image key and signatures are what a keeper reads."""
    environment = Environment.load(tpm_layout.root)
    for zone in ZONES:
        config = KeeperConfig.load(tpm_layout.zone(zone).keeper_config)
        assert (config.zone, config.is_hub) == (zone, zone == ENTERPRISE)
        assert (config.tpm.tcti, config.tpm.kind) == (environment.tcti(zone), "swtpm")
        assert config.tpm.simulated_boot
        roles = config.callers[os.getuid()]
        assert {Role.AGENT, Role.HUB} & roles == {Role.HUB if zone == ENTERPRISE else Role.AGENT}
        for path in (config.trust.operators, config.trust.image_key, config.trust.image_signatures):
            assert path.is_file()
        assert not config.trust.boot_log.is_relative_to("/sys")  # never this machine's own
        assert not config.trust.runtime_log.is_relative_to("/run/log")


def test_private_keys_are_private(tpm_layout: Layout) -> None:
    """Of operators, image builder, TPM vendor and the TPMs themselves: nobody else comes near them."""
    assert stat.S_IMODE(tpm_layout.root.stat().st_mode) == 0o700
    offline = Offline(tpm_layout.offline)
    for name in OPERATORS:
        assert b"ENCRYPTED" in offline.operator_file(name).read_bytes()
        assert offline.operator(name).curve.name == "secp256r1"
    for path in (offline.passphrase_file, offline.image_key_file, offline.operator_file(OPERATORS[0])):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_session_does_not_outlive_its_machine(tmp_path: Path) -> None:
    """As in memory: when an environment starts, no session is there."""
    layout = provisioned(tmp_path / "d", KeysChoice.SWTPM)
    left = layout.zone(PLANT).sessions / "agent.pem"
    left.write_text("from before")
    provision(open_environment(layout))
    assert not left.exists()


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
        agent, system = load_credentials(config.broker.credentials)
        assert (agent.path.name, system.path.name) == ("agent.creds", "sys.creds")
        producers = {grant.producer.id for grant in load_producers(config.intake.tokens).values()}
        assert producers == set(PRODUCERS)
        assert (config.uplink is None) == (zone == ENTERPRISE)
    plant = NodeConfig.load(layout.zone(PLANT).node_config)
    assert plant.uplink is not None
    assert plant.uplink.endpoint is not None
    assert plant.uplink.endpoint.port == environment.ports[PortName.LINK_RPC]  # through the simulated link


def test_secrets_are_private(layout: Layout) -> None:
    """No file of the environment can be read by anybody else, and its folder is closed."""
    assert stat.S_IMODE(layout.root.stat().st_mode) == 0o700
    environment = Environment.load(layout.root)
    secrets = {secret for found in environment.credentials.values() for secret in found.control_users.values()}
    for zone in ZONES:
        secrets |= {UserCredentials.load(layout.zone(zone).user(name)).key.seed for name in ("agent", *LOCAL_USERS)}
        secrets |= {environment.token(zone, name) for name in PRODUCERS}
        secrets.add((layout.zone(zone).local / "root.key").read_text().strip())
    assert len(secrets) == 2 * (2 + 6 + 4 + 1)
    for path in layout.root.rglob("*"):
        if path.is_file() and any(secret in path.read_text("utf-8", "replace") for secret in secrets):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not any(secret in repr(environment) for secret in secrets)


def test_the_document_tells_everything(layout: Layout) -> None:
    """What another program needs to join in."""
    document = environment_document(Environment.load(layout.root), {ProcessName.AGENT: 7})
    assert document["kind"] == "bsfg-dev-environment"
    assert set(document["processes"]) == {*NODE.values(), *FACTS_BROKER.values(), *CONTROL_BROKER.values()}
    assert document["processes"]["agent"]["pid"] == 7
    assert document["processes"]["hub"]["pid"] is None
    assert document["link"]["simulated"] is True
    for zone in ZONES:
        entry = document["zones"][zone]
        assert Path(entry["node_config"]).is_file()
        assert Path(entry["pki"]["ca"]).is_file()
        assert Path(entry["pki"]["certificate"]).is_file()
        assert Path(entry["facts_broker"]["users"]["app"]).is_file()
        assert Path(entry["http_intake"]["tokens"]["cli"]).is_file()
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
        {"version": 1},
        {"keys": "tpm"},
        {"session_s": 1},
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
    assert ports[PortName.PLANT_TPM_CONTROL] == ports[PortName.PLANT_TPM] + 1
    assert ports[PortName.ENTERPRISE_TPM_CONTROL] == ports[PortName.ENTERPRISE_TPM] + 1
    assert floor <= 16_000 or all(port < floor for port in ports.values())
