# SPDX-License-Identifier: Apache-2.0
"""A node's configuration: the example parses, and each rule refuses its own mistake by the name of the field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, WhenFull
from appliance.boundary.reasons import ExitCode, Reason
from appliance.node import config as config_module
from appliance.node.config import (
    Attestation,
    BrokerConfig,
    ControlConfig,
    Endpoint,
    IntakeConfig,
    KeysConfig,
    KeysKind,
    NodeConfig,
    OfficeConfig,
    Uplink,
)

OPERATIONAL = Category("operational")
DOCUMENT = """
[node]
zone = "plant-a"
state_dir = "state"
status_dir = "/run/status"
[keys]
kind = "software"
pki_dir = "pki"
[broker]
host = "127.0.0.1"
port = 4222
credentials = "local"
[intake]
host = "127.0.0.1"
port = 8080
tokens = "producers.json"
[categories.operational]
[categories.telemetry]
when_full = "drop-oldest"
max_bytes = 1048576
max_age_s = 60
[peers.enterprise]
fetch = ["operational", "telemetry"]
append = ["operational"]
[uplink]
zone = "enterprise"
host = "10.0.0.1"
port = 8443
"""


def load(folder: Path, text: str) -> NodeConfig:
    """Parse a document that stands in a folder."""
    path = folder / "node.toml"
    path.write_text(text, encoding="utf-8")
    return NodeConfig.load(path)


def test_everything_is_taken_over(tmp_path: Path) -> None:
    """Every field, defaults, and paths relative to the document."""
    config = load(tmp_path, DOCUMENT)
    assert config.zone == "plant-a"
    assert config.state_dir == tmp_path / "state"
    assert config.status_dir == Path("/run/status")
    assert config.keys == KeysConfig(KeysKind.SOFTWARE, tmp_path / "pki", None, tmp_path / "pki" / "session.pem")
    assert config.broker == BrokerConfig(Endpoint("127.0.0.1", 4222), tmp_path / "local")
    assert config.intake == IntakeConfig(Endpoint("127.0.0.1", 8080), tmp_path / "producers.json")
    assert config.uplink == Uplink(ZoneId("enterprise"), Endpoint("10.0.0.1", 8443))
    assert config.listen is None
    assert config.policy.categories == {
        OPERATIONAL: CategoryPolicy(WhenFull.REJECT, 1024**3, 0),
        Category("telemetry"): CategoryPolicy(WhenFull.DROP_OLDEST, 1024**2, 60),
    }
    assert config.policy.peers == {
        ZoneId("enterprise"): PeerPolicy(frozenset({OPERATIONAL, Category("telemetry")}), frozenset({OPERATIONAL}))
    }


@pytest.mark.parametrize("role", ["uplink", "listen"])
def test_the_example_of_the_documentation_parses(tmp_path: Path, role: str) -> None:
    """Without the section of the other role."""
    assert config_module.__doc__ is not None
    example = "\n".join(line[4:] for line in config_module.__doc__.partition("Example::")[2].splitlines())
    other = {"uplink": "listen", "listen": "uplink"}[role]
    text = re.sub(rf"(?ms)^\[{other}\].*?(?=^\[|\Z)", "", example)
    control = ControlConfig(
        Endpoint("127.0.0.1", 4223), tmp_path / "control-secrets.json", tmp_path / "control/authorities.pem"
    )
    office = OfficeConfig(tmp_path / "enrolment", Attestation.REQUIRED)
    if role == "uplink":
        text = re.sub(r"(?m)^(enrolment|attestation) = .*$", "", text.partition("[control]")[0])
    config = load(tmp_path, text)
    assert config.control == (control if role == "listen" else None)
    assert config.office == (office if role == "listen" else None)
    assert config.trust == Endpoint("127.0.0.1", 8444)
    assert config.keys == KeysConfig(
        KeysKind.KEEPER, tmp_path / "pki", tmp_path / "run/keeper.sock", tmp_path / "run/session/agent.pem"
    )
    assert (config.uplink is None) == (role == "listen")
    assert (config.listen is None) == (role == "uplink")
    assert config.policy.categories == {OPERATIONAL: CategoryPolicy()}


def test_an_agent_may_have_no_way_to_its_hub(tmp_path: Path) -> None:
    """Air-gapped: the zone of the hub alone. Half an address is none."""
    head = DOCUMENT.partition("[uplink]")[0]
    (tmp_path / "node.toml").write_text(head + '[uplink]\nzone = "enterprise"\n')
    assert NodeConfig.load(tmp_path / "node.toml").uplink == Uplink(ZoneId("enterprise"), None)
    (tmp_path / "node.toml").write_text(head + '[uplink]\nzone = "enterprise"\nport = 8443\n')
    with pytest.raises(RefusedError):
        NodeConfig.load(tmp_path / "node.toml")


def test_an_agent_may_dial_through_a_proxy(tmp_path: Path) -> None:
    """Whoever dials nothing has no use for one."""
    path, proxy = tmp_path / "node.toml", '[proxy]\nhost = "proxy.example.com"\nport = 3128\n'
    path.write_text(f"{DOCUMENT}{proxy}")
    assert NodeConfig.load(path).proxy == Endpoint("proxy.example.com", 3128)
    path.write_text(DOCUMENT)
    assert NodeConfig.load(path).proxy is None
    head = DOCUMENT.partition("[uplink]")[0]
    for rest in ('[uplink]\nzone = "enterprise"\n', '[listen]\nhost = "127.0.0.1"\nport = 8443\n'):
        path.write_text(f"{head}{rest}{proxy}")
        with pytest.raises(RefusedError, match="is for agents that dial"):
            NodeConfig.load(path)


def test_a_hub_needs_no_uplink(tmp_path: Path) -> None:
    """What makes it a hub is where it listens."""
    text = DOCUMENT.partition("[uplink]")[0] + '[listen]\nhost = "127.0.0.1"\nport = 8443\n'
    config = load(tmp_path, text)
    assert config.listen == Endpoint("127.0.0.1", 8443)
    assert config.uplink is None


@pytest.mark.parametrize(
    ("office", "named"),
    [
        ("", "[trust] needs attestation"),
        ('attestation = "required"', "[trust] needs enrolment"),
        ('attestation = "maybe"\nenrolment = "e"', "[trust] attestation 'maybe': required, observe"),
    ],
)
def test_a_hub_says_what_attestation_is_for(tmp_path: Path, office: str, named: str) -> None:
    """There is no default for what lets a box in."""
    text = DOCUMENT.partition("[uplink]")[0] + '[listen]\nhost = "127.0.0.1"\nport = 8443\n'
    with pytest.raises(RefusedError) as refused:
        load(tmp_path, text + '[trust]\nhost = "127.0.0.1"\nport = 8444\n' + office)
    assert named in refused.value.detail


def edited(old: str, new: str) -> str:
    """The document with one change."""
    assert DOCUMENT.count(old) >= 1
    return DOCUMENT.replace(old, new, 1)


def without(section: str) -> str:
    """The document without a section."""
    return re.sub(rf"(?ms)^\[{re.escape(section)}\].*?(?=^\[|\Z)", "", DOCUMENT)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[node", "node.toml"),
        (without("node"), "[node] is missing"),
        (without("broker"), "[broker] is missing"),
        (without("intake"), "[intake] is missing"),
        (re.sub(r"(?ms)^\[categories\..*?(?=^\[peers)", "", DOCUMENT), "[categories] is missing"),
        (without("uplink"), "exactly one of [uplink]"),
        (DOCUMENT + '[listen]\nhost = "h"\nport = 1\n', "exactly one of [uplink]"),
        (edited('zone = "plant-a"', ""), "[node] needs zone"),
        (edited('zone = "plant-a"', "zone = 7"), "[node] zone must be str"),
        (edited('zone = "plant-a"', 'zone = "Plant A"'), "[node] zone 'Plant A'"),
        (edited('zone = "plant-a"', 'zone = "all"'), "[node] 'all'"),
        (edited('state_dir = "state"', ""), "[node] needs state_dir"),
        (edited('status_dir = "/run/status"', ""), "[node] needs status_dir"),
        (edited('pki_dir = "pki"', "pki_dir = true"), "[keys] pki_dir must be str"),
        (edited('pki_dir = "pki"', 'pki_dir = "pki"\ncolour = 1'), "[keys] has an unknown field 'colour'"),
        (without("keys"), "[keys] is missing"),
        (edited('kind = "software"', ""), "[keys] needs kind"),
        (edited('kind = "software"', 'kind = "tpm"'), "[keys] kind 'tpm': software, keeper"),
        (edited('kind = "software"', 'kind = "keeper"'), "[keys] needs socket"),
        (edited('kind = "software"', 'kind = "keeper"\nsocket = "s"'), "[keys] needs session"),
        (edited('kind = "software"', 'kind = "software"\nsocket = "s"'), "[keys] has an unknown field 'socket'"),
        (DOCUMENT + '[trust]\nhost = "h"\nport = 0\n', "[trust] port 0"),
        (DOCUMENT + '[trust]\nhost = "h"\nport = 1\nx = 1\n', "[trust] has an unknown field 'x'"),
        (
            DOCUMENT + '[control]\nhost = "h"\nport = 1\nsecrets = "s"\nauthorities = "a"\n',
            "[control] is for hubs",
        ),
        (DOCUMENT + '[control]\nhost = "h"\nport = 1\nsecrets = "s"\n', "[control] needs authorities"),
        (edited("port = 4222", ""), "[broker] needs port"),
        (edited("port = 4222", "port = 0"), "[broker] port 0"),
        (edited("port = 4222", "port = 65536"), "[broker] port 65536"),
        (edited("port = 4222", 'port = "4222"'), "[broker] port must be int"),
        (edited("port = 4222", "port = true"), "[broker] port must be int"),
        (edited('credentials = "local"', ""), "[broker] needs credentials"),
        (DOCUMENT + '[plant]\nhost = "h"\nport = 1\n', "[plant] needs certificate"),
        (DOCUMENT + '[plant]\nhost = "h"\nport = 0\ncertificate = "c"\n', "[plant] port 0"),
        (DOCUMENT + '[plant]\nhost = "h"\nport = 1\ncertificate = "c"\nx = 1\n', "[plant] has an unknown field 'x'"),
        (edited("port = 4222", "port = 4222\nauthority = 1"), "[broker] authority must be str"),
        (edited("port = 4222", "port = 4222\ntls = 1"), "[broker] has an unknown field 'tls'"),
        (edited('tokens = "producers.json"', ""), "[intake] needs tokens"),
        (edited("port = 8080", "port = 8080\nx = 1"), "[intake] has an unknown field 'x'"),
        (edited("port = 8080", "port = -1"), "[intake] port -1"),
        (edited("[categories.operational]", "[categories.Operational]"), "category 'Operational'"),
        (
            edited("[categories.operational]", "[categories]\noperational = 3"),
            "[categories.operational] must be a table",
        ),
        (edited('when_full = "drop-oldest"', 'when_full = "forget"'), "[categories.telemetry] when_full 'forget'"),
        (edited("max_bytes = 1048576", "max_bytes = 1048575"), "[categories.telemetry] max_bytes"),
        (edited("max_age_s = 60", "max_age_s = -1"), "max_age_s is at least 0"),
        (edited("max_age_s = 60", "max_age_s = 0.5"), "[categories.telemetry] max_age_s must be int"),
        (edited("max_age_s = 60", "ttl = 60"), "[categories.telemetry] has an unknown field 'ttl'"),
        (edited("[peers.enterprise]", '[peers."Enter prise"]'), "zone 'Enter prise'"),
        (edited('append = ["operational"]', ""), "[peers.enterprise] append must be a list"),
        (edited('append = ["operational"]', 'append = "operational"'), "[peers.enterprise] append must be a list"),
        (edited('append = ["operational"]', "append = [1]"), "[peers.enterprise] append must be a list"),
        (edited('append = ["operational"]', 'append = ["A B"]'), "[peers.enterprise] append: category 'A B'"),
        (
            edited('fetch = ["operational", "telemetry"]', 'fetch = ["audit"]'),
            "[peers.enterprise] fetch: 'audit' needs",
        ),
        (edited('append = ["operational"]', "append = []\nsee = []"), "[peers.enterprise] has an unknown field 'see'"),
        (edited("[peers.enterprise]", "[peers.plant-a]"), "[uplink] zone 'enterprise' needs a section [peers"),
        (edited("[uplink]", "[peers.plant-a]\nfetch=[]\nappend=[]\n[uplink]"), "[peers.plant-a] is this zone itself"),
        (without("peers.enterprise"), "[uplink] zone 'enterprise' needs a section [peers"),
        (edited("[peers.enterprise]", "peers = 1\n[other]"), "has an unknown field"),
        (edited('zone = "enterprise"', ""), "[uplink] needs zone"),
        (edited('zone = "enterprise"', 'zone = "x_y"'), "[uplink] zone 'x_y'"),
        (edited("port = 8443", ""), "[uplink] needs port"),
        (edited("port = 8443", "port = 8443\nvia = 1"), "[uplink] has an unknown field 'via'"),
        ("colour = 1\n" + DOCUMENT, "has an unknown field 'colour'"),
        ("node = 1", "[node] must be a table"),
    ],
)
def test_each_rule_names_what_breaks_it(tmp_path: Path, text: str, named: str) -> None:
    """The file, the section and the field; the exit code is that of wrong usage."""
    with pytest.raises(RefusedError) as refused:
        load(tmp_path, text)
    assert refused.value.reason is Reason.BAD_INPUT
    assert refused.value.text.exit == ExitCode.USAGE
    assert str(tmp_path / "node.toml") in refused.value.detail
    assert named in refused.value.detail


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    """Named, with what the system says."""
    with pytest.raises(RefusedError, match=r"none\.toml: No such file"):
        NodeConfig.load(tmp_path / "none.toml")
    with pytest.raises(RefusedError, match=r"Is a directory"):
        NodeConfig.load(tmp_path)
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RefusedError, match=r"node\.toml: 'utf-8'"):
        NodeConfig.load(path)
