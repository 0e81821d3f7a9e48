# SPDX-License-Identifier: Apache-2.0
"""The document between the program that asks name servers and the one that sets the firewall, attacked by the first."""

from __future__ import annotations

import json
import os
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.box import names_sets, site
from appliance.box.applying import Applying
from appliance.box.found import EACH_AT_MOST, MAX_BYTES, is_dialled, parsed, rendered
from appliance.box.layout import BoxLayout
from appliance.box.local import accepted
from appliance.box.names import WRITE_EVERY_S, Naming
from appliance.site.egress import SETS, names_to_resolve
from tests import sites

HUB, TIME = "hub.example.com", "nts.example.com"
GOOD = {"schema": 1, "names": {HUB: ["203.0.113.9", "2001:db8::9"], TIME: ["203.0.113.10"]}}
NO_SERVERS = (
    *("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "239.1.1.1", "ff02::1", "169.254.1.1"),  # noqa: S104
    *("fe80::1", "255.255.255.255", "240.0.0.1", "::ffff:127.0.0.1", "::ffff:203.0.113.9", "fe80::1%1"),
)


def document(**names: object) -> bytes:
    """With what stands for the hub's name."""
    return json.dumps({"schema": 1, "names": {HUB: names["hub"]}}).encode()


BAD = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "a number": b"1",
    "not ASCII": json.dumps(GOOD).encode().replace(b"203", "203\u00e9".encode()),
    "nested too deeply": b"[" * 50_000,
    "too large": json.dumps(GOOD).encode() + b" " * MAX_BYTES,
    "no schema": json.dumps({"names": {}}).encode(),
    "another schema": json.dumps({**GOOD, "schema": 2}).encode(),
    "schema true": json.dumps({**GOOD, "schema": True}).encode(),
    "schema 1.0": json.dumps({**GOOD, "schema": 1.0}).encode(),
    "no names": json.dumps({"schema": 1}).encode(),
    "names a list": json.dumps({"schema": 1, "names": [HUB]}).encode(),
    "something else": json.dumps({**GOOD, "sets": "lease"}).encode(),
    "a name twice": b'{"schema":1,"names":{"hub.example.com":["203.0.113.9"],"hub.example.com":["203.0.113.8"]}}',
    "names twice": b'{"schema":1,"names":{},"names":{}}',
    "a foreign name": json.dumps({"schema": 1, "names": {"evil.example.com": ["203.0.113.9"]}}).encode(),
    "a name in capitals": json.dumps({"schema": 1, "names": {HUB.upper(): ["203.0.113.9"]}}).encode(),
    "no list": document(hub="203.0.113.9"),
    "an empty list": document(hub=[]),
    "a number for an address": document(hub=[3405803785]),
    "nothing for an address": document(hub=[None]),
    "a list in the list": document(hub=[["203.0.113.9"]]),
    "too many": document(hub=[f"203.0.113.{number}" for number in range(1, EACH_AT_MOST + 2)]),
    "one twice": document(hub=["203.0.113.9", "203.0.113.9"]),
    "a name for an address": document(hub=["localhost"]),
    "a network": document(hub=["203.0.113.0/24"]),
    "a range": document(hub=["203.0.113.1-203.0.113.9"]),
    "with a port": document(hub=["203.0.113.9 . 22"]),
    "with more rules": document(hub=['203.0.113.9 }\nadd element inet bsfg lease { "uplink0"']),
    "leading zeros": document(hub=["203.0.113.09"]),
    "in another form": document(hub=["2001:0db8::9"]),
    "in capitals": document(hub=["2001:DB8::9"]),
    "with a space": document(hub=[" 203.0.113.9"]),
    **{f"no server: {text}": document(hub=[text]) for text in NO_SERVERS},
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_nothing_else_is_believed(data: bytes) -> None:
    """Each is refused as a whole; what is good is accepted beside it."""
    assert parsed(json.dumps(GOOD).encode(), (HUB, TIME))
    with pytest.raises(RefusedError) as caught:
        parsed(data, (HUB, TIME))
    assert caught.value.reason is Reason.BAD_DOCUMENT
    assert "\n" not in caught.value.detail


@given(
    st.dictionaries(
        st.sampled_from([HUB, TIME, "proxy.example.com"]),
        st.lists(st.ip_addresses().filter(is_dialled), min_size=1, max_size=EACH_AT_MOST, unique=True).map(tuple),
    )
)
def test_what_is_written_is_read(resolved: dict[str, tuple[object, ...]]) -> None:
    """And it fits in a document, whatever was found."""
    data = rendered(resolved)  # type: ignore[arg-type]
    assert len(data) <= MAX_BYTES
    assert parsed(data, (HUB, TIME, "proxy.example.com")) == resolved


@pytest.mark.parametrize("text", NO_SERVERS)
def test_what_is_no_servers_is_not_looked_up_either(text: str) -> None:
    """The same rule on both sides."""
    assert not is_dialled(ip_address(text))
    assert is_dialled(ip_address("203.0.113.9"))
    assert is_dialled(ip_address("10.0.0.1")), "hubs stand in private networks, too"


# -- the program that fills the sets -----------------------------------------------------------------------------------


@pytest.fixture
def at(tmp_path: Path) -> BoxLayout:
    """A box whose hub has a name and no address."""
    made = BoxLayout(tmp_path)
    made.candidate.parent.mkdir(parents=True)
    made.candidate.write_bytes(sites.signed(1, name="single-site"))
    site.run(made, Applying(made))
    return made


def names(at: BoxLayout) -> tuple[str, ...]:
    """That must be looked up."""
    config = accepted(at)
    found = names_to_resolve(config)
    assert found
    return found


def told(at: BoxLayout) -> dict[str, object]:
    """Its status document."""
    values: dict[str, object] = json.loads(at.status_document("names-sets").read_bytes())
    return values


def test_the_sets_get_what_was_found(at: BoxLayout) -> None:
    """In one transaction that empties them first."""
    address = ip_address("203.0.113.9")
    at.names_found.write_bytes(rendered(dict.fromkeys(names(at), (address,))))
    scripts: list[str] = []
    names_sets.run(at, scripts.append)
    (script,) = scripts
    assert all(f"flush set inet bsfg {name}\n" in script for name in SETS)
    assert "add element inet bsfg hub4 { 203.0.113.9 . " in script
    assert at.names_script.read_text("utf-8") == script
    assert (told(at)["state"], told(at)["names"], told(at)["problems"]) == ("filled", len(names(at)), [])


def test_what_is_replaced_meanwhile_is_read_too(at: BoxLayout) -> None:
    """Nobody is told of a change that comes while it runs. Whoever replaces it for ever is not followed."""
    number = 0

    def replace(_: str) -> None:
        nonlocal number
        number += 1
        address = ip_address(f"203.0.113.{number}")
        at.names_found.write_bytes(rendered(dict.fromkeys(names(at), (address,))))

    replace("")
    names_sets.run(at, replace)
    assert number == 1 + names_sets.ROUNDS
    scripts: list[str] = []
    names_sets.run(at, scripts.append)
    assert len(scripts) == 1


class Resolver(trio.abc.HostnameResolver):
    """Answers what it is told."""

    def __init__(self) -> None:
        self.answers = ["203.0.113.9", "127.0.0.1"]

    async def getaddrinfo(self, host: object, port: object, *_: object, **__: object) -> Any:
        """As the name servers say."""
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, 0)) for answer in self.answers]

    async def getnameinfo(self, *_: object) -> Any:
        """The other half of trio's interface; looking names up never asks for it."""
        raise NotImplementedError("nobody asks for names of addresses")


async def test_who_asks_writes_down_what_the_other_reads(at: BoxLayout) -> None:
    """The table of names and the document; and again after a while, should the other have missed it."""
    resolver, naming = Resolver(), Naming(at, accepted(at))
    trio.socket.set_custom_hostname_resolver(resolver)
    for name in names(at):
        await naming.look_up(name)
    naming.write()
    assert "203.0.113.9 " in at.hosts_file.read_text()
    scripts: list[str] = []
    names_sets.run(at, scripts.append)
    assert "203.0.113.9 . " in scripts[0]
    assert "127.0.0.1" not in scripts[0]
    at.names_found.unlink()
    naming.write()
    assert not at.names_found.exists(), "nothing has changed"
    naming.written_at -= WRITE_EVERY_S
    naming.write()
    assert at.names_found.exists()


def link(at: BoxLayout) -> None:
    """A link to what the other may not read."""
    secret = at.root / "secret"
    secret.write_text('{"schema": 1, "names": {}}')
    at.names_found.symlink_to(secret)


SWAPPED = {
    "link": link,
    "pipe": lambda at: os.mkfifo(at.names_found),
    "folder": lambda at: at.names_found.mkdir(),
    "no document": lambda at: at.names_found.write_bytes(b"{}"),
    "not there": lambda at: None,
}


@pytest.mark.parametrize("kind", SWAPPED)
def test_what_is_refused_changes_nothing(at: BoxLayout, kind: str) -> None:
    """Nor does it hang; and the status says why."""
    SWAPPED[kind](at)  # type: ignore[no-untyped-call]
    scripts: list[str] = []
    with pytest.raises(BsfgError) as caught:
        names_sets.run(at, scripts.append)
    assert scripts == []
    assert caught.value.reason is (Reason.NOT_READY if kind == "not there" else Reason.BAD_DOCUMENT)
    assert told(at)["state"] == "failed"
    assert told(at)["problems"][0]["reason"] == caught.value.reason  # type: ignore[index]
