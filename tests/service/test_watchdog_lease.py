# SPDX-License-Identifier: Apache-2.0
"""The egress lease in the kernel's own firewall, and the watchdog's process: what stops it closes the uplink."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.dev.processes import python_environment
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.server import KeeperServer
from appliance.keys.time_token import HubTrust
from appliance.node.status import BrokerStatus, StatusDocument
from appliance.watchdog.carriers import CARRIERS
from appliance.watchdog.lease import LEASE_S
from appliance.watchdog.nft import DARK_TABLES, UPLINK, Nftables, NftLease
from appliance.watchdog.suspicions import ProbeName
from tests.contracts.lease import BlackoutContract, DarkWorld, LeaseContract, World
from tests.fakes.keeper import FakeKeeper
from tests.keepers import BUILDER, HUB, OPERATORS, PLANT, Site
from tests.netns import Namespace, namespace, own_thread
from tests.processes import running
from tools.image.hardening.build import DEVICES, device_rules

RULES = """
table inet bsfg {
    set lease { type ifname; flags timeout; }
    set dark { type ifname; }
    chain output {
        type filter hook output priority filter; policy drop;
        oifname "lo" accept
        oifname @dark counter drop
        udp dport 53 accept
        oifname @lease counter accept
        counter drop
    }
}
table netdev bsfg {
    set dark { type ifname; }
    chain judge {
        oifname @dark counter drop
        counter accept
    }
}
"""
GRACE_S = 1.0
FIREWALL = Path(__file__).resolve().parent.parent.parent / "hardening/files/usr/lib/bsfg/firewall.nft"


def make_uplink(run: Callable[..., object], name: str = "uplink0") -> None:
    """A device of this name that is up."""
    run("ip", "link", "add", name, "type", "veth", "peer", "name", f"far-{name}")
    run("ip", "link", "set", f"far-{name}", "up")
    run("ip", "link", "set", name, "up")


class InThread:
    """A lease whose every call is made in another thread: the one with a network of its own."""

    def __init__(self, call: Callable[[Callable[[], None]], None]) -> None:
        self._call = call
        self._lease = NftLease()

    def renew(self) -> None:
        """As the port says."""
        self._call(self._lease.renew)

    def close(self) -> None:
        """As the port says."""
        self._call(self._lease.close)

    def dark(self, why: str) -> None:
        """As the port says."""
        self._call(lambda: self._lease.dark(why))

    def darkened(self) -> str | None:
        """As the port says."""
        found: list[str | None] = []
        self._call(lambda: found.append(self._lease.darkened()))
        return found[0]

    def light(self) -> None:
        """As the port says."""
        self._call(self._lease.light)


class TestNftLease(LeaseContract):
    """In a network namespace."""

    @pytest.fixture
    def world(self) -> Iterator[World]:
        """With the rules of a box, as far as the lease is concerned."""
        with own_thread() as within:
            nftables: Nftables = within(Nftables)

            within(lambda: make_uplink(lambda *words: subprocess.run(words, check=True)))

            def load() -> None:
                within(
                    lambda: nftables.run(
                        "add table inet bsfg", "delete table inet bsfg", RULES, device_rules("uplink0")
                    )
                )

            def is_open() -> bool:
                return "uplink0" in str(within(lambda: nftables.run("list set inet bsfg lease")))

            def drop() -> None:
                within(lambda: nftables.run("delete table inet bsfg"))

            def unjudge() -> None:
                within(lambda: nftables.run("delete chain netdev bsfg uplink0"))

            load()
            yield World(
                InThread(within),
                is_open,
                time.sleep,
                drop,
                load,
                unjudge,
            )


class TestNftBlackout(BlackoutContract):
    """In a network namespace: what comes out at the other end of the cable."""

    @pytest.fixture
    def dark_world(self) -> Iterator[DarkWorld]:
        """With the rules of a box, as far as the dark is concerned."""
        with own_thread() as within:
            nftables: Nftables = within(Nftables)
            within(lambda: make_uplink(lambda *words: subprocess.run(words, check=True)))
            within(lambda: subprocess.run(["ip", "address", "add", "192.0.2.10/24", "dev", "uplink0"], check=True))
            near = "ip neigh add 192.0.2.99 lladdr 02:00:00:00:00:01 dev uplink0"
            within(lambda: subprocess.run(near.split(), check=True))
            within(lambda: _loaded(nftables))
            lease = InThread(within)
            yield DarkWorld(
                lease,
                lease,
                lambda: within(lambda: comes_out(9)),
                lambda: within(lambda: comes_out(53)),
                lambda: within(lambda: _dropped(nftables)),
                lambda: within(lambda: _loaded(nftables)),
            )


def _loaded(nftables: Nftables) -> None:
    for table in DARK_TABLES:
        nftables.run(f"add table {table}", f"delete table {table}")
    nftables.run(RULES, device_rules("uplink0"))


def _dropped(nftables: Nftables) -> None:
    for table in DARK_TABLES:
        nftables.run(f"delete table {table}")


def comes_out(port: int) -> bool:
    """Whether a datagram, and a frame beside it, arrive at the other end of the uplink; both or neither."""
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as far,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as near,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        far.bind(("far-uplink0", 3))
        near.bind(("uplink0", 0))
        mark = os.urandom(16)
        with suppress(PermissionError):
            sender.sendto(mark, ("192.0.2.99", port))
        arrived = _arrives(far, mark)
        with suppress(OSError):
            near.send(bytes(12) + b"\x88\xb5" + mark)
        assert _arrives(far, mark) or not arrived, "a packet comes out where no frame does"
        return arrived


def _arrives(far: socket.socket, mark: bytes) -> bool:
    far.settimeout(0.2)
    with suppress(TimeoutError):
        while True:
            if far.recv(2000)[-len(mark) :] == mark:
                return True
    return False


def test_the_firewall_of_the_image_has_these_sets() -> None:
    """The lease and the dark are elements of sets that stand in another file."""
    text = FIREWALL.read_text("utf-8")
    assert re.search(r"set lease \{ type ifname; flags timeout; \}", text)
    assert len(re.findall(r"set dark \{ type ifname; \}", text)) == len(DARK_TABLES)
    assert len(re.findall(r"oifname @dark counter drop", text)) == len(DARK_TABLES)


@pytest.fixture
def net() -> Iterator[Namespace]:
    """A network with an uplink and the rules."""
    with namespace() as made:
        make_uplink(made.run)
        made.run("ip", "address", "add", "192.0.2.10/24", "dev", "uplink0")
        made.nft(RULES + device_rules("uplink0"))
        yield made


def is_open(net: Namespace) -> bool:
    """Whether the kernel lets packets out."""
    return "uplink0" in net.run("nft", "list", "set", "inet", "bsfg", "lease")


_THREADS = """
import threading
from appliance.watchdog.nft import NftLease, Nftables
done = []
def work(number):
    rule = f"add chain inet bsfg c{number}\\nadd rule inet bsfg c{number} oif lo accept"
    for _ in range(20):
        lease, nftables = NftLease(), Nftables()
        for _ in range(10):
            lease.renew() if number else lease.dark("kexec_loaded")
            nftables.run(f"{rule}\\nflush chain inet bsfg c{number}\\nlist ruleset")
        nftables.close()
    done.append(number)
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
[each.start() for each in threads]
[each.join() for each in threads]
print(*sorted(done))
"""


def test_threads_do_not_meet_in_the_library(net: Namespace) -> None:
    """The lease's thread, the cut and the probe of the firewall each have a context; the library has lists for all."""
    said = net.run(sys.executable, "-P", "-c", _THREADS)
    assert said.split() == ["0", "1", "2", "3"]


# -- the judge on the device ------------------------------------------------------------------------------------------

CHAIN = 'table netdev bsfg {{ chain uplink0 {{ type filter hook egress device "{}" priority filter; policy {}; }}; }}\n'
GONE = "delete chain netdev bsfg uplink0\n"
UNJUDGED = {
    "gone": GONE,
    "rules gone": "flush chain netdev bsfg uplink0\n",
    "accepts what no rule drops": f"{GONE}{CHAIN.format('uplink0', 'accept')}add rule netdev bsfg uplink0 jump judge\n",
    "accepts first": "insert rule netdev bsfg uplink0 accept\n",
    "one kind passes by": "insert rule netdev bsfg uplink0 meta mark 7 accept\n",
    "accepts and forgets to ask": "flush chain netdev bsfg uplink0\nadd rule netdev bsfg uplink0 accept\n",
    "on another device": f"{GONE}{CHAIN.format('far-uplink0', 'drop')}add rule netdev bsfg uplink0 jump judge\n",
    "asks somebody else": "add chain netdev bsfg other\nflush chain netdev bsfg uplink0\n"
    "add rule netdev bsfg uplink0 jump other\n",
    "no hook": f"{GONE}add chain netdev bsfg uplink0\nadd rule netdev bsfg uplink0 jump judge\n",
    "table gone": "delete table netdev bsfg\n",
}

_RENEW = """
import sys
from appliance.boundary.errors import UnavailableError
from appliance.watchdog.nft import NftLease
lease = NftLease()
for line in sys.stdin:
    try:
        lease.renew()
        print("renewed", flush=True)
    except UnavailableError as error:
        print(error.detail, flush=True)
"""


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[Namespace, Callable[[], str]]]:
    """A network with an uplink, and somebody in it who renews the lease once when asked; what came of it."""
    with namespace() as made:
        make_uplink(made.run)
        command = made.command(sys.executable, "-P", "-c", _RENEW)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=python_environment()
        ) as process:
            assert process.stdin
            assert process.stdout

            def ask() -> str:
                print("once", file=process.stdin, flush=True)
                return process.stdout.readline().strip() if process.stdout else ""

            try:
                yield made, ask
            finally:
                process.kill()


@pytest.mark.parametrize("change", UNJUDGED.values(), ids=UNJUDGED)
def test_the_lease_does_not_open_beside_a_judge_that_is_not_whole(
    asked: tuple[Namespace, Callable[[], str]], change: str
) -> None:
    """However it was lost: the lease is closed at once, and can be renewed when the rules are loaded anew."""
    net, renew = asked
    fresh = f"add table inet bsfg\ndelete table inet bsfg\nadd table netdev bsfg\ndelete table netdev bsfg\n{RULES}"
    for _ in range(2):
        net.nft(fresh + device_rules("uplink0"))
        assert renew() == "renewed"
        assert is_open(net)
    net.nft(change)
    assert renew() == "no judge of frames on uplink0"
    assert not is_open(net)


@pytest.mark.parametrize("name", ["port0", "uplink-bond"])
def test_each_device_below_the_uplink_needs_its_judge(asked: tuple[Namespace, Callable[[], str]], name: str) -> None:
    """A packet socket there would pass the uplink itself by. Devices of the plant hinder nobody."""
    net, renew = asked
    net.nft(f"flush ruleset\n{RULES}{device_rules('uplink0')}")
    make_uplink(net.run, name)
    try:
        assert renew() == f"no judge of frames on {name}"
        assert not is_open(net)
        net.nft(device_rules(name))
        make_uplink(net.run, "plant0")
        assert renew() == "renewed"
    finally:
        for each in (name, "plant0"):
            net.run("ip", "link", "delete", each)


def test_without_an_uplink_there_is_no_lease(asked: tuple[Namespace, Callable[[], str]]) -> None:
    """It would be open for a device that comes later, in the moment before that has its judge."""
    net, renew = asked
    net.nft(f"flush ruleset\n{RULES}")
    net.run("ip", "link", "set", "uplink0", "down")
    net.run("ip", "link", "set", "uplink0", "name", "elsewhere")
    try:
        assert renew() == "no judge of frames on uplink0"
        assert not is_open(net)
    finally:
        net.run("ip", "link", "set", "elsewhere", "name", "uplink0")


def test_the_devices_are_those_of_the_firewall() -> None:
    """All that can carry the uplink, by the names that boxes give."""
    carriers = {name for name in DEVICES if CARRIERS.fullmatch(name)}
    assert {UPLINK, *carriers} == {name for name in DEVICES if not name.startswith("plant")}


STACKED = {
    "as a VLAN does": ["ip link add link port0 name uplink0 type macvlan"],
    "as a bond does": ["ip link add uplink0 type bridge", "ip link set port0 master uplink0"],
}


@pytest.mark.parametrize("stacked", STACKED.values(), ids=STACKED)
def test_what_only_the_uplink_stands_on_is_dark_as_well(stacked: list[str]) -> None:
    """A packet socket there would pass the uplink by; also where the firewall is gone. With the plant on it, it speaks.

    VLANs and bonds are not in every kernel: a macvlan is stacked like the first, a bridge like the second.
    """
    with own_thread() as within:

        def ip(words: str) -> None:
            within(lambda: subprocess.run(words.split(), check=True, capture_output=True))

        within(lambda: make_uplink(lambda *words: subprocess.run(words, check=True), "port0"))
        for words in (*stacked, "ip link set uplink0 up"):
            ip(words)
        nftables, lease = within(Nftables), InThread(within)
        within(lambda: _loaded(nftables))
        within(lambda: nftables.run(device_rules("port0")))
        names = ("port0", "uplink0")

        def out() -> list[str]:
            return within(lambda: [name for name in names if _frame_comes_out(name, "port0")])

        assert "port0" in out()
        lease.dark("kexec_loaded")
        assert out() == []
        within(lambda: _dropped(nftables))
        assert out() == [], "the wall alone"
        within(lambda: _loaded(nftables))
        within(lambda: nftables.run(device_rules("port0")))
        lease.light()
        assert "port0" in out()
        if stacked is STACKED["as a VLAN does"]:
            ip("ip link add link port0 name plant0 type macvlan")
            lease.dark("kexec_loaded")
            assert out() == ["port0"]


def _frame_comes_out(device: str, port: str) -> bool:
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as far,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as near,
    ):
        far.bind((f"far-{port}", 3))
        near.bind((device, 0))
        mark = os.urandom(16)
        with suppress(OSError):
            near.send(b"\xff" * 6 + bytes(6) + b"\x88\xb5" + mark)
        return _arrives(far, mark)


# -- packets, and the process ------------------------------------------------------------------------------------------

_SEND = """
import socket, sys, time
from appliance.watchdog.nft import NftLease
lease, sender = NftLease(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
lease.renew()
lost = 0
for number in range(20000):
    if number % 10 == 0:
        lease.renew()
    try:
        sender.sendto(b"x", ("192.0.2.99", 9))
    except PermissionError:
        lost += 1
lease.close()
try:
    sender.sendto(b"x", ("192.0.2.99", 9))
    after = "sent"
except PermissionError:
    after = "refused"
print(lost, after)
"""


def test_no_packet_is_lost_while_the_lease_is_renewed(net: Namespace) -> None:
    """2000 renewals between 20 000 packets; and the same packet is refused when the lease is closed."""
    net.run("ip", "neigh", "add", "192.0.2.99", "lladdr", "02:00:00:00:00:01", "dev", "uplink0")
    done = subprocess.run(
        net.command(sys.executable, "-P", "-c", _SEND),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=python_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "refused"]


class Services:
    """A keeper and an agent as the watchdog sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        site = Site(folder / "site", "swtpm:")
        trust = HubTrust(HUB, site.hub_ca.certificate)
        self.keeper = FakeKeeper(folder, PLANT, trust, OPERATORS, BUILDER.public_key())
        config = KeeperConfig.load(site.folder / "keeper.toml")
        self._server = KeeperServer(replace(config, socket=folder / "keeper.sock"), self.keeper)
        self.agent_speaks = False
        self._ends = threading.Event()
        self._number = 0

    def run(self) -> None:
        """Both, until told to end."""
        trio.run(self._run)

    def end(self) -> None:
        """End both."""
        self._ends.set()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._server.run)
            while not self._ends.is_set():
                if self.agent_speaks:
                    self._speak()
                await trio.sleep(0.3)
            nursery.cancel_scope.cancel()

    def _speak(self) -> None:
        self._number += 1
        broker = BrokerStatus(connected=True, durable=True)
        StatusDocument("agent", PLANT, "1", 1, True, "normal", 0, 0, self._number, "tpm", broker=broker).write(
            self.folder
        )


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Running; the agent is silent at first."""
    made = Services(tmp_path)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.end()
        thread.join(20)


def places(folder: Path) -> list[str]:
    """The options of a watchdog that has a folder to itself, and no probes: what it sees has tests of its own."""
    for name in ("state", "run", "pki"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "node.toml").write_text('[node]\nzone = "plant-a"\n')
    named = (("state", "state"), ("run", "run"), ("pki", "pki"), ("node", "node.toml"))
    without = [word for name in ProbeName for word in ("--without", str(name))]
    return [*(word for option, name in named for word in (f"--{option}", str(folder / name))), *without]


@contextmanager
def watchdog(net: Namespace, services: Services, **options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The watchdog's own process, in the namespace."""
    command = net.command(
        *(sys.executable, "-P", "-B", "-m", "appliance.watchdog"),
        *("--status", services.folder, "--keeper", services.folder / "keeper.sock"),
        *places(services.folder),
    )
    with running(command, limit_s=200, env={**python_environment(), **options}, cwd=services.folder) as process:
        yield process


def closes_within(net: Namespace, limit_s: float) -> float:
    """How long it takes until no packet leaves. :raises AssertionError: longer."""
    began = time.monotonic()
    while is_open(net):
        assert time.monotonic() - began < limit_s, f"open after {limit_s:g} s"
        time.sleep(0.05)
    return time.monotonic() - began


def opens(net: Namespace, limit_s: float = 30.0) -> None:
    """Wait until packets leave."""
    end = time.monotonic() + limit_s
    while not is_open(net):
        assert time.monotonic() < end, "it does not open"
        time.sleep(0.05)


def test_nothing_leaves_before_all_is_proven(net: Namespace, services: Services) -> None:
    """The keeper answers from the start; the agent does not. Its document of a former boot is no proof."""
    services._speak()
    with watchdog(net, services) as process:
        time.sleep(6)
        assert process.poll() is None
        assert not is_open(net)
        services.agent_speaks = True
        opens(net)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=lambda number: number.name)
def test_a_watchdog_that_is_stopped_or_dead_closes_the_uplink(
    net: Namespace, services: Services, number: signal.Signals
) -> None:
    """By the kernel's clock: no program runs for it."""
    services.agent_speaks = True
    with watchdog(net, services) as process:
        opens(net)
        os.kill(process.pid, number)
        took = closes_within(net, LEASE_S + GRACE_S)
        assert took > 1.0, "something else closed it"
        if number is signal.SIGSTOP:
            os.kill(process.pid, signal.SIGCONT)
            opens(net)


def test_a_watchdog_that_ends_closes_the_uplink_at_once(net: Namespace, services: Services) -> None:
    """In good order, as when systemd stops it."""
    services.agent_speaks = True
    with watchdog(net, services) as process:
        opens(net)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert not is_open(net)


def test_a_latched_box_is_dark_and_opens_after_its_release(net: Namespace, services: Services) -> None:
    """What the keeper says of its TPM counts at once."""
    services.agent_speaks = True
    with watchdog(net, services):
        opens(net)
        services.keeper.counter += 1
        closes_within(net, 4.0)
        services.keeper.counter -= 1
        opens(net)


def test_it_tells_systemd_that_both_its_loops_live(net: Namespace, services: Services, tmp_path: Path) -> None:
    """Ready at once, though nothing is open yet: the order of units must not wait for a proof."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(60)
        with watchdog(net, services, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            first = end.recv(4096).decode().split("\n")
            assert first[:2] == ["WATCHDOG=1", "READY=1"]
            assert end.recv(4096).decode().split("\n")[0] == "WATCHDOG=1"
            os.kill(process.pid, signal.SIGSTOP)
            end.settimeout(3)
            heard = 0
            with suppress(TimeoutError):
                while heard < 5 and end.recv(4096):
                    heard += 1
            assert heard < 5, "a stopped watchdog goes on pinging"
