# SPDX-License-Identifier: Apache-2.0
"""Broker declarations: what they refuse, and what their text must and must never contain."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.reasons import Reason
from appliance.brokers.config import Limits, Local, LocalUser, Secrets, write_config
from appliance.brokers.control import ControlHub, ControlLeaf, HubAddress, TlsFiles
from appliance.brokers.facts import FactsBroker
from appliance.brokers.syntax import render

PLANT = ZoneId("plant-a")
HUB = ZoneId("enterprise")
SECRETS = Secrets("owner-password-0001", "system-password-0001")
LIMITS = Limits(10**9)
LISTEN = Local("127.0.0.1", 4222)
TLS = TlsFiles(Path("/pki/session.pem"), Path("/pki/hub-ca.pem"))
PASSWORD = "a-local-password-01"


def user(name: str = "press-4", password: str = PASSWORD, *, produces: bool = True, reads: bool = False) -> LocalUser:
    """A local application."""
    return LocalUser(ProducerId(name), password, produces, reads)


def facts(*users: LocalUser) -> str:
    """The text of nats-facts."""
    return FactsBroker(PLANT, LISTEN, Path("/store"), SECRETS, LIMITS, users).render()


def leaf(host: str = "192.0.2.7") -> str:
    """The text of a plant's nats-control."""
    address = HubAddress(HUB, host, 7422)
    return ControlLeaf(PLANT, LISTEN, Path("/store"), SECRETS, LIMITS, TLS, address).render()


def hub(*zones: str) -> str:
    """The text of the hub's nats-control."""
    ids = tuple(map(ZoneId, zones))
    return ControlHub(HUB, LISTEN, Path("/store"), SECRETS, LIMITS, TLS, "0.0.0.0", 7422, ids).render()  # noqa: S104


EVERY = [facts(user(), user("hmi", reads=True)), leaf(), hub("plant-a", "plant-b")]


@pytest.mark.parametrize("text", EVERY, ids=["facts", "leaf", "hub"])
def test_every_broker_is_durable_and_bounded(text: str) -> None:
    """Each bound is written; a store that is acknowledged is on disk."""
    for field in ("max_file_store", "max_memory_store", "max_payload", "max_connections", "max_subscriptions"):
        assert re.search(rf"^ *{field}: \d+$", text, re.MULTILINE), field
    assert '  sync_interval: "always"\n' in text
    assert 'write_deadline: "10s"' in text
    assert 'system_account: "SYS"' in text


@pytest.mark.parametrize("text", EVERY, ids=["facts", "leaf", "hub"])
@pytest.mark.parametrize(
    "word",
    ["http", "https", "monitor_port", "websocket", "mqtt", "cluster", "gateway", "no_auth_user", "no_system_account",
     "insecure", "msg_trace", "prof_port"],
)  # fmt: skip
def test_no_broker_has_what_is_not_needed(text: str, word: str) -> None:
    """No monitoring port, no other protocol, no way in without a credential."""
    assert not re.search(rf"\b{word}\b", text)


def test_nats_facts_has_no_way_out() -> None:
    """No leaf and no certificate, so it starts without a key."""
    assert not re.search(r"\b(leafnodes|remotes|tls|cert_file|UPLINK)\b", EVERY[0])


def test_a_plant_listens_for_no_leaf() -> None:
    """It only dials; and what is denied on the leaf is every plane but the control plane."""
    block = EVERY[1].split("leafnodes:")[1].split("accounts:")[0]
    assert not re.search(r"\b(listen|port|host)\b", block)
    for subject in ("facts.>", "log.>", "$JS.>", "$KV.>", "$O.>", "$SYS.>", "_INBOX.>"):
        assert block.count(f'"{subject}"') == 2, subject


@pytest.mark.parametrize("text", EVERY[1:], ids=["leaf", "hub"])
def test_the_leaf_speaks_tls_first_and_nothing_older_than_1_3(text: str) -> None:
    """On both sides, without compression."""
    for line in ('min_version: "1.3"', "handshake_first: true", 'compression: "off"', 'ca_file: "/pki/hub-ca.pem"'):
        assert line in text
    assert ("verify_and_map: true" in text) == ("ZONE_PLANT_A" in text)


def test_the_hub_has_an_account_for_each_zone() -> None:
    """One user each, opened by a leaf's certificate alone."""
    text = EVERY[2]
    for zone, account in (("plant-a", "ZONE_PLANT_A"), ("plant-b", "ZONE_PLANT_B")):
        own = text.split(f"  {account}: {{\n")[1].split("\n  }\n")[0]
        assert f'user: "{zone}-bsfg"' in own
        assert 'allowed_connection_types: [ "LEAFNODE" ]' in own
        assert "password" not in own
        assert "max_leafnodes: 2" in own
        assert f'account: "{account}", subject: "dv.*.evt.>" }}, prefix: "zone.{zone}"' in text


def test_a_leaf_expects_the_hubs_name_at_its_address() -> None:
    """The address is dialled, the identity is what the certificate must say."""
    assert 'urls: [ "tls://192.0.2.7:7422", "tls://enterprise-bsfg:7422" ]' in leaf()
    assert 'urls: [ "tls://[2001:db8::7]:7422", "tls://enterprise-bsfg:7422" ]' in leaf("2001:db8::7")
    assert 'urls: [ "tls://enterprise-bsfg:7422" ]' in leaf("enterprise-bsfg")


def permissions(text: str, name: str) -> str:
    """What the text says of a user."""
    return text.split(f'user: "{name}"\n')[1].split("\n      }\n", maxsplit=1)[0]


def test_a_producer_publishes_under_its_own_name() -> None:
    """And may ask nothing of JetStream."""
    own = permissions(facts(user()), "press-4")
    assert '"facts.*.plant-a.*.press-4", "facts.*.plant-a.*.press-4.>"' in own
    assert "$JS" not in own
    limited = LocalUser(ProducerId("mes"), PASSWORD, categories=frozenset({Category("audit"), Category("batch")}))
    subjects = re.findall(r'"(facts[^"]*)"', permissions(facts(limited), "mes"))
    assert subjects == [
        "facts.audit.plant-a.*.mes",
        "facts.audit.plant-a.*.mes.>",
        "facts.batch.plant-a.*.mes",
        "facts.batch.plant-a.*.mes.>",
    ]


def test_a_reader_publishes_no_fact_and_changes_no_stream() -> None:
    """It asks, it acknowledges, nothing else."""
    own = permissions(facts(user("hmi", produces=False, reads=True)), "hmi")
    assert not re.search(r'"(facts|log|dead)\.', own)
    assert not re.search(r"STREAM\.(CREATE|UPDATE|DELETE|PURGE|MSG\.DELETE|RESTORE|SNAPSHOT)", own)
    assert not re.search(r"CONSUMER\.(NAMES|LIST|PAUSE|RESET)", own)
    assert "$JS.API.CONSUMER.MSG.NEXT.*.*" in own


@pytest.mark.parametrize(
    "declare",
    [
        lambda: Local("0.0.0.0", 4222),  # noqa: S104
        lambda: Local("192.0.2.7", 4222),
        lambda: Local("localhost", 4222),
        lambda: Local("127.0.0.1", 0),
        lambda: Local("127.0.0.1", 65536),
        lambda: Limits(0),
        lambda: Limits(10**9, max_memory_store=0),
        lambda: Limits(10**9, max_connections=16),
        lambda: Secrets("short", SECRETS.system),
        lambda: Secrets(SECRETS.owner, 'has"quote-0123456789'),
        lambda: user(password="has space and more"),
        lambda: user("agent"),
        lambda: user("sys"),
        lambda: user("Press 4"),
        lambda: user(produces=False),
        lambda: facts(user(), user()),
        lambda: FactsBroker(
            PLANT, LISTEN, Path("/s"), SECRETS, Limits(10**9, max_connections=17), (user(), user("mes"))
        ),
        lambda: hub("plant-a", "plant-a"),
        lambda: hub("enterprise"),
        lambda: leaf("hub.example.com"),
        lambda: leaf("plant-b-bsfg"),
    ],
)
def test_a_wrong_declaration_is_refused(declare: Callable[[], object]) -> None:
    """When it is made, not by a broker that does not start."""
    with pytest.raises(RefusedError) as caught:
        declare()
    assert caught.value.reason in {Reason.BAD_INPUT, Reason.BAD_NAME}


def test_passwords_are_not_shown() -> None:
    """Neither in logs nor in tracebacks."""
    shown = f"{SECRETS!r} {user()!r} {FactsBroker(PLANT, LISTEN, Path('/s'), SECRETS, LIMITS, (user(),))!r}"
    assert not any(secret in shown for secret in (SECRETS.owner, SECRETS.system, PASSWORD))


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "a\x00b", "\x7f"])
def test_text_that_could_break_out_is_refused(text: str) -> None:
    """As a value and as a name."""
    for document in ({"store_dir": text}, {"users": [text]}, {text: 1}):
        with pytest.raises(RefusedError):
            render("", document)


def test_a_comment_stays_a_comment() -> None:
    """Every line of it."""
    assert render("one\ntwo", {"debug": False}) == "# one\n# two\ndebug: false\n"


def test_a_configuration_is_its_owners_alone(tmp_path: Path) -> None:
    """It holds passwords."""
    write_config(tmp_path / "x.conf", facts(user()))
    assert stat.S_IMODE((tmp_path / "x.conf").stat().st_mode) == 0o600
    assert PASSWORD in (tmp_path / "x.conf").read_text()
