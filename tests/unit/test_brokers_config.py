# SPDX-License-Identifier: Apache-2.0
"""Broker declarations: what they refuse, and what their text must and must never contain."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.reasons import Reason
from appliance.brokers.accounts import LocalRights, application_claims, published
from appliance.brokers.config import Limits, Local, Plant, Secrets, write_config
from appliance.brokers.control import ControlHub, ControlLeaf, HubAddress, ProxyAddress, TlsFiles
from appliance.brokers.facts import BrokerTrust, FactsBroker, IncludedTrust, connections_each
from appliance.brokers.syntax import render

PLANT = ZoneId("plant-a")
HUB = ZoneId("enterprise")
SECRETS = Secrets("owner-password-0001", "system-password-0001")
LIMITS = Limits(10**9)
LISTEN = Local("127.0.0.1", 4222)
TLS = TlsFiles(Path("/pki/session.pem"), Path("/pki/hub-ca.pem"))
TRUST = BrokerTrust("a.b.c", "AS", {"AS": "d.e.f", "AF": "g.h.i"})


def user(name: str = "press-4", *, produces: bool = True, reads: bool = False) -> LocalRights:
    """A local application."""
    return LocalRights(ProducerId(name), produces, reads)


def facts(listen: Local | Plant = LISTEN) -> str:
    """The text of nats-facts."""
    return FactsBroker(PLANT, listen, Path("/store"), LIMITS, TRUST).render()


def leaf(host: str = "192.0.2.7") -> str:
    """The text of a plant's nats-control."""
    address = HubAddress(HUB, host, 7422)
    return ControlLeaf(PLANT, LISTEN, Path("/store"), SECRETS, LIMITS, TLS, address).render()


def hub(*zones: str) -> str:
    """The text of the hub's nats-control."""
    ids = tuple(map(ZoneId, zones))
    return ControlHub(HUB, LISTEN, Path("/store"), SECRETS, LIMITS, TLS, "0.0.0.0", 7422, ids).render()  # noqa: S104


EVERY = [facts(), leaf(), hub("plant-a", "plant-b")]


@pytest.mark.parametrize("text", EVERY, ids=["facts", "leaf", "hub"])
def test_every_broker_is_durable_and_bounded(text: str) -> None:
    """Each bound is written; a store that is acknowledged is on disk."""
    for field in ("max_file_store", "max_memory_store", "max_payload", "max_connections", "max_subscriptions"):
        assert re.search(rf"^ *{field}: \d+$", text, re.MULTILINE), field
    assert '  sync_interval: "always"\n' in text
    assert 'write_deadline: "10s"' in text
    assert f'system_account: "{"AS" if text is EVERY[0] else "SYS"}"' in text


@pytest.mark.parametrize("text", EVERY, ids=["facts", "leaf", "hub"])
@pytest.mark.parametrize(
    "word",
    ["http", "https", "monitor_port", "websocket", "mqtt", "cluster", "gateway", "no_auth_user", "no_system_account",
     "insecure", "msg_trace", "prof_port"],
)  # fmt: skip
def test_no_broker_has_what_is_not_needed(text: str, word: str) -> None:
    """No monitoring port, no other protocol, no way in without a credential."""
    assert not re.search(rf"\b{word}\b", text)


def test_a_leaf_dials_through_a_proxy_that_it_is_given() -> None:
    """Without user and password, and with bounded patience; without one there is no such field."""
    address = HubAddress(HUB, "192.0.2.7", 7422)
    made = partial(ControlLeaf, PLANT, LISTEN, Path("/store"), SECRETS, LIMITS, TLS, address)
    text = made(ProxyAddress("proxy.example.com", 3128)).render()
    assert 'url: "http://proxy.example.com:3128"' in text
    assert 'timeout: "10s"' in text
    assert 'url: "http://[2001:db8::1]:3128"' in made(ProxyAddress("2001:db8::1", 3128)).render()
    assert "proxy" not in made().render()
    for host, port in (("proxy", 0), ("user:word@proxy", 1), ('a"b', 1), ("", 1), ("a b", 1), ("a/b", 1)):
        with pytest.raises(RefusedError):
            ProxyAddress(host, port)


def test_nats_facts_has_no_way_out() -> None:
    """No leaf and no certificate of the boundary, so it starts without a key; and no password opens it."""
    assert not re.search(r"\b(leafnodes|remotes|tls|cert_file|UPLINK|password|users)\b", EVERY[0])


def test_the_plant_interface_speaks_tls_alone() -> None:
    """Version 1.3, with one file for key and certificate; nothing that is not TLS."""
    text = facts(Plant("192.0.2.5", 4222, Path("/local/server.pem")))
    assert 'listen: "192.0.2.5:4222"' in text
    assert re.search(r'tls: \{[^}]*cert_file: "/local/server.pem"[^}]*min_version: "1.3"', text)
    assert "allow_non_tls" not in text


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


def test_a_producer_publishes_under_its_own_name() -> None:
    """And may ask nothing of JetStream."""
    assert published(PLANT, user()) == ["facts.*.plant-a.*.press-4", "facts.*.plant-a.*.press-4.>"]
    limited = LocalRights(ProducerId("mes"), categories=frozenset({Category("audit"), Category("batch")}))
    assert published(PLANT, limited) == [
        "facts.audit.plant-a.*.mes",
        "facts.audit.plant-a.*.mes.>",
        "facts.batch.plant-a.*.mes",
        "facts.batch.plant-a.*.mes.>",
    ]


def test_a_reader_publishes_no_fact_and_changes_no_stream() -> None:
    """It asks, it acknowledges, nothing else."""
    own = " ".join(published(PLANT, user("hmi", produces=False, reads=True)))
    assert not re.search(r"\b(facts|log|dead)\.", own)
    assert not re.search(r"STREAM\.(CREATE|UPDATE|DELETE|PURGE|MSG\.DELETE|RESTORE|SNAPSHOT)", own)
    assert not re.search(r"CONSUMER\.(NAMES|LIST|PAUSE|RESET)", own)
    assert "$JS.API.CONSUMER.MSG.NEXT.*.*" in own


def test_an_account_is_bounded_and_takes_from_the_facts_alone() -> None:
    """No JetStream of its own, no leaf, no bearer tokens, no exports; its users may use the NATS protocol alone."""
    claims = application_claims("AF", PLANT, user(reads=True), "AK", 7, {"U1": 5})
    assert not {"disk_storage", "mem_storage", "streams"} & claims["limits"].keys()
    assert (claims["limits"]["conn"], claims["limits"]["leaf"], claims["limits"]["disallow_bearer"]) == (7, 0, True)
    assert {entry["account"] for entry in claims["imports"]} == {"AF"}
    assert (claims["exports"], claims["revocations"]) == ([], {"U1": 5})
    (scope,) = claims["signing_keys"]
    assert (scope["key"], scope["template"]["allowed_connection_types"]) == ("AK", ["STANDARD"])
    assert "none" not in scope["template"]["pub"]["allow"]


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
        lambda: user("agent"),
        lambda: user("sys"),
        lambda: user("Press 4"),
        lambda: user(produces=False),
        lambda: connections_each(Limits(10**9, max_connections=17), 2),
        lambda: BrokerTrust("a.b.c", "AS", {}),
        lambda: BrokerTrust("a.b.c", "AS", {"AS": 'a.b.c"'}),
        lambda: Plant("0.0.0.0", 4222, Path("/x")),  # noqa: S104
        lambda: Plant("::", 4222, Path("/x")),
        lambda: Plant("plant.example", 4222, Path("/x")),
        lambda: Plant("192.0.2.5", 0, Path("/x")),
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
    assert not any(secret in repr(SECRETS) for secret in (SECRETS.owner, SECRETS.system))


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
    write_config(tmp_path / "x.conf", leaf())
    assert stat.S_IMODE((tmp_path / "x.conf").stat().st_mode) == 0o600
    assert SECRETS.owner in (tmp_path / "x.conf").read_text()


def test_whom_a_box_lets_in_stands_in_a_file_of_its_own() -> None:
    """The server joins an included path to the folder of the configuration, so an absolute one names another file."""
    included = IncludedTrust(PurePosixPath("../facts/trust.conf"))
    text = FactsBroker(PLANT, LISTEN, Path("/store"), LIMITS, included).render()
    assert text.endswith('include "../facts/trust.conf"\n')
    assert "operator" not in text
    assert "system_account" not in text
    for path in ("/facts/trust.conf", 'a"b', "a b", "a\nb"):
        with pytest.raises(RefusedError):
            IncludedTrust(PurePosixPath(path))
