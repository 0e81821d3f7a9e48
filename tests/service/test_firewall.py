# SPDX-License-Identifier: Apache-2.0
"""The firewall of the box, attacked: its real rules in this kernel, in network namespaces.

Every attack is shown to work where the protection is taken away (``without``), so that none of them fails for another
reason.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.watchdog.nft import NftLease
from tests.egress import EVERY_SENDER, talking, tapped, within
from tests.firewalled import (
    AGENT,
    CHRONY,
    CONTROL,
    DNS_PORT,
    ENROL,
    FACTS,
    HUB4,
    HUB6,
    MACHINE,
    NAMES,
    NATS_PORT,
    NETWORKD,
    NTP_PORT,
    OTHER_MACHINE,
    PLANT4,
    ROOT,
    RPC_PORT,
    UPLINK4,
    Space,
    World,
    numbered,
    run,
)
from tools.image import hardening
from tools.image.hardening.build import DEVICE_RULES, FIREWALL

SETS = f"""
add element inet bsfg hub4 {{ {HUB4} . {RPC_PORT} }}
add element inet bsfg hub6 {{ {HUB6} . {RPC_PORT} }}
add element inet bsfg resolver4 {{ {HUB4} . {DNS_PORT} }}
add element inet bsfg time4 {{ {HUB4} . {NTP_PORT} }}
add element inet bsfg plant_ingress {{ "plant0" . {NATS_PORT} }}
"""
LEASE = 'add element inet bsfg lease { "uplink0" timeout 1h }'
DARK = 'add element inet bsfg dark { "uplink0" }\nadd element netdev bsfg dark { "uplink0" }'
ALLOWED = (AGENT, CONTROL, ENROL)
EVERYBODY = (ROOT, FACTS, AGENT, CONTROL, ENROL, NAMES, NETWORKD, CHRONY, 955, 956, 65534)
TCP, ICMP, RAW = 6, 1, 255

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: several users take part in network namespaces")


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the image loads: the firewall, and the chain of each device of this world."""
    root = tmp_path_factory.mktemp("root")
    hardening.render(root)
    devices = [(root / DEVICE_RULES / f"{name}.nft").read_text("utf-8") for name in ("uplink0", "plant0")]
    return [numbered((root / FIREWALL).read_text("utf-8")), *devices]


@pytest.fixture(scope="module")
def bare(find_tool: Callable[[str], str]) -> Iterator[World]:
    """Networks with servers in each of them, and no firewall yet."""
    for tool in ("nft", "ip", "setpriv"):
        find_tool(tool)
    world = World(f"{os.getpid()}")
    try:
        world.build()
        hub = ([(HUB4, RPC_PORT), (HUB6, RPC_PORT), (HUB4, 9)], [(HUB4, DNS_PORT), (HUB4, NTP_PORT), (HUB4, 9)])
        box = ([("0.0.0.0", NATS_PORT), ("0.0.0.0", 22)], [("0.0.0.0", 5000)])  # noqa: S104 - a mistake that the firewall must cover
        plant: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([(MACHINE, 80)], [])
        with (
            world.hub.doing("serve", *hub),
            world.box.doing("serve", *box),
            world.plant.doing("serve", *plant),
        ):
            yield world
    finally:
        world.remove()


@pytest.fixture
def world(bare: World, rules: list[str]) -> World:
    """With the firewall as after boot: the site's addresses are in, and there is no lease."""
    for text in rules:
        bare.box.nft(text)
    bare.box.nft(SETS)
    return bare


@pytest.fixture
def healthy(world: World) -> World:
    """And with the lease."""
    world.box.nft(LEASE)
    return world


def count(space: Space, control: str) -> int:
    """How many packets the rules of a control have met."""
    listing = run(*space.within("nft", "list", "ruleset"))
    return sum(map(int, re.findall(rf'counter packets (\d+) .*comment "{control}"', listing)))


def without(space: Space) -> None:
    """Take the firewall away."""
    space.nft("flush ruleset")


def reaches(world: World, user: int, host: str = HUB4, port: int = RPC_PORT) -> bool:
    """Whether a user of the box gets an answer by TCP."""
    return world.box.act("connect", host, port, user=user) == "ping"


def those_who(may: Callable[[int], bool]) -> list[int]:
    """Of all users those who may; they try at the same time, for a refusal shows by waiting in vain."""
    with ThreadPoolExecutor(len(EVERYBODY)) as pool:
        return [user for user, may_he in zip(EVERYBODY, pool.map(may, EVERYBODY), strict=True) if may_he]


# -- towards the hub ---------------------------------------------------------------------------------------------------


def test_another_user_cannot_reach_the_hub(healthy: World) -> None:
    """The way that is open for three users is open for nobody else, root included."""
    assert those_who(lambda user: reaches(healthy, user)) == [user for user in EVERYBODY if user in ALLOWED]
    assert count(healthy.box, "HRD-NET-031") > 0
    without(healthy.box)
    assert reaches(healthy, ROOT)


def test_without_a_lease_nobody_reaches_the_hub(world: World) -> None:
    """After boot, until the watchdog has proven health."""
    assert those_who(lambda user: reaches(world, user)) == []
    assert count(world.box, "HRD-NET-033") > 0
    world.box.nft(LEASE)
    assert reaches(world, AGENT)


def test_behind_a_proxy_the_proxy_alone_is_reached(world: World) -> None:
    """By the same three users, while the lease lives; the hub itself is no destination then."""
    world.box.nft(f"flush set inet bsfg hub4\nadd element inet bsfg proxy4 {{ {HUB4} . 9 }}")
    assert not reaches(world, AGENT, HUB4, 9)
    world.box.nft(LEASE)
    assert [user for user in (ROOT, FACTS, AGENT, CONTROL, ENROL) if reaches(world, user, HUB4, 9)] == list(ALLOWED)
    assert not reaches(world, AGENT)


def test_other_ports_are_closed(healthy: World) -> None:
    """Of the hub; other machines of the uplink; ports of the box on the plant's side; and the plant from the box."""
    assert not reaches(healthy, AGENT, HUB4, 9)
    assert not reaches(healthy, AGENT, MACHINE, 80)
    assert healthy.box.act("datagram", HUB4, 9, user=AGENT) is None
    assert healthy.plant.act("connect", PLANT4, 22) is None
    assert healthy.plant.act("datagram", PLANT4, 5000) is None
    assert count(healthy.box, "HRD-NET-009") >= 5
    without(healthy.box)
    assert reaches(healthy, AGENT, HUB4, 9)
    assert reaches(healthy, AGENT, MACHINE, 80)
    assert healthy.plant.act("connect", PLANT4, 22) == "ping"
    assert healthy.plant.act("datagram", PLANT4, 5000) == "ping"


def test_the_lease_ends_by_itself(world: World) -> None:
    """Renewed as the watchdog does it, it holds; after its last renewal no program has to run to close it."""
    for _ in range(3):
        element = 'element inet bsfg lease { "uplink0"'
        world.box.nft(f"add {element} timeout 2s }}\ndelete {element} }}\nadd {element} timeout 2s }}")
        assert reaches(world, AGENT)
        time.sleep(1.0)
    time.sleep(1.2)
    assert not reaches(world, AGENT)


def test_an_open_connection_stops_with_the_lease(healthy: World) -> None:
    """There is no shortcut for what is established."""
    with healthy.box.doing("talk", HUB4, RPC_PORT, 0, user=AGENT) as talk:
        assert talk.first == "ping"
        healthy.box.nft('delete element inet bsfg lease { "uplink0" }')
        assert talk.go_on() is None
    healthy.box.nft(LEASE)
    with healthy.box.doing("talk", HUB4, RPC_PORT, 0, user=AGENT) as talk:
        assert talk.go_on() == "ping"


def test_ipv6_works(healthy: World) -> None:
    """With the same rules; neighbours are found."""
    assert [user for user in (ROOT, AGENT, CHRONY) if reaches(healthy, user, HUB6)] == [AGENT]
    assert count(healthy.box, "HRD-NET-006") > 0
    assert count(healthy.box, "HRD-NET-040") > 0
    healthy.box.nft('delete element inet bsfg lease { "uplink0" }')
    assert not reaches(healthy, AGENT, HUB6)


# -- before health is proven -------------------------------------------------------------------------------------------


def test_names_and_time_pass_before_health(world: World) -> None:
    """For those who need them, at the site's servers, and not too much of it."""
    asked = those_who(lambda user: world.box.act("datagram", HUB4, DNS_PORT, user=user) == "ping")
    assert asked == [user for user in EVERYBODY if user in {*ALLOWED, NAMES, CHRONY}]
    assert those_who(lambda user: world.box.act("datagram", HUB4, NTP_PORT, user=user) == "ping") == [CHRONY]
    assert world.box.act("datagram", HUB4, 9, user=CHRONY) is None
    for port, user, control, most in ((NTP_PORT, CHRONY, "HRD-NET-043", 60), (DNS_PORT, NAMES, "HRD-NET-042", 130)):
        before = count(world.box, control)
        sent = world.box.act("burst", HUB4, port, 1000, user=user)
        assert isinstance(sent, int)
        assert 30 < sent < most
        assert count(world.box, control) == before + sent


def test_dhcp_passes_before_health(world: World) -> None:
    """By networkd, by socket and by packet socket; its answers come in without a connection to belong to."""
    request = world.box.act("datagram", "255.255.255.255", 67, 68, False, user=NETWORKD, privileges="net_bind_service")
    assert request == "sent"
    assert count(world.box, "HRD-NET-041") == 1
    assert (
        world.box.act("datagram", "255.255.255.255", 67, 68, False, user=AGENT, privileges="net_bind_service") is None
    )
    frame = _dhcp_frame(_address(world.box, "uplink0"))
    with world.hub.doing("listen", "wan", 1.0) as listening:
        world.box.act("frame", "uplink0", frame, user=NETWORKD, privileges="net_raw")
        seen = listening.line()
    assert isinstance(seen, list)
    assert frame in seen
    world.hub.act("datagram", UPLINK4, 68, 67, False)
    assert count(world.box, "HRD-NET-007") == 1


# -- packet sockets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [ROOT, AGENT, NETWORKD])
@pytest.mark.parametrize("mark", [0, 1, 2, 3])
def test_a_packet_socket_gets_nothing_out(healthy: World, user: int, mark: int) -> None:
    """They pass the first table by; the second sees them, also with a forged mark, also while the lease lives."""
    frame = _tcp_frame(healthy, 40000 + mark)
    privileges = "net_raw net_admin"
    with healthy.hub.doing("listen", "wan", 0.6) as listening:
        healthy.box.act("frame", "uplink0", frame, mark, user=user, privileges=privileges)
        seen = listening.line()
    assert isinstance(seen, list)
    assert frame not in seen
    assert count(healthy.box, "HRD-NET-051") > 0
    without(healthy.box)
    with healthy.hub.doing("listen", "wan", 0.6) as listening:
        healthy.box.act("frame", "uplink0", frame, mark, user=user, privileges=privileges)
        seen = listening.line()
    assert isinstance(seen, list)
    assert frame in seen


def test_a_raw_socket_gets_nothing_out(healthy: World) -> None:
    """Of IP, by another user: it goes the way of all packets."""
    packet = struct.pack("!HHIIBBHHH", 40001, RPC_PORT, 1, 0, 5 << 4, 2, 1024, 0, 0).hex()
    before = count(healthy.box, "HRD-NET-031")
    assert healthy.box.act("raw", HUB4, TCP, packet, user=FACTS) is None
    assert healthy.box.act("raw", HUB4, TCP, packet, user=FACTS, privileges="net_raw") is None
    assert count(healthy.box, "HRD-NET-031") == before + 1


def test_a_program_cannot_speak_arp(healthy: World) -> None:
    """So nobody on the box answers in another's name; the kernel itself does speak it."""
    healthy.box.ip("neighbour flush dev uplink0")
    assert reaches(healthy, AGENT)
    assert count(healthy.box, "HRD-NET-053") > 0
    own = _address(healthy.box, "uplink0")
    lie = (
        b"\xff" * 6 + own + bytes.fromhex("0806000108000604000210000000000a4d0063") + own[:1] * 6 + b"\x0a\x4d\x00\x01"
    )
    with healthy.hub.doing("listen", "wan", 0.6) as listening:
        healthy.box.act("frame", "uplink0", lie.hex())
        seen = listening.line()
    assert isinstance(seen, list)
    assert lie.hex() not in seen
    assert count(healthy.box, "HRD-NET-052") == 1


# -- in quarantine -----------------------------------------------------------------------------------------------------


def test_quarantine_is_dark(healthy: World) -> None:
    """Not one frame, whoever tries; and the plant goes on."""
    healthy.box.nft(DARK)
    healthy.box.ip("neighbour flush dev uplink0")
    with healthy.hub.doing("listen", "wan", 4.0) as listening:
        assert not reaches(healthy, AGENT)
        assert not reaches(healthy, AGENT, HUB6)
        assert healthy.box.act("datagram", HUB4, NTP_PORT, user=CHRONY) is None
        frame = _dhcp_frame(_address(healthy.box, "uplink0"))
        healthy.box.act("frame", "uplink0", frame, user=NETWORKD, privileges="net_raw")
        assert healthy.plant.act("connect", PLANT4, NATS_PORT) == "ping"
        seen = listening.line()
    assert seen == []
    assert count(healthy.box, "HRD-NET-030") > 0


# -- from outside ------------------------------------------------------------------------------------------------------


def test_quarantine_is_dark_whatever_the_rules_say(healthy: World) -> None:
    """Somebody has changed them to let everything pass; a wall of the watchdog's own stands beside them."""
    healthy.box.nft(
        "insert rule inet bsfg output accept\nflush chain netdev bsfg uplink0\nadd rule netdev bsfg uplink0 accept"
    )
    lease = within(healthy.box, NftLease)
    with tapped(healthy.hub) as tap, talking(healthy.box, senders=EVERY_SENDER):
        time.sleep(0.4)
        assert tap.frames()
        within(healthy.box, lambda: lease.dark("firewall_changed"))
        tap.frames()
        time.sleep(0.6)
        assert tap.frames() == []
        within(healthy.box, lease.light)
        time.sleep(0.4)
        assert tap.frames()


def test_nothing_comes_in_on_the_uplink(healthy: World) -> None:
    """Whatever listens behind it by mistake."""
    assert healthy.hub.act("connect", UPLINK4, NATS_PORT) is None
    assert healthy.hub.act("connect", UPLINK4, 22) is None
    assert healthy.hub.act("connect", PLANT4, NATS_PORT) is None
    assert healthy.hub.act("datagram", UPLINK4, 5000) is None
    assert not _echoes(healthy.hub, UPLINK4)
    before = count(healthy.box, "HRD-NET-004")
    assert reaches(healthy, AGENT)
    assert count(healthy.box, "HRD-NET-004") > before
    without(healthy.box)
    assert healthy.hub.act("connect", UPLINK4, NATS_PORT) == "ping"
    assert healthy.hub.act("connect", PLANT4, NATS_PORT) == "ping"
    assert _echoes(healthy.hub, UPLINK4)


def test_the_uplink_is_never_an_ingress(healthy: World) -> None:
    """A set that names it opens nothing."""
    healthy.box.nft(f'add element inet bsfg plant_ingress {{ "uplink0" . {NATS_PORT} }}')
    assert healthy.hub.act("connect", UPLINK4, NATS_PORT) is None
    assert count(healthy.box, "HRD-NET-010") > 0


def test_plant_reaches_its_port(world: World) -> None:
    """The documented one, and without a lease."""
    assert world.plant.act("connect", PLANT4, NATS_PORT) == "ping"
    assert world.plant.act("connect", "fd88::2", NATS_PORT) is None  # nothing listens there
    assert count(world.box, "HRD-NET-012") > 0
    assert count(world.box, "HRD-NET-013") > 0


def test_the_plant_works_without_a_lease(healthy: World) -> None:
    """A connection that was open when the lease ended, too."""
    with healthy.plant.doing("talk", PLANT4, NATS_PORT, 0) as talk:
        healthy.box.nft('delete element inet bsfg lease { "uplink0" }')
        assert talk.go_on() == "ping"


def test_plant_cannot_pose_as_the_hub(healthy: World) -> None:
    """A sender that we would answer elsewhere is dropped, on a port that is open too."""
    before = count(healthy.box, "HRD-NET-012")
    healthy.plant.act("raw", PLANT4, RAW, _syn(HUB4, PLANT4, 40002, NATS_PORT).hex())
    assert count(healthy.box, "HRD-NET-003") == 1
    healthy.plant.act("raw", PLANT4, RAW, _syn(MACHINE, PLANT4, 40003, NATS_PORT).hex())
    assert count(healthy.box, "HRD-NET-003") == 1
    assert count(healthy.box, "HRD-NET-012") == before + 1


def test_odd_packets_are_not_answered(healthy: World) -> None:
    """Where there is no firewall, the kernel answers them with a reset: that tells a scan something."""
    odd = [_segment(MACHINE, PLANT4, 40010 + flags, NATS_PORT, flags) for flags in (0x10, 0x11, 0x29, 0x00)]

    def answers() -> int:
        with healthy.plant.doing("listen", "lan", 0.6) as listening:
            for packet in odd:
                healthy.plant.act("raw", PLANT4, RAW, packet.hex())
            seen = listening.line()
        assert isinstance(seen, list)
        return sum(bytes.fromhex(frame)[12:14] == b"\x08\x00" and bytes.fromhex(frame)[23] == TCP for frame in seen)

    assert answers() == 0
    assert count(healthy.box, "HRD-NET-002") > 0
    without(healthy.box)
    assert answers() > 0


def test_errors_about_our_packets_come_in(healthy: World) -> None:
    """That a packet was too big, for a connection that we have; not for one that we do not have."""
    with healthy.box.doing("talk", HUB4, RPC_PORT, 0, user=AGENT) as talk:
        assert talk.first == "ping"
        listing = run(*healthy.box.within("ss", "-Htn", "state", "established", "dst", HUB4))
        port = int(re.findall(rf"{UPLINK4}:(\d+)", listing)[0])
        for source, expected in ((port, 1), (port ^ 1, 1)):
            inner = _segment(UPLINK4, HUB4, source, RPC_PORT, 0x10)[:28]
            healthy.hub.act("raw", UPLINK4, ICMP, _icmp(3, 4, 1300, inner).hex())
            assert count(healthy.box, "HRD-NET-005") == expected


def test_a_flood_locks_out_nobody_else(world: World) -> None:
    """One machine that opens connections without end is held back; its neighbour gets through."""
    world.plant.act("flood", PLANT4, NATS_PORT, 600, MACHINE)
    assert count(world.box, "HRD-NET-011") > 100
    assert world.plant.act("connect", PLANT4, NATS_PORT, OTHER_MACHINE) == "ping"


def test_nothing_passes_through(healthy: World) -> None:
    """Also if the kernel were told to be a router."""
    healthy.box.setting("net.ipv4.ip_forward", "1")
    try:
        assert healthy.plant.act("connect", HUB4, RPC_PORT) is None
        assert count(healthy.box, "HRD-NET-020") > 0
        without(healthy.box)
        assert healthy.plant.act("connect", HUB4, RPC_PORT) == "ping"
    finally:
        healthy.box.setting("net.ipv4.ip_forward", "0")


def test_loopback_is_free(world: World) -> None:
    """The box talks to itself, by its addresses too."""
    for host in ("127.0.0.1", PLANT4):
        assert world.box.act("connect", host, NATS_PORT, user=AGENT) == "ping"


def test_rules_can_be_loaded_again(healthy: World, rules: list[str]) -> None:
    """As a whole; there is no moment without them, and no rule twice."""
    before = run(*healthy.box.within("nft", "-s", "list", "chain", "netdev", "bsfg", "uplink0"))
    for text in rules:
        healthy.box.nft(text)
    assert not reaches(healthy, AGENT)
    assert run(*healthy.box.within("nft", "-s", "list", "chain", "netdev", "bsfg", "uplink0")) == before


# -- packets -----------------------------------------------------------------------------------------------------------


def _address(space: Space, device: str) -> bytes:
    text = run(*space.within("cat", Path("/sys/class/net") / device / "address"))
    return bytes.fromhex(text.strip().replace(":", ""))


def _numbers(host: str) -> bytes:
    return bytes(map(int, host.split(".")))


def _sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ip(source: str, target: str, protocol: int, inner: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(inner), 1, 0, 64, protocol, 0)
    head += _numbers(source) + _numbers(target)
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + inner


def _segment(source: str, target: str, source_port: int, port: int, flags: int) -> bytes:
    head = struct.pack("!HHIIBBHHH", source_port, port, 1000, 2000, 5 << 4, flags, 1024, 0, 0)
    pseudo = _numbers(source) + _numbers(target) + struct.pack("!BBH", 0, TCP, len(head))
    return _ip(source, target, TCP, head[:16] + struct.pack("!H", _sum(pseudo + head)) + head[18:])


def _syn(source: str, target: str, source_port: int, port: int) -> bytes:
    return _segment(source, target, source_port, port, 2)


def _icmp(kind: int, code: int, value: int, inner: bytes) -> bytes:
    head = struct.pack("!BBHI", kind, code, 0, value)
    return struct.pack("!BBHI", kind, code, _sum(head + inner), value) + inner


def _tcp_frame(world: World, source_port: int) -> str:
    head = _address(world.hub, "wan") + _address(world.box, "uplink0") + b"\x08\x00"
    return (head + _syn(UPLINK4, HUB4, source_port, RPC_PORT)).hex()


def _dhcp_frame(own: bytes) -> str:
    datagram = struct.pack("!HHHH", 68, 67, 8 + 4, 0) + b"ping"
    return (b"\xff" * 6 + own + b"\x08\x00" + _ip("0.0.0.0", "255.255.255.255", 17, datagram)).hex()  # noqa: S104 - no address yet


def _echoes(space: Space, target: str) -> bool:
    """Whether a machine answers a ping."""
    with space.doing("listen", "wan", 0.6) as listening:
        space.act("raw", target, ICMP, _icmp(8, 0, 1, b"").hex())
        seen = listening.line()
    assert isinstance(seen, list)
    return any(bytes.fromhex(frame)[23:24] == b"\x01" and bytes.fromhex(frame)[34:35] == b"\x00" for frame in seen)
