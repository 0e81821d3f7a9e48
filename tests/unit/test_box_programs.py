# SPDX-License-Identifier: Apache-2.0
"""The box's programs that run at boot: site, local keys, trial; what they write, refuse and keep."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import parse_producer
from appliance.boundary.reasons import Reason
from appliance.box import local, site, trial
from appliance.box.applying import Applying
from appliance.box.configs import BoxChoices, BoxConfigs
from appliance.box.layout import BoxLayout, User
from appliance.box.options import choices
from appliance.box.storage import Storage
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.local.applications import Role
from appliance.node.config import Endpoint, NodeConfig
from appliance.node.status import BoundaryStatus, CrossingReport, StatusDocument
from appliance.site.document import sign_site
from appliance.site.store import SiteStore
from tests import sites
from tests.contracts.sealing import SealContract, World
from tests.fakes.sealing import FakeSeal

AMPLE = Storage(0, 2**40, 2**28, 1.0)


@pytest.fixture
def at(tmp_path: Path) -> BoxLayout:
    """A box."""
    return BoxLayout(tmp_path)


def bring(at: BoxLayout, name: str = "two-nics", version: int = 1, by: str = "signer") -> None:
    """Put a signed example on the ESP."""
    at.candidate.parent.mkdir(parents=True, exist_ok=True)
    at.candidate.write_bytes(sites.signed(version, name=name, by=by))


def take(at: BoxLayout) -> dict[str, Any]:
    """Run bsfg-site; its status document."""
    site.run(at, Applying(at))
    return document(at, "site")


def document(at: BoxLayout, name: str) -> dict[str, Any]:
    """A status document."""
    values: dict[str, Any] = json.loads(at.status_document(name).read_bytes())
    return values


# -- the site configuration --------------------------------------------------------------------------------------------


def test_a_box_without_a_configuration_says_so_and_nothing_fails(at: BoxLayout) -> None:
    """No service finds a configuration, the firewall's sets stay as they are, and the next boot says it again."""
    for _ in range(2):
        assert take(at)["state"] == "missing"
        for path in (at.keeper_config, at.node_config, at.facts_config, at.control_config, at.chrony):
            assert not path.exists()
        assert "add element" not in at.sets.read_text()
        assert list(at.network.iterdir()) == []


@pytest.mark.parametrize("name", sites.NAMES)
def test_every_documented_example_is_applied(at: BoxLayout, name: str) -> None:
    """Each service's configuration is one that the service itself reads."""
    bring(at, name)
    told = take(at)
    assert (told["state"], told["zone"], told["refused"]) == ("accepted", "plant-a", None)
    keeper, node = KeeperConfig.load(at.keeper_config), NodeConfig.load(at.node_config)
    assert (keeper.zone, keeper.hub, keeper.tpm.tcti) == ("plant-a", "enterprise", "device:/dev/tpmrm0")
    assert not keeper.tpm.simulated_boot
    assert node.keys.session == at.session("agent")
    assert node.uplink is not None
    assert (node.uplink.endpoint is None) == told["air_gapped"]
    assert at.control_config.exists() == (not told["air_gapped"])
    assert 'include "../facts/trust.conf"' in at.facts_config.read_text()
    x509.load_pem_x509_certificate((at.pki / "hub-ca.pem").read_bytes())
    assert [path.name for path in at.network.glob("*-bsfg-*")]


def test_behind_a_proxy_all_three_dial_it(at: BoxLayout) -> None:
    """The agent asks it for the hub's name, the leaf for its address; enrolment is told by the site itself."""
    bring(at, "proxy")
    take(at)
    node, control = NodeConfig.load(at.node_config), at.control_config.read_text()
    assert node.proxy == Endpoint("proxy.plant-b.example.com", 3128)
    assert node.uplink is not None
    assert node.uplink.endpoint is not None
    assert node.trust is not None
    assert {node.uplink.endpoint.host, node.trust.host} == {"hub.example.com"}
    assert "proxy:" in control
    assert 'url: "http://proxy.plant-b.example.com:3128"' in control
    assert "tls://203.0.113.10:7422" in control
    bring(at, "two-nics", 2)
    take(at)
    assert NodeConfig.load(at.node_config).proxy is None
    assert "proxy:" not in at.control_config.read_text()


def test_only_named_users_may_ask_the_keeper_and_each_for_its_own(at: BoxLayout) -> None:
    """The table by which a taken-over service gets no more than it had."""
    bring(at)
    take(at)
    callers = KeeperConfig.load(at.keeper_config).callers
    assert {int(uid): sorted(roles) for uid, roles in callers.items()} == {
        0: ["administrator"],
        952: ["control"],
        954: ["agent"],
        955: ["watchdog"],
        957: ["administrator"],
    }
    assert dict(KeeperConfig.load(at.keeper_config).groups) == {"agent": 954, "control": 952}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_each_configuration_is_writable_by_root_alone(at: BoxLayout) -> None:
    """The sensor reads and compares them; the one with secrets in it is its service's alone."""
    bring(at)
    take(at)
    for path in (at.keeper_config, at.node_config, at.facts_config, at.applied_site):
        state = path.stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (0, 0, 0o644)
        for secret in json.loads(at.control_secrets.read_bytes()).values():
            assert secret not in path.read_text("utf-8")
    state = at.control_config.stat()
    assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (0, int(User.CONTROL), 0o640)
    assert at.control_secrets.stat().st_mode & 0o777 == 0o600


def test_a_refused_candidate_changes_nothing_and_is_shown(at: BoxLayout) -> None:
    """By another signer, of an older version, damaged, or not a document: each with its reason and place."""
    bring(at, version=5)
    take(at)
    before = {path: path.read_bytes() for path in at.config.iterdir() if path.is_file()}
    good = at.candidate.read_bytes()
    attempts = {
        Reason.SITE_FOREIGN: sites.signed(6, name="two-nics", by="stranger"),
        Reason.SITE_ROLLBACK: sites.signed(4, name="two-nics"),
        Reason.SITE_UNSIGNED: sites.signed(6, name="two-nics").replace(b"hall 3", b"hall 4"),
        Reason.BAD_SITE: b"x" * 300_000,
    }
    for reason, data in attempts.items():
        at.candidate.write_bytes(data)
        told = take(at)
        assert (told["state"], told["version"], told["refused"]["reason"]) == ("accepted", 5, reason)
        assert told["refused"]["detail"].startswith("site.toml")
        assert {path: path.read_bytes() for path in before} == before
    at.candidate.write_bytes(good)
    assert take(at)["version"] == 5
    at.candidate.write_bytes(sites.signed(6, name="two-nics"))
    assert take(at)["version"] == 6


def test_a_configuration_that_is_damaged_on_disk_is_said(at: BoxLayout) -> None:
    """Nothing is made up in its place."""
    bring(at)
    take(at)
    at.candidate.unlink()
    at.site_document.write_bytes(b"damaged")
    told = take(at)
    assert (told["state"], told["problems"][0]["reason"]) == ("failed", Reason.BAD_SITE)
    assert not at.node_config.exists()


def test_another_configuration_leaves_nothing_of_the_one_before(at: BoxLayout) -> None:
    """Devices, time servers and names of the old one are gone; ours alone are touched in networkd's folder."""
    bring(at, "vlan-one-nic")
    take(at)
    (at.network / "80-other.network").write_text("")
    vlans = {path.name for path in at.network.glob("20-bsfg-*")}
    assert vlans
    bring(at, "two-nics", version=2)
    take(at)
    assert not vlans & {path.name for path in at.network.iterdir()}
    assert (at.network / "80-other.network").exists()


def test_another_hub_takes_its_zones_along(at: BoxLayout) -> None:
    """Certificates under another hub CA prove nothing any more; they are kept beside."""
    bring(at)
    take(at)
    (at.pki / "zones/enterprise.pem").write_text("of the hub before")
    take(at)
    assert (at.pki / "zones/enterprise.pem").exists(), "the same hub"
    text = sites.example("two-nics").replace(sites.authority("hub"), sites.authority("site"))
    at.candidate.write_bytes(sign_site(text.replace("version = 1 ", "version = 2 ").encode(), sites.key("signer"), "x"))
    assert take(at)["version"] == 2
    assert not (at.pki / "zones/enterprise.pem").exists()
    assert [path.read_text() for path in at.pki.glob("before-*/enterprise.pem")] == ["of the hub before"]


def test_a_box_takes_no_option_of_development() -> None:
    """A software TPM cannot be slipped in by a command line, unless / is another folder."""
    assert choices(Path("/")) == BoxChoices()
    for given in ({"tcti": "swtpm:host=127.0.0.1,port=1"}, {"simulated_boot": True}, {"hub_host": "192.0.2.1"}):
        with pytest.raises(RefusedError):
            choices(Path("/"), **given)
        assert choices(Path("/tmp"), **given).tcti  # noqa: S108 - a folder that is not /


def test_the_hub_is_dialled_by_its_identity(at: BoxLayout) -> None:
    """``/etc/hosts`` has its addresses: nats-control needs the name that the hub's certificate has."""
    bring(at)
    take(at)
    node = NodeConfig.load(at.node_config)
    assert node.uplink is not None
    assert node.uplink.endpoint is not None
    assert node.uplink.endpoint.host == "enterprise-bsfg"
    assert "203.0.113.10 enterprise-bsfg" in at.hosts_file.read_text()
    assert "tls://enterprise-bsfg:7422" in at.control_config.read_text()


def test_without_a_plant_listener_everything_is_on_loopback(at: BoxLayout) -> None:
    """And with one, nats-facts listens on the plant's address with TLS and nowhere else."""
    loopback = BoxConfigs(sites.config("single-site"), at, AMPLE)
    assert 'listen: "127.0.0.1:4222"' in loopback.facts()
    assert "tls:" not in loopback.facts()
    plant = BoxConfigs(sites.config("two-nics"), at, AMPLE)
    assert 'listen: "192.168.10.5:4222"' in plant.facts()
    assert 'min_version: "1.3"' in plant.facts()
    assert tomllib.loads(plant.node())["broker"]["authority"] == str(at.agent_run / "ca.pem")


# -- local keys --------------------------------------------------------------------------------------------------------


class TestFakeSeal(SealContract):
    """In memory."""

    @pytest.fixture
    def world(self) -> World:
        """Two boxes."""
        seal = FakeSeal()

        def refuse(value: bool) -> None:
            seal.refuses = value

        return World(seal, FakeSeal(), lambda: refuse(True), lambda: refuse(False))


@pytest.fixture
def seal() -> FakeSeal:
    """The box's."""
    return FakeSeal()


def handed(at: BoxLayout) -> dict[str, bytes]:
    """What nats-facts and the agent were given."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in at.run.glob("[af]*/*") if path.is_file()}


def test_local_keys_are_made_once_and_handed_out_again(at: BoxLayout, seal: FakeSeal) -> None:
    """The root is nowhere in the clear, and a boot gives the same as the boot before."""
    bring(at)
    take(at)
    local.run(at, seal)
    first = handed(at)
    assert {"facts/trust.conf", "facts/server.pem", "agent/agent.creds", "agent/tokens.json", "agent/ca.pem"} <= set(
        first
    )
    assert not (at.local / "root.key").exists()
    root = seal.open(at.local_root_sealed.read_bytes()).strip()
    assert not [path for path in at.root.rglob("*") if path.is_file() and root in path.read_bytes()]
    local.run(at, seal)
    assert handed(at) == first
    assert document(at, "local")["state"] == "ready"


def test_a_new_application_is_handed_on(at: BoxLayout, seal: FakeSeal) -> None:
    """As bsfg-local.path does it when applications.json has changed."""
    bring(at)
    take(at)
    local.run(at, seal)
    before = handed(at)
    local.open_local(at, sites.config("two-nics"), seal).new(parse_producer("robot-1"), Role.PRODUCER)
    local.run(at, seal)
    after = handed(at)
    assert {name for name in after if after[name] != before[name]} == {"facts/trust.conf", "agent/tokens.json"}


def test_a_root_that_does_not_open_is_kept(at: BoxLayout, seal: FakeSeal) -> None:
    """Its file stays as it is, nothing takes its place, and it is used again as soon as it opens."""
    bring(at)
    take(at)
    local.run(at, seal)
    sealed = at.local_root_sealed.read_bytes()
    seal.refuses = True
    with pytest.raises(UnavailableError) as caught:
        local.run(at, seal)
    assert caught.value.reason is Reason.BAD_LOCAL_KEYS
    assert document(at, "local")["problems"][0]["reason"] == Reason.BAD_LOCAL_KEYS
    assert at.local_root_sealed.read_bytes() == sealed
    seal.refuses = False
    local.run(at, seal)
    assert at.local_root_sealed.read_bytes() == sealed


def test_a_root_that_is_lost_is_not_made_anew(at: BoxLayout, seal: FakeSeal) -> None:
    """Everything that was handed out would be worthless without a word."""
    bring(at)
    take(at)
    local.run(at, seal)
    at.local_root_sealed.unlink()
    with pytest.raises(UnavailableError) as caught:
        local.run(at, seal)
    assert caught.value.reason is Reason.BAD_LOCAL_KEYS
    assert not at.local_root_sealed.exists()


def test_a_first_boot_without_a_tpm_makes_no_root(at: BoxLayout, seal: FakeSeal) -> None:
    """A box never falls back to a root in the clear."""
    bring(at)
    take(at)
    seal.refuses = True
    with pytest.raises(UnavailableError):
        local.run(at, seal)
    assert not at.local_root_sealed.exists()
    assert not (at.local / "root.key").exists()
    seal.refuses = False
    local.run(at, seal)


# -- a configuration on trial ------------------------------------------------------------------------------------------


class Passing:
    """Boottime that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 10.0

    def sleep(self, seconds: float) -> None:
        """Let it pass."""
        self.now += seconds


def on_trial(at: BoxLayout) -> tuple[SiteStore, Passing]:
    """A box whose second configuration is on trial."""
    passing = Passing()
    store = SiteStore(at.site, clock=lambda: passing.now, boot=lambda: "this boot")
    store.offer(sites.signed(1), "site.toml")
    store.offer(sites.signed(2), "site.toml")
    at.status.mkdir(parents=True)
    return store, passing


def test_without_contact_the_box_starts_anew_with_the_old_one(at: BoxLayout) -> None:
    """After ten minutes, and once."""
    store, passing = on_trial(at)
    reboots: list[float] = []
    trial.watch(at, store, lambda: reboots.append(passing.now), passing.sleep)
    assert len(reboots) == 1
    assert 600 <= reboots[0] <= 620
    found = store.load()
    assert found is not None
    assert found.config.version == 1


@pytest.mark.parametrize(
    "told",
    [
        {"boundary": BoundaryStatus(time="hub_token")},
        {"crossings": (CrossingReport("push audit", "push", "audit", "enterprise", last_exchange_unix_ms=1),)},
    ],
    ids=["time from the hub", "a page exchanged"],
)
def test_contact_keeps_it(at: BoxLayout, told: dict[str, Any]) -> None:
    """By the agent's word of this boot."""
    store, passing = on_trial(at)
    StatusDocument("agent", "plant-a", "1", 1, True, "normal", 0, 0, 1, "tpm", **told).write(at.status)
    trial.watch(at, store, lambda: pytest.fail("a reboot"), passing.sleep)
    assert store.trial() is None
    found = store.load()
    assert found is not None
    assert found.config.version == 2


@pytest.mark.parametrize(("state", "counts"), [("waiting", True), ("refused", True), ("calling", False)])
def test_a_hub_that_answers_enrolment_is_contact(at: BoxLayout, state: str, counts: bool) -> None:
    """Whatever it answers: the way is open."""
    on_trial(at)
    at.status_document("enrol").write_text(json.dumps({"state": state}))
    assert trial.had_contact(at) is counts
