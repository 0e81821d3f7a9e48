# SPDX-License-Identifier: Apache-2.0
"""What can be done to a box's network, and what the watchdog must then say: tables, for tests and benches.

The firewall's rules are the image's, in the kernel's own nftables; listeners, raw sockets and devices are real. All of
it is in a network namespace.
"""

from __future__ import annotations

import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from appliance.watchdog.probes.firewall import FirewallPlaces, FirewallProbe
from appliance.watchdog.probing import Probe, Reading
from appliance.watchdog.suspicions import Code
from tests.firewalled import numbered, python
from tests.netns import own_thread
from tools.image import hardening
from tools.image.hardening.build import DEVICE_RULES, FIREWALL

T = TypeVar("T")
SITE: Final = (
    "flush set inet bsfg hub4\nadd element inet bsfg hub4 { 192.0.2.1 . 7422, 192.0.2.1 . 4222 }\n"
    'flush set inet bsfg plant_ingress\nadd element inet bsfg plant_ingress { "plant0" . 4222 }\n'
)
DEVICES: Final = ("uplink0", "plant0")


@dataclass(frozen=True)
class Net:
    """A network namespace with the devices of a box. :param root: a folder with the image's rules."""

    within: Callable[[Callable[[], Any]], Any]
    root: Path

    @property
    def places(self) -> FirewallPlaces:
        """Where the probe finds what must be."""
        scripts = (self.root / "sets.nft", self.root / "names-sets.nft")
        return FirewallPlaces(self.root / FIREWALL, self.root / DEVICE_RULES, scripts)

    def nft(self, text: str) -> None:
        """Load rules, as somebody else."""
        self.run("nft", "-f", "-", given=text)

    def run(self, *words: str, given: str = "") -> None:
        """A program in this network."""
        done = self.within(
            lambda: subprocess.run(words, input=given, text=True, capture_output=True, timeout=30, check=False)
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"

    def load(self) -> None:
        """The firewall as after boot, with the site's addresses."""
        self.nft(numbered((self.root / FIREWALL).read_text("utf-8")))
        for device in DEVICES:
            self.judge(device)
        self.nft(SITE)

    def judge(self, device: str) -> None:
        """What udev asks for when a device comes."""
        self.nft((self.root / DEVICE_RULES / f"{device}.nft").read_text("utf-8"))

    def plug(self, device: str) -> None:
        """Put a device in."""
        self.run("ip", "link", "add", device, "type", "veth", "peer", "name", f"far-{device}")
        self.run("ip", "link", "set", device, "up")


@contextmanager
def network(folder: Path) -> Iterator[Net]:
    """A new one, with its firewall."""
    hardening.render(folder)
    (folder / "sets.nft").write_text(SITE)
    with own_thread() as within:
        net = Net(within, folder)
        net.run("ip", "link", "set", "lo", "up")
        for device in DEVICES:
            net.plug(device)
        net.load()
        yield net


@contextmanager
def firewall_probe(net: Net) -> Iterator[Probe]:
    """The probe, in that network. Its calls are made in the namespace's thread (:func:`look`)."""
    probe: Probe = net.within(lambda: FirewallProbe(net.places, numbered))
    try:
        yield probe
    finally:
        net.within(probe.close)


def look(net: Net, probe: Probe) -> Reading:
    """One look."""
    found: Reading = net.within(probe.look)
    return found


def told(net: Net, probe: Probe, seconds: float = 1.0) -> bool:
    """Whether the kernel has told the probe of something, within so many seconds."""
    descriptor = net.within(probe.descriptor)
    return bool(select.select([descriptor], [], [], seconds)[0])


@dataclass(frozen=True)
class FirewallTampering:
    """One change. :param text: for ``nft -f``."""

    name: str
    text: str
    code: Code = Code.FIREWALL_CHANGED


@dataclass(frozen=True)
class SocketTampering:
    """A program that opens something. :param source: Python, as user ``uid``; prints a line when it is open."""

    name: str
    source: str
    code: Code
    uid: int = 0

    @contextmanager
    def running(self, net: Net) -> Iterator[None]:
        """The program runs in that network."""
        source = f"import os, socket, sys\n{self.source}\nprint('open', flush=True)\nsys.stdin.read()"
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"] if self.uid else []
        command = [*become, python(), "-I", "-c", source]
        process: subprocess.Popen[bytes] = net.within(
            lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        with process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"open\n"
                yield
            finally:
                process.kill()


_TCP: Final = "s = socket.create_server(({address!r}, {port}), family=socket.{family})"
_DATAGRAM: Final = "s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.bind(({address!r}, {port}))"
FACTS: Final = 951


def _opens(
    name: str, source: str, code: Code = Code.LISTENER_FOREIGN, uid: int = 0, **values: object
) -> SocketTampering:
    return SocketTampering(name, source.format(**{"family": "AF_INET", "address": "127.0.0.1", **values}), code, uid)


_RAW: Final = Code.RAW_SOCKET_FOREIGN
SOCKET_TAMPERINGS: Final = (
    _opens("shell_port", _TCP, port=4444, address="0.0.0.0"),  # noqa: S104 - what an attacker does
    _opens("loopback_port", _TCP, port=4444),
    _opens("port_in_ipv6", _TCP, port=4444, address="::", family="AF_INET6"),
    _opens("ours_by_another_user", _TCP, port=8080),
    _opens("ours_on_another_port", _TCP, port=4333, uid=FACTS),
    _opens("ours_everywhere", _TCP, port=4222, address="0.0.0.0", uid=FACTS),  # noqa: S104
    _opens("datagrams", _DATAGRAM, port=5353, address="0.0.0.0"),  # noqa: S104
    _opens("datagrams_in_ipv6", _DATAGRAM, port=5353, address="::1", family="AF_INET6"),
    _opens("false_dhcp", _DATAGRAM, port=68),
    _opens("packets", "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))", _RAW),
    _opens("packets_for_sending", "s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)", _RAW),
    _opens("raw", "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", _RAW),
    _opens("raw_for_sending", "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)", _RAW),
    _opens("raw_in_ipv6", "s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 17)", _RAW),
    _opens("past_the_firewall", "s = socket.socket(44, socket.SOCK_RAW, 0)", _RAW),  # AF_XDP
    _opens("tap", "os.system('tc qdisc add dev uplink0 clsact')", _RAW),
    _opens("new_port", "os.system('ip link add wlan0 type veth peer name wlan1')", Code.INTERFACE_FOREIGN),
)

FIREWALL_TAMPERINGS: Final = (
    FirewallTampering("rule_before_all", "insert rule inet bsfg output accept"),
    FirewallTampering("rule_in_the_middle", "add rule inet bsfg early udp dport 53 accept"),
    FirewallTampering("rules_flushed", "flush chain inet bsfg leased"),
    FirewallTampering("policy_accepts", "chain inet bsfg output { policy accept; }"),
    FirewallTampering("table_sleeps", "add table inet bsfg { flags dormant; }"),
    FirewallTampering("judges_sleep", "add table netdev bsfg { flags dormant; }"),
    FirewallTampering("table_gone", "delete table inet bsfg"),
    FirewallTampering("all_gone", "flush ruleset"),
    FirewallTampering("foreign_table", "table ip nat { chain out { type nat hook postrouting priority 100; }; }"),
    FirewallTampering(
        "false_reference", "table inet bsfg-reference { chain x { type filter hook input priority 0; }; }"
    ),
    FirewallTampering(
        "foreign_chain", "add chain netdev bsfg spy { type filter hook ingress device uplink0 priority 0; }"
    ),
    FirewallTampering("foreign_set", "add set inet bsfg friends { type ipv4_addr; }"),
    FirewallTampering("judge_says_yes", "flush chain netdev bsfg uplink0\nadd rule netdev bsfg uplink0 accept"),
    FirewallTampering("judge_says_nothing", "flush chain netdev bsfg uplink0"),
    FirewallTampering("judged_otherwise", "insert rule netdev bsfg judge meta mark 7 accept"),
    FirewallTampering("own_hub", "add element inet bsfg hub4 { 203.0.113.66 . 443 }"),
    FirewallTampering("own_hub_by_name_server", "add element inet bsfg resolver6 { 2001:db8::66 . 53 }"),
    FirewallTampering("open_port", 'add element inet bsfg plant_ingress { "plant0" . 22 }'),
    FirewallTampering("leased_plant", 'add element inet bsfg lease { "plant0" timeout 1h }'),
    FirewallTampering("judge_taken_away", "delete chain netdev bsfg uplink0", Code.FIREWALL_ABSENT),
)
