# SPDX-License-Identifier: Apache-2.0
"""The probe of listeners, raw packets and ports, attacked: real sockets and devices in a network namespace."""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.watchdog.probes.listeners import GRACE_S, Allowed, ListenerPlaces, ListenersProbe
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code
from tests.netns import own_thread
from tests.tampering_network import FACTS, SOCKET_TAMPERINGS, Net, SocketTampering, look, told

SOMEBODY = "nobody"
ALLOWED = [[FACTS, "127.0.0.1", 4222], [954, "127.0.0.1", 8080]]


@pytest.fixture
def places(tmp_path: Path) -> ListenerPlaces:
    """What the site configuration says. In place of networkd's user, whom this machine need not have, is nobody."""
    allowed = tmp_path / "listeners.json"
    allowed.write_text(json.dumps(ALLOWED))
    return ListenerPlaces(allowed=allowed, networkd=SOMEBODY)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    """A network with a port, and nothing in it."""
    with own_thread() as within:
        made = Net(within, tmp_path)
        made.run("ip", "link", "set", "lo", "up")
        made.plug("uplink0")
        yield made


@pytest.fixture
def probe(net: Net, places: ListenerPlaces) -> Iterator[ListenersProbe]:
    """The probe, which has looked once."""
    made: ListenersProbe = net.within(lambda: ListenersProbe(places))
    assert told(net, made, 0.0) is False
    assert well(look(net, made))
    yield made
    net.within(made.close)


def well(reading: Reading) -> bool:
    """Whether nothing is seen."""
    assert (reading.seen, reading.blind) == ((), ""), reading
    return True


def codes(reading: Reading) -> set[Code]:
    """What is seen."""
    assert not reading.blind, reading
    return {seen.code for seen in reading.seen}


@pytest.mark.parametrize("tampering", SOCKET_TAMPERINGS, ids=lambda each: each.name)
def test_each_is_seen(net: Net, probe: ListenersProbe, tampering: SocketTampering) -> None:
    """Under its code and no other."""
    with tampering.running(net):
        assert codes(look(net, probe)) == {tampering.code}


def test_a_new_port_is_told(net: Net, probe: ListenersProbe) -> None:
    """By the kernel, at once; names that the site configuration gives are no surprise."""
    net.plug("plant0")
    assert told(net, probe)
    assert codes(look(net, probe)) == {Code.INTERFACE_FOREIGN}  # its peer, which a box has not
    net.run("ip", "link", "delete", "plant0")
    assert well(look(net, probe))


def test_what_a_box_does_itself_is_nothing(net: Net, probe: ListenersProbe) -> None:
    """Its listeners, networkd's sockets, sockets that are connected."""
    nobody = pwd.getpwnam(SOMEBODY).pw_uid

    def opened(kind: socket.SocketKind, family: int, uid: int, protocol: int = 0) -> socket.socket:
        made = socket.socket(family, kind, protocol)
        os.fchown(made.fileno(), uid, -1)  # the owner of a socket is who is named in the kernel's tables
        return made

    def open_all() -> list[socket.socket]:
        facts = opened(socket.SOCK_STREAM, socket.AF_INET, FACTS)
        facts.bind(("127.0.0.1", 4222))
        facts.listen()
        caller = socket.create_connection(("127.0.0.1", 4222))
        dhcp = opened(socket.SOCK_DGRAM, socket.AF_INET, nobody)
        dhcp.bind(("0.0.0.0", 68))  # noqa: S104 - as networkd does
        names = opened(socket.SOCK_DGRAM, socket.AF_INET, 954)
        names.connect(("127.0.0.1", 53))
        advertisements = opened(socket.SOCK_RAW, socket.AF_INET6, nobody, 58)
        packets = opened(socket.SOCK_RAW, socket.AF_PACKET, nobody, socket.htons(0x0806))
        return [facts, caller, dhcp, names, advertisements, packets]

    held = net.within(open_all)
    assert well(look(net, probe))
    for each in held:
        each.close()


def test_a_socket_that_is_gone_at_once_is_nothing(net: Net, places: ListenerPlaces) -> None:
    """Between its birth and its connection a socket looks as if it waited for anybody."""
    probe: ListenersProbe = net.within(lambda: ListenersProbe(places))
    short = net.within(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    net.within(lambda: short.bind(("127.0.0.1", 0)))
    original, looks = probe._foreign, 0

    def foreign() -> set[object]:
        nonlocal looks
        looks += 1
        found = original()
        short.close()
        return found  # type: ignore[return-value]

    probe._foreign = foreign  # type: ignore[method-assign, assignment]
    assert well(look(net, probe))
    assert looks == 2
    net.within(probe.close)


def test_a_new_site_configuration_has_its_time(places: ListenerPlaces) -> None:
    """Where the old one let a service listen, that is allowed until the service was started anew, and no longer."""
    allowed = Allowed(places)
    old, new = (FACTS, "127.0.0.1", 4222), (FACTS, "10.0.0.2", 4222)
    assert old in allowed.now(0.0)
    places.allowed.write_text(json.dumps([new]))
    assert allowed.now(1.0) >= {old, new}
    assert allowed.now(GRACE_S + 1.0) == {new}
    places.allowed.unlink()
    assert allowed.now(2 * GRACE_S + 2.0) == set()


def test_without_its_tables_it_is_blind(net: Net, places: ListenerPlaces) -> None:
    """Or with a document that is none, or without the user it must know. Nothing is held against the box."""
    places.allowed.write_text("{")
    broken = (places, ListenerPlaces(Path("/nowhere"), places.allowed), ListenerPlaces(networkd="no-such-user"))
    for each in broken:
        probe: ListenersProbe = net.within(lambda: ListenersProbe(each))  # noqa: B023 - called at once
        reading = look(net, probe)
        assert (reading.seen, bool(reading.blind)) == ((), True)
        net.within(probe.close)
        places.allowed.write_text("[]")
